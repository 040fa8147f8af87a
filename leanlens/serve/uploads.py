"""Pictures that clients send: checked, and kept as files that a request can name.

Comes in: bytes. Goes out: PIL pictures within the operator's bounds, and paths in the archive. Nothing of what a client
calls its file is used.
"""

import base64
import binascii
import io

from PIL import Image, ImageFilter, ImageOps

from leanlens.pictures.decode import brightness, has_orientation, read_picture
from leanlens.serve.errors import APIError
from leanlens.serve.settings import ServerSettings

FORMATS = ("PNG", "JPEG", "WEBP")  # everything else that Pillow knows stays closed


def open_upload(data: bytes, settings: ServerSettings, field: str = "image") -> Image.Image:
    """An uploaded picture, unpacked: L, LA, RGB or RGBA, 8-bit, upright.

    Raises:
        APIError: too many bytes or pixels, damaged, or neither PNG nor JPEG nor WebP.
    """
    if len(data) > settings.max_upload:
        raise APIError(
            "too_large", f"{field} has {len(data):,} bytes; at most {settings.max_upload:,} are accepted", field
        )

    def refuse_too_many(picture: Image.Image) -> None:
        pixels = picture.width * picture.height
        if pixels > settings.max_upload_pixels:  # known from the header, before anything is unpacked
            raise APIError(
                "invalid", f"{field} has {pixels:,} pixels; at most {settings.max_upload_pixels:,} are accepted", field
            )

    try:
        return read_picture(data, FORMATS, refuse_too_many)
    except ValueError as error:
        raise APIError("invalid", f"{field} is no PNG, JPEG or WebP picture that can be read: {error}", field) from None


def upright_bytes(data: bytes) -> bytes | None:
    """The bytes of an uploaded picture to keep; None where it asks to be turned, which `open_upload` has done."""
    return None if has_orientation(data) else data


def from_base64(text: str, field: str = "image") -> bytes:
    """Bytes of base64 text, with or without a data address before it.

    Raises:
        APIError: no base64.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise APIError("invalid", f"{field} is no base64 text", field) from None


def to_png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def mask_from_transparency(mask: Image.Image) -> Image.Image:
    """A mask in which transparent means repaint -> one in which white does.

    Raises:
        APIError: a mask without transparency.
    """
    if "A" not in mask.getbands() and "transparency" not in mask.info:
        raise APIError("invalid", "mask has no alpha channel; transparent marks what to repaint", "mask")
    return ImageOps.invert(mask.convert("RGBA").getchannel("A"))


def mask_from_brightness(mask: Image.Image, size: tuple[int, int], invert: bool, blur: float) -> Image.Image:
    """A mask in which white means repaint, brought to `size` (width, height), inverted or blurred where asked.

    What is transparent is not marked.
    """
    grey = brightness(mask)
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.LANCZOS)
    if invert:
        grey = ImageOps.invert(grey)
    return grey.filter(ImageFilter.GaussianBlur(blur)) if blur > 0 else grey
