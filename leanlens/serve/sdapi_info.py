"""What clients of AUTOMATIC1111 ask about an image and about memory: `/png-info` and `/memory`."""

import io
from typing import Any

import psutil
import torch
from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from leanlens.pipeline.metadata import read_comment
from leanlens.serve.errors import APIError
from leanlens.serve.infotext import MOST_CHARACTERS, read_parameters
from leanlens.serve.settings import ServerSettings
from leanlens.serve.uploads import FORMATS, from_base64, open_upload


class PngInfoBody(BaseModel):
    """The body of `/sdapi/v1/png-info`."""

    image: str


def sdapi_info_router(settings: ServerSettings) -> APIRouter:
    """The two routes; `settings` limit the upload."""
    router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

    @router.get("/memory")
    async def memory() -> dict[str, Any]:
        return {"ram": _ram(), "cuda": _cuda()}

    @router.post("/png-info")
    async def png_info(body: PngInfoBody) -> dict[str, Any]:
        return await run_in_threadpool(_png_info, settings, body.image)

    return router


def _png_info(settings: ServerSettings, image: str) -> dict[str, Any]:
    """The settings inside an image: the `parameters` text, every text chunk, and the text as separate settings."""
    data = from_base64(image)
    picture = open_upload(data, settings)
    items = {key: value for key, value in picture.info.items() if isinstance(value, str)}
    with Image.open(io.BytesIO(data), formats=FORMATS) as written:  # `picture` may be rotated and without EXIF
        if comment := read_comment(written):
            items["parameters"] = comment
    if (length := sum(map(len, items.values()))) > MOST_CHARACTERS:
        raise APIError(
            "too_large", f"image holds {length:,} characters of text; at most {MOST_CHARACTERS:,} are read", "image"
        )
    info = items.get("parameters", "")
    return {"info": info, "items": items, "parameters": read_parameters(info)}


def _ram() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {"free": memory.available, "used": psutil.Process().memory_info().rss, "total": memory.total}


def _cuda() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"error": "no CUDA device is used"}
    free, total = torch.cuda.mem_get_info()
    statistics = torch.cuda.memory_stats()

    def pair(name: str) -> dict[str, int]:
        return {when: statistics.get(f"{name}_bytes.all.{when}", 0) for when in ("current", "peak")}

    return {
        "system": {"free": free, "used": total - free, "total": total},
        "active": pair("active"),
        "allocated": pair("allocated"),
        "reserved": pair("reserved"),
        "inactive": pair("inactive_split"),
        "events": {"retries": statistics.get("num_alloc_retries", 0), "oom": statistics.get("num_ooms", 0)},
    }
