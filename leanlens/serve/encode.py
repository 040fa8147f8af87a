"""Finished images and previews in the format that a client asked for; PNG is the stored file itself."""

import io
import tempfile
from pathlib import Path

from PIL import Image

from leanlens.pipeline.metadata import save_picture
from leanlens.serve.preview import Preview
from leanlens.serve.tasks import StoredPicture

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def picture_bytes(stored: StoredPicture, kind: str = "png", quality: int = 100) -> bytes:
    """A finished image with its settings inside, as png, jpeg or webp."""
    if kind == "png":
        return stored.path.read_bytes()
    with Image.open(stored.path) as picture, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{SUFFIXES[kind]}"
        return save_picture(picture.convert("RGB"), path, stored.record, quality).read_bytes()


def preview_bytes(preview: Preview, size: tuple[int, int] | None = None, kind: str = "png") -> bytes:
    """A preview, scaled to `size` (width, height) where one is given."""
    image = preview.to_image()
    if size is not None:
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}[kind])
    return buffer.getvalue()
