"""Encodes the images of a report as WebP, so that all of them together keep within a number of bytes."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

# Longest side in pixels and WebP quality, the best first. The last is below 500 bytes for noise.
STEPS = (
    (1024, 95), (1024, 88), (768, 85), (640, 82), (512, 82), (448, 78), (384, 75), (320, 72), (288, 65), (256, 60),
    (224, 50), (192, 45), (160, 40), (128, 35), (96, 30), (64, 25), (32, 10),
)  # fmt: skip


@dataclass(frozen=True)
class Encoded:
    """An image as it is shown.

    Attributes:
        content: WebP; empty where the file cannot be read, or no step fits.
        width, height: of the file, pixels; 0 where it cannot be read.
    """

    content: bytes
    width: int
    height: int


def encode_images(paths: Sequence[Path], most: int) -> Iterator[Encoded]:
    """Encode the images in order, with at most `most` bytes in total.

    Each may take an equal share of what is left, so that what a small image does not need goes to those after it.
    """
    for index, path in enumerate(paths):
        encoded = _encode(path, most // (len(paths) - index))
        most -= len(encoded.content)
        yield encoded


def _encode(path: Path, most: int) -> Encoded:
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError:  # missing or damaged
        return Encoded(b"", 0, 0)
    return Encoded(_fit(image, most), image.width, image.height)


def _fit(image: Image.Image, most: int) -> bytes:
    """The best step that fits; a larger step takes more bytes, so it is found by halving."""
    best, low, high = b"", 0, len(STEPS)
    place = 0  # most images fit at once
    while low < high:
        content = _webp(image, *STEPS[place])
        if len(content) <= most:
            best, high = content, place
        else:
            low = place + 1
        place = (low + high) // 2
    return best


def _webp(image: Image.Image, side: int, quality: int) -> bytes:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    small.save(kept, "WEBP", quality=quality, method=4)
    return kept.getvalue()
