"""Settings that clients of AUTOMATIC1111 make through `/options`, for each client separately, until the server ends.

A setting that is written is read back. One that cannot be honoured is rejected by name, and then nothing is written.
"""

import re
import threading
from typing import Any

from fastapi import APIRouter, Request

from leanlens.reason import WORDS
from leanlens.serve.errors import APIError, invalid
from leanlens.serve.service import ImageService

FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
# Settings of the client's own page, without effect on images: stored and read back.
_PAGE_ONLY: dict[str, Any] = {
    "send_seed": True,
    "send_size": True,
    "show_progressbar": True,
    "live_previews_enable": True,
    "show_progress_every_n_steps": 1,
    "show_progress_type": "Approx cheap",
    "do_not_show_images": False,
}
# Settings with a fixed value: only these values are accepted, and the first one is read back.
_FIXED: dict[str, tuple[Any, ...]] = {
    "sd_checkpoint_hash": ("",),
    "sd_vae": ("Automatic", "None", None, ""),
    "CLIP_stop_at_last_layers": (1,),
    "enable_pnginfo": (True,),
    "forge_additional_modules": ([],),
}


def sdapi_options_router(service: ImageService, client_settings: "ClientSettings") -> APIRouter:
    """The routes that read and write settings."""
    router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

    @router.get("/options")
    async def options(request: Request) -> dict[str, Any]:
        return client_settings.read(request.state.owner, service)

    @router.post("/options")
    async def set_options(body: dict[str, Any], request: Request) -> None:
        if chosen := body.get("sd_model_checkpoint"):
            body["sd_model_checkpoint"] = find_checkpoint(service, str(chosen))
        else:
            body.pop("sd_model_checkpoint", None)
        client_settings.write(request.state.owner, body)

    return router


def find_checkpoint(service: ImageService, title: str) -> str:
    """The name of a model by its title in `/sd-models`, with or without the hash behind it.

    Raises:
        APIError: one that is not offered.
    """
    name, bracket, digits = title.rpartition("[")
    if bracket and re.fullmatch(r"[0-9a-f]+\]", digits):
        title = name.rstrip()
    return service.library.find_model(title.removesuffix(".safetensors"))


class ClientSettings:
    """The settings of each client."""

    def __init__(self) -> None:
        self._chosen: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def model(self, owner: str) -> str | None:
        """The model that an owner has chosen, or None."""
        return self._chosen.get(owner, {}).get("sd_model_checkpoint")

    def read(self, owner: str, service: ImageService) -> dict[str, Any]:
        """All settings of an owner."""
        own = {"sd_model_checkpoint": service.library.default, "samples_format": "png", "jpeg_quality": 95,
               "reason": service.settings.reason}  # fmt: skip
        fixed = {name: accepted[0] for name, accepted in _FIXED.items()}
        return own | fixed | _PAGE_ONLY | self._chosen.get(owner, {})

    def write(self, owner: str, given: dict[str, Any]) -> None:
        """Store an owner's settings; beyond 10,000 owners the oldest is forgotten.

        Raises:
            APIError: an unknown setting or an invalid value; then nothing is stored.
        """
        for name, value in given.items():
            check_setting(name, value)
        kept = {name: value for name, value in given.items() if name not in _FIXED}
        with self._lock:
            self._chosen[owner] = self._chosen.pop(owner, {}) | kept
            while len(self._chosen) > 10_000:
                del self._chosen[next(iter(self._chosen))]


def check_setting(name: str, value: object) -> None:
    """Raise for an unknown setting or an invalid value."""
    shown = str(value)[:40]
    if name in _FIXED:
        if not any(value == accepted for accepted in _FIXED[name]):
            raise APIError("invalid", f"invalid {name} {shown!r}: expected {_FIXED[name][0]!r}", name)
    elif name == "samples_format":
        if str(value).lower() not in FORMATS:
            raise invalid(name, value, f"one of {', '.join(FORMATS)}")
    elif name == "jpeg_quality":
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 100:
            raise invalid(name, value, "a whole number from 0 to 100")
    elif name == "reason":
        if value not in WORDS:
            raise invalid(name, value, " or ".join(WORDS))
    elif name in _PAGE_ONLY:
        if type(value) is not type(_PAGE_ONLY[name]) or len(str(value)) > 100:
            kind = {bool: "true or false", int: "a whole number", str: "a short text"}[type(_PAGE_ONLY[name])]
            raise invalid(name, value, kind)
    elif name != "sd_model_checkpoint":
        known = ", ".join(("sd_model_checkpoint", "samples_format", "jpeg_quality", "reason", *_FIXED, *_PAGE_ONLY))
        raise APIError("invalid", f"unknown setting {name[:60]}: expected {known}", name[:60])
