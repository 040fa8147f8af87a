"""Renders an SVG document or a WebP to a cropped RGBA bitmap, and measures its hue, brightness, colour and flat top."""

import io
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageChops

FAINT = 20  # lower alpha is an antialiasing fringe and is set to 0
HUE_REACH = 26  # of 256: maximum distance from the dominant hue that counts as the same paint


@dataclass(frozen=True)
class Facts:
    """Measured properties of a bitmap.

    Attributes:
        mean: mean colour of the visible pixels, 0 to 255.
        hue: dominant hue, 0 to 255 as in Pillow's HSV.
        luma: median brightness of the pixels of that hue, 0 to 255.
        share: share of those pixels among the visible ones, 0 to 1.
        flat_top: share of the columns that reach the top edge, 0 to 1.
    """

    mean: tuple[int, int, int]
    hue: int
    luma: int
    share: float
    flat_top: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rasterize(drawing: str | bytes, pixels: int) -> np.ndarray | None:
    """(H, W, 4) uint8 straight RGBA, cropped to the visible part, longest side `pixels`; None if nothing is visible.

    Raises:
        ValueError: the drawing cannot be parsed.
    """
    image = _open(drawing, pixels * 5 // 4)  # a drawing rarely fills its page
    box = _visible_box(image)
    if box is not None and isinstance(drawing, str) and max(box[2] - box[0], box[3] - box[1]) < pixels:
        image = _open(drawing, round(image.width * pixels / max(box[2] - box[0], box[3] - box[1])))
        box = _visible_box(image)
    if box is None:
        return None
    image = image.crop(box)
    if max(image.size) != pixels:
        factor = pixels / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
        box = _visible_box(image)
        image = image if box is None else image.crop(box)
    return _without_fringe(np.asarray(image))


def _open(drawing: str | bytes, pixels: int) -> Image.Image:
    if isinstance(drawing, str):
        import resvg_py

        drawing = bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=pixels, skip_system_fonts=True))
    return Image.open(io.BytesIO(drawing)).convert("RGBA")


def _visible_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    return image.getchannel("A").point(lambda alpha: 255 * (alpha >= FAINT)).getbbox()


def _without_fringe(pixels: np.ndarray) -> np.ndarray:
    return np.where(pixels[..., 3:] < FAINT, 0, pixels).astype(np.uint8)


def measure(pixels: np.ndarray) -> Facts:
    """The facts of an (H, W, 4) uint8 straight RGBA bitmap."""
    image = Image.fromarray(pixels[..., :3])
    hue, saturation, _ = (np.asarray(band).astype(int) for band in image.convert("HSV").split())
    luma = np.asarray(image.convert("L"))
    visible = pixels[..., 3] > 127
    if not visible.any():
        visible = pixels[..., 3] > 0
    vivid = visible & (saturation > 60)
    dominant, share, middle = 0, 0.0, 128
    if vivid.any():
        counts = np.bincount(hue[vivid], minlength=256)
        reach = range(-HUE_REACH, HUE_REACH + 1)
        smooth = np.stack([np.roll(counts, -shift) * (HUE_REACH + 1 - abs(shift)) for shift in reach]).sum(axis=0)
        dominant = int(smooth.argmax())
        near = vivid & (np.abs((hue - dominant + 128) % 256 - 128) <= HUE_REACH)
        share = round(float(near.sum() / visible.sum()), 3)
        middle = int(np.median(luma[near]))
    red, green, blue = (int(value) for value in pixels[..., :3][visible].mean(axis=0))
    top = (pixels[: max(1, len(pixels) // 12), :, 3] > 127).any(axis=0)
    return Facts((red, green, blue), dominant, middle, share, round(float(top.mean()), 3))


def recolor(image: Image.Image, hue: int, luma: int, color: tuple[int, int, int]) -> Image.Image:
    """Paint the dominant hue of an RGBA image in `color`, keeping its shading, its other colours and its outline.

    Pixels of brightness `luma` get `color` itself, darker ones its shades, lighter ones its tints.
    """
    flat = image.convert("RGB")
    hues, saturations, _ = flat.convert("HSV").split()
    mask = ImageChops.darker(hues.point(_near_hue(hue)), saturations.point(_vivid()))
    grey = flat.convert("L")
    ramps = [grey.point(_ramp(channel, max(1, luma))) for channel in color]
    painted = Image.composite(Image.merge("RGB", ramps), flat, mask)
    painted.putalpha(image.getchannel("A"))
    return painted


@lru_cache(maxsize=256)
def _near_hue(hue: int) -> list[int]:
    """How strongly each hue is recoloured, 0 to 255: fully within HUE_REACH, fading over the next 14."""
    distances = [abs((at - hue + 128) % 256 - 128) for at in range(256)]
    return [round(255 * min(1.0, max(0.0, (HUE_REACH + 14 - distance) / 14))) for distance in distances]


@lru_cache(maxsize=1)
def _vivid() -> list[int]:
    """How strongly each saturation is recoloured, 0 to 255: greys, blacks and whites are not."""
    return [round(255 * min(1.0, max(0.0, (at - 30) / 40))) for at in range(256)]


@lru_cache(maxsize=4096)
def _ramp(channel: int, luma: int) -> list[int]:
    """Value of one channel for each brightness: shades up to `luma`, tints above."""
    lighter = max(1, 255 - luma)
    return [
        round(channel * at / luma) if at <= luma else round(channel + (255 - channel) * 0.75 * (at - luma) / lighter)
        for at in range(256)
    ]
