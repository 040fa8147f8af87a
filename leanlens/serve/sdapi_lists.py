"""What clients of AUTOMATIC1111 list and refresh: models, samplers, upscalers, LoRA files.

No list names a path of this machine, and nothing is listed that does not exist, except where a client needs an entry.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from leanlens.serve.errors import APIError
from leanlens.serve.sdapi_extras import LATENT_MODES, UPSCALERS
from leanlens.serve.sdapi_options import ClientSettings
from leanlens.serve.service import ImageService

_EMPTY = (
    "/sd-vae", "/sd-modules", "/hypernetworks", "/face-restorers", "/realesrgan-models", "/prompt-styles",
    "/extensions", "/script-info",
)  # fmt: skip
# Routes whose answer never changes.
_CONSTANT: dict[str, Any] = {
    "/cmd-flags": {"api": True, "nowebui": True, "listen": None, "share": False, "lora_dir": None, "ckpt_dir": None},
    "/samplers": [{"name": "Euler", "aliases": ["k_euler"], "options": {}}],
    "/schedulers": [
        {"name": name.lower(), "label": name, "aliases": None, "default_rho": -1, "need_inner_model": False}
        for name in ("Automatic", "Lens")
    ],
    "/upscalers": [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS
    ],
    "/latent-upscale-modes": [{"name": name} for name in LATENT_MODES],
    "/embeddings": {"loaded": {}, "skipped": {}},
    "/scripts": {"txt2img": [], "img2img": []},
    **{path: [] for path in _EMPTY},
}  # fmt: skip
_REFRESHED = ("/refresh-checkpoints", "/refresh-loras", "/refresh-vae", "/refresh-embeddings")


def sdapi_lists_router(service: ImageService, client_settings: ClientSettings) -> APIRouter:
    """The routes that list, and those that open, close and refresh models."""
    router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])
    for path, answer in _CONSTANT.items():
        router.add_api_route(path, _constant(answer), name=path.strip("/"))

    @router.get("/sd-models")
    async def sd_models() -> list[dict[str, Any]]:
        return [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
            for name in service.library.models()
        ]

    @router.get("/loras")
    async def loras() -> list[dict[str, Any]]:
        return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in service.library.loras()]

    @router.post("/unload-checkpoint")
    async def unload() -> dict[str, Any]:
        await run_in_threadpool(service.unload)
        return {}

    @router.post("/reload-checkpoint")
    async def reload(request: Request) -> dict[str, Any]:
        await run_in_threadpool(service.reload, client_settings.model(request.state.owner) or service.library.default)
        return {}

    @router.post("/interrogate")
    async def interrogate() -> None:
        raise APIError("unknown", "Model not found: no model that describes pictures is offered", "model")

    async def refresh() -> None:
        await run_in_threadpool(service.library.refresh)

    for path in _REFRESHED:
        router.add_api_route(path, refresh, methods=["POST"], name=path.strip("/"))
    return router


def _constant(answer: Any) -> Callable[[], Awaitable[Any]]:
    async def constant() -> Any:
        return answer

    return constant
