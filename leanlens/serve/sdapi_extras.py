"""Upscaling for clients of AUTOMATIC1111, by Lanczos or nearest neighbour; no model takes part.

The size of the result is checked against the server's limit before anything is decoded or enlarged.
"""

import base64
import io
from typing import Any

from fastapi import APIRouter
from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from leanlens.serve.errors import APIError
from leanlens.serve.service import ImageService
from leanlens.serve.uploads import from_base64, open_upload

UPSCALERS: dict[str, Image.Resampling | None] = {
    "None": None, "Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST,
}  # fmt: skip
LATENT_MODES = {
    "Latent": "bilinear",
    "Latent (antialiased)": "bilinear-antialias",
    "Latent (bicubic)": "bicubic",
    "Latent (bicubic antialiased)": "bicubic-antialias",
    "Latent (nearest)": "nearest",
    "Latent (nearest-exact)": "nearest-exact",
}
"""The web UI's names -> `ImageRequest.latent_resize`."""


class ExtrasBody(BaseModel):
    """Fields of both routes."""

    model_config = ConfigDict(extra="allow")

    resize_mode: int | None = Field(0, ge=0, le=1)
    upscaling_resize: float | None = Field(2.0, gt=0, le=64, allow_inf_nan=False)
    upscaling_resize_w: int | None = 512
    upscaling_resize_h: int | None = 512
    upscaling_crop: bool | None = True
    upscaler_1: str | None = "None"
    upscaler_2: str | None = "None"
    extras_upscaler_2_visibility: float | None = Field(0.0, ge=0, le=1, allow_inf_nan=False)
    gfpgan_visibility: float | None = 0.0
    codeformer_visibility: float | None = 0.0


class OnePicture(ExtrasBody):
    """The body of `/sdapi/v1/extra-single-image`."""

    image: str


class NamedPicture(BaseModel):
    """One image of a batch."""

    data: str
    name: str = ""


class SeveralPictures(ExtrasBody):
    """The body of `/sdapi/v1/extra-batch-images`."""

    imageList: list[NamedPicture] = Field(min_length=1, max_length=100)


def sdapi_extras_router(service: ImageService) -> APIRouter:
    """The routes that upscale."""
    router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

    @router.post("/extra-single-image")
    async def single(body: OnePicture) -> dict[str, Any]:
        found = await run_in_threadpool(_enlarged, service, body, {"image": body.image})
        return {"html_info": _notes(body), "image": found[0]}

    @router.post("/extra-batch-images")
    async def batch(body: SeveralPictures) -> dict[str, Any]:
        given = {f"imageList[{index}]": one.data for index, one in enumerate(body.imageList)}
        return {"html_info": _notes(body), "images": await run_in_threadpool(_enlarged, service, body, given)}

    return router


def find_upscaler(name: str | None, field: str, others: tuple[str, ...] = ()) -> Image.Resampling | None:
    """A resampling method by its name; None leaves an image as it is.

    `others` are further names that this field takes.

    Raises:
        APIError: one that is not offered.
    """
    for known, method in UPSCALERS.items():
        if (name or "None").lower() == known.lower():
            return method
    raise APIError(
        "invalid", f"{field} {str(name)[:40]!r} is not offered; use {', '.join((*UPSCALERS, *others))}", field
    )


def _enlarged(service: ImageService, body: ExtrasBody, given: dict[str, str]) -> list[str]:
    first = find_upscaler(body.upscaler_1, "upscaler_1")
    second = find_upscaler(body.upscaler_2, "upscaler_2")
    share = (body.extras_upscaler_2_visibility or 0.0) if second is not None else 0.0
    left, found = service.settings.max_upload_pixels, []
    for field, text in given.items():
        picture = open_upload(from_base64(text, field), service.settings, field)
        factor = _factor(body, picture) if first is not None else 1.0
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        left -= size[0] * size[1]
        if left < 0:
            raise APIError(
                "invalid", f"{field} would have {size[0]}x{size[1]} pixels; all results together have at most "
                f"{service.settings.max_upload_pixels:,}", "upscaling_resize",
            )  # fmt: skip
        result = picture if first is None else picture.resize(size, first)
        if first is not None and share > 0:
            result = Image.blend(result, picture.resize(size, second), share)
        if first is not None and body.resize_mode == 1 and body.upscaling_crop:
            result = _cut(result, body.upscaling_resize_w or 512, body.upscaling_resize_h or 512)
        found.append(encoded(result, picture, None if first is None else f"{factor:g}", body.upscaler_1))
    return found


def _factor(body: ExtrasBody, picture: Image.Image) -> float:
    if body.resize_mode != 1:
        return body.upscaling_resize or 2.0
    sides = {"upscaling_resize_w": body.upscaling_resize_w or 512, "upscaling_resize_h": body.upscaling_resize_h or 512}
    for name, side in sides.items():
        if not 1 <= side <= 32768:
            raise APIError("invalid", f"invalid {name} {side}: expected 1 to 32768", name)
    return max(sides["upscaling_resize_w"] / picture.width, sides["upscaling_resize_h"] / picture.height)


def _cut(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of an image that is at least this large."""
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def encoded(result: Image.Image, source: Image.Image, factor: str | None, upscaler: str | None) -> str:
    """Base64 of a PNG with the source's `parameters`, extended by the upscaling, and its mark of origin."""
    text = PngImagePlugin.PngInfo()
    infotext = source.info.get("parameters")
    if isinstance(infotext, str):
        done = "" if factor is None else f", Postprocess upscale by: {factor}, Postprocess upscaler: {upscaler}"
        text.add_text("parameters", infotext + done)
    packet = source.info.get("XML:com.adobe.xmp") or source.info.get("xmp")
    if isinstance(packet, str | bytes):
        text.add_itxt("XML:com.adobe.xmp", packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet)
    buffer = io.BytesIO()
    result.save(buffer, "PNG", pnginfo=text)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _notes(body: ExtrasBody) -> str:
    """Notes on fields without effect."""
    names = [name for name in ("gfpgan_visibility", "codeformer_visibility") if getattr(body, name)]
    return "".join(f"<p>{name} is ignored: there is no face restorer</p>" for name in names)
