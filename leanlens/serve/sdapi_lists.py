"""What clients of AUTOMATIC1111 ask around the drawing: options, models, samplers, LoRAs, a picture's settings, memory.

Comes in: their questions. Goes out: lists in the forms they parse. No list names a path of this machine, and nothing
that is not there is listed, except where a client needs an entry to go on.
"""

import io
from typing import Any

import torch
from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from leanlens.pipeline.metadata import read_comment
from leanlens.serve.errors import APIError
from leanlens.serve.infotext import MOST_CHARACTERS, read_parameters
from leanlens.serve.sdapi import checkpoint
from leanlens.serve.sdapi_extras import LATENT_MODES, UPSCALERS
from leanlens.serve.sdapi_options import Choices
from leanlens.serve.service import ImageService
from leanlens.serve.uploads import FORMATS, from_base64, open_upload


class PngInfoBody(BaseModel):
    """The body of `/sdapi/v1/png-info`."""

    image: str


def sdapi_lists_router(service: ImageService, choices: Choices) -> APIRouter:
    """The routes that list and set."""
    router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

    @router.get("/options")
    async def options(request: Request) -> dict[str, Any]:
        return choices.read(request.state.owner, service)

    @router.post("/options")
    async def set_options(body: dict[str, Any], request: Request) -> None:
        if chosen := body.get("sd_model_checkpoint"):
            body["sd_model_checkpoint"] = checkpoint(service, str(chosen))
        else:
            body.pop("sd_model_checkpoint", None)
        choices.write(request.state.owner, body)

    @router.post("/unload-checkpoint")
    async def unload() -> dict[str, Any]:
        await run_in_threadpool(service.unload)
        return {}

    @router.post("/reload-checkpoint")
    async def reload(request: Request) -> dict[str, Any]:
        await run_in_threadpool(service.reload, choices.model(request.state.owner) or service.library.default)
        return {}

    @router.post("/interrogate")
    async def interrogate() -> None:
        raise APIError("unknown", "Model not found: no model that describes pictures is offered", "model")

    @router.get("/cmd-flags")
    async def cmd_flags() -> dict[str, Any]:
        return {"api": True, "nowebui": True, "listen": None, "share": False, "lora_dir": None, "ckpt_dir": None}

    @router.get("/samplers")
    async def samplers() -> list[dict[str, Any]]:
        return [{"name": "Euler", "aliases": ["k_euler"], "options": {}}]

    @router.get("/schedulers")
    async def schedulers() -> list[dict[str, Any]]:
        return [
            {"name": name.lower(), "label": name, "aliases": None, "default_rho": -1, "need_inner_model": False}
            for name in ("Automatic", "Lens")
        ]

    @router.get("/upscalers")
    async def upscalers() -> list[dict[str, Any]]:
        return [
            {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS
        ]

    @router.get("/latent-upscale-modes")
    async def latent_upscale_modes() -> list[dict[str, str]]:
        return [{"name": name} for name in LATENT_MODES]

    @router.get("/sd-models")
    async def sd_models() -> list[dict[str, Any]]:
        return [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
            for name in service.library.models()
        ]

    @router.get("/sd-vae")
    @router.get("/sd-modules")
    async def sd_vae() -> list[dict[str, str]]:
        return []

    @router.get("/loras")
    async def loras() -> list[dict[str, Any]]:
        return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in service.library.loras()]

    @router.get("/hypernetworks")
    @router.get("/face-restorers")
    @router.get("/realesrgan-models")
    @router.get("/prompt-styles")
    @router.get("/extensions")
    async def nothing() -> list[Any]:
        return []

    @router.get("/embeddings")
    async def embeddings() -> dict[str, Any]:
        return {"loaded": {}, "skipped": {}}

    @router.get("/scripts")
    async def scripts() -> dict[str, list[str]]:
        return {"txt2img": [], "img2img": []}

    @router.get("/script-info")
    async def script_info() -> list[Any]:
        return []

    @router.get("/memory")
    async def memory() -> dict[str, Any]:
        return {"ram": _ram(), "cuda": _cuda()}

    @router.post("/png-info")
    async def png_info(body: PngInfoBody) -> dict[str, Any]:
        return await run_in_threadpool(_png_info, service, body.image)

    @router.post("/refresh-checkpoints")
    @router.post("/refresh-loras")
    @router.post("/refresh-vae")
    @router.post("/refresh-embeddings")
    async def refresh() -> None:
        await run_in_threadpool(service.library.refresh)

    return router


def _png_info(service: ImageService, image: str) -> dict[str, Any]:
    """The settings inside a picture: the `parameters` text, every text chunk, and the text taken apart."""
    data = from_base64(image)
    picture = open_upload(data, service.settings)
    items = {key: value for key, value in picture.info.items() if isinstance(value, str)}
    with Image.open(io.BytesIO(data), formats=FORMATS) as written:  # the one above may have been turned, without EXIF
        if comment := read_comment(written):
            items["parameters"] = comment
    if (length := sum(map(len, items.values()))) > MOST_CHARACTERS:
        raise APIError(
            "too_large", f"image holds {length:,} characters of text; at most {MOST_CHARACTERS:,} are read", "image"
        )
    info = items.get("parameters", "")
    return {"info": info, "items": items, "parameters": read_parameters(info)}


def _ram() -> dict[str, Any]:
    import psutil

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
