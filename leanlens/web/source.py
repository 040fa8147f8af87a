"""Reads the files that a visitor gives the page. Only uploads are opened: no other file of this machine, no address."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from leanlens.serve.errors import APIError
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.service import ImageService
from leanlens.serve.uploads import open_upload, to_png

Source = tuple[bytes, list[bytes]] | APIError | None
"""The editor's image and its layers of paint, or why they cannot be had."""


async def move_upload(move: Callable[[Any], Awaitable[str | None]], place: Any) -> str | None:
    """Gradio's handling of a file that a client names, restricted to uploads.

    Gradio itself also fetches URLs, and in a mounted app copies any file of this machine into the folder it serves.
    """
    return None if place is None else await move(str(_upload(str(place))))


def upload_path(payload: Any) -> str | None:
    """The path of an uploaded file, unread, for our own bounded reader."""
    return None if payload is None else str(_upload(payload.path))


def _upload(path: str) -> Path:
    """The file of an upload.

    Raises:
        ValueError: any other file, or an address.
    """
    found = Path(path).resolve()
    if not found.is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]).resolve()):
        raise ValueError("an image must be uploaded; other files and URLs are not opened")
    return found


def editor_source(payload: Any) -> Source:
    """The editor's image and its painted layer, as encoded bytes; None without an image.

    With an `id` in place of both, the editor shows an image that the page could not read from it.
    """
    if payload is None or (payload.background is None and payload.id is None):
        return None
    if payload.background is None:
        return APIError("missing", "the source image could not be read; add it again, or clear the editor", "image")
    return _bytes(payload.background), [_bytes(layer) for layer in payload.layers if layer is not None]


def _bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else _upload(part.path).read_bytes()


def source_reader(source: Source, service: ImageService) -> Callable[[GenerationParameters], None] | None:
    """A function that sets image and mask of generation parameters from the editor; decodes once, shared by all."""
    if source is None:
        return None
    if isinstance(source, APIError):
        raise source
    opened: list[tuple[Image.Image, bytes, Image.Image | None]] = []

    def put(parameters: GenerationParameters) -> None:
        if not opened:
            picture, mask = _opened(source, service)
            opened.append((picture, to_png(picture), mask))
        parameters.image, parameters.image_bytes, parameters.mask = opened[0]

    return put


def _opened(source: tuple[bytes, list[bytes]], service: ImageService) -> tuple[Image.Image, Image.Image | None]:
    """The image, and the painted area as a mask; None without paint."""
    background, layers = source
    image = open_upload(background, service.settings).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    picture = Image.alpha_composite(white, image).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    for layer in layers:
        painted = open_upload(layer, service.settings, "mask").convert("RGBA").getchannel("A")
        if painted.size != mask.size:
            painted = painted.resize(mask.size, Image.Resampling.NEAREST)
        mask = ImageChops.lighter(mask, painted.point(lambda level: 255 if level > 0 else 0))
    return picture, mask if mask.getbbox() is not None else None
