"""Picture bytes to sizes and to RGB pixels.

Comes in: the bytes of a JPEG, PNG, WebP or any other picture that Pillow reads. Goes out: its height and width, or an
RGB picture. Knows nothing of captions, buckets or tensors.

The turn that EXIF asks for is made, transparency is laid on white, 16-bit grey becomes 8-bit, an animation gives its
first frame. Anything that cannot be read is a ValueError with the reason, so that one bad file is one skipped record.
"""

import io
from collections.abc import Callable

from PIL import Image, ImageOps

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
HEAD_BYTES = 64 * 1024  # holds the size of nearly every JPEG and PNG
_ORIENTATION = 0x0112


def measure(head: bytes, whole: Callable[[], bytes]) -> tuple[int, int]:
    """(height, width) in pixels from the first bytes; `whole` is called for all of them where those do not suffice.

    Raises:
        ValueError: not a picture that can be read, with the reason.
    """
    try:
        return _size(head)
    except ValueError:
        return _size(whole())


def decode(data: bytes) -> Image.Image:
    """The picture as 8-bit RGB.

    Raises:
        ValueError: it cannot be read, or is cut short, with the reason.
    """
    image = _opened(data)
    try:
        turned = _is_turned(image)
        image.load()
        return _rgb(ImageOps.exif_transpose(image) if turned else image)
    except Exception as error:  # decoders of broken files raise anything
        raise ValueError(f"the picture cannot be decoded: {_reason(error)}") from error


def suffix_of(data: bytes) -> str:
    """ "jpg", "png" or "webp" from the first bytes.

    Raises:
        ValueError: another format.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise ValueError(f"the picture starts with {data[:8]!r}, which is none of JPEG, PNG and WebP")


def _size(data: bytes) -> tuple[int, int]:
    image = _opened(data)
    width, height = image.size
    return (width, height) if _is_turned(image, sideways_only=True) else (height, width)


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:
        raise ValueError(f"the picture cannot be opened: {_reason(error)}") from error


def _is_turned(image: Image.Image, sideways_only: bool = False) -> bool:
    """Whether the file's head asks for a turn. EXIF behind the pixels is not looked for: sizes must be cheap."""
    if "exif" not in image.info:
        return False
    return image.getexif().get(_ORIENTATION, 1) in range(5 if sideways_only else 2, 9)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    text = str(error)
    return "it is no picture file" if "cannot identify image file" in text else text or type(error).__name__
