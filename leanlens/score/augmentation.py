"""Augmented crops of icons that the scene scorer is fitted on: warped, covered, blurred, recompressed and recoloured.

Crops are RGB on grey, as `regions` cuts them out of images. They are made from icons alone; no model's image is used.

Bitmaps: (H, W, 4) float32, RGB times alpha, 0 to 255.
"""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from leanlens.scenes.icons import COLORS, SHAPES, Library
from leanlens.scenes.render import render, trace_things
from leanlens.scenes.scene import sample_scene

GREY = (128, 128, 128)  # behind every crop, so that a background decides nothing
PALETTE = tuple(COLORS)
SIDES = (36, 190)  # longest side of a rendering, pixels
MARGIN = 6  # pixels around one, into which it may be warped
WARPS = ((3, 0.10), (6, 0.05), (12, 0.025))  # cells of a random field, and the most it moves, in parts of the side
WARPED, PAINTED, COVERED, BLURRED, RECOMPRESSED, FRAYED = 0.75, 0.6, 0.4, 0.35, 0.4, 0.5  # shares of the renderings
MAX_COVERED = 0.4  # of a covered icon's pixels
INSIDE, BEFORE = (0.35, 0.65), (0.3, 0.8)  # relative size of an occluder in its middle, and at its edge
PARTS = (0.2, 0.42)  # share of an icon's pixels in a negative example of a part


def thing_crop(library: Library, concept: str, style: str, rng: np.random.Generator) -> Image.Image:
    """An augmented crop of an icon in a random size and colour, sometimes covered by another icon of its style."""
    names = sorted(library.bitmaps[style])
    other = library.sprite(name := names[rng.integers(len(names))], style, None, library.fit(name, style, 96, 96))
    cover = np.asarray(other.getchannel("A")) > 127
    return _crop(_bitmap(library, concept, style, rng), rng, True, cover)


def sign_crop(bitmap: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """An augmented crop of one of `sign_bitmaps`."""
    return _crop(_maybe_warped(bitmap, rng), rng, True)


def negative_crop(library: Library, drawings: list[tuple[str, str]], rng: np.random.Generator) -> Image.Image:
    """A negative example: part of one icon, or two icons that touch."""
    chosen = [drawings[at] for at in rng.integers(len(drawings), size=2)]
    first, second = (_bitmap(library, concept, style, rng) for concept, style in chosen)
    if rng.random() < 0.5:
        return _crop(first, rng, False)
    return _crop(_joined(first, second, rng), rng, True)


def sign_bitmaps(library: Library, count: int) -> list[np.ndarray]:
    """Bitmaps of signs and labels, which are drawn around their texts: cut out of scenes."""
    found: list[np.ndarray] = []
    seed = 0
    while len(found) < count:
        scene = sample_scene(seed, library)
        seed += 1
        for text in scene.texts[: count - len(found)]:
            one = scene.things[text.on]
            alone = replace(scene, things=(one,), relations=(), texts=(replace(text, on=0),))
            x0, y0, x1, y1 = one.frames[0]
            alpha = (trace_things(alone, library)[y0:y1, x0:x1, None] > 0).astype(np.float32)
            pixels = np.asarray(render(alone, library), np.float32)[y0:y1, x0:x1]
            found.append(_framed(np.concatenate([pixels * alpha, 255 * alpha], axis=2)))
    return found


def elastic_offsets(
    height: int, width: int, fields: Sequence[tuple[int, float]], rng: np.random.Generator, count: int = 1
) -> Tensor:
    """Smooth random offsets for `warp`, (count, H, W, 2), in parts of the sides.

    Args:
        fields: cells of each random field along a side, and the most it moves, in parts of a side; every image has
            its own strength up to that.
    """
    offsets = torch.zeros(count, 2, height, width)
    for cells, most in fields:
        strength = torch.from_numpy(most * rng.random((count, 1, 1, 1))).float()
        field = torch.from_numpy(rng.standard_normal((count, 2, cells, cells))).float().clamp(-2, 2) / 2
        offsets += functional.interpolate(strength * field, size=(height, width), mode="bicubic", align_corners=False)
    return offsets.permute(0, 2, 3, 1)


def warp(planes: Tensor, offsets: Tensor, mode: str = "bilinear", outside: str = "zeros") -> Tensor:
    """Sample (B, C, H, W) at each position plus `offsets` (B, H, W, 2); `outside` as in `grid_sample`."""
    batch, _, height, width = planes.shape
    same = functional.affine_grid(torch.eye(2, 3).repeat(batch, 1, 1), [batch, 1, height, width], align_corners=False)
    return functional.grid_sample(planes, same + 2 * offsets, mode=mode, padding_mode=outside, align_corners=False)


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG compression."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def blurred(image: Image.Image, share: float) -> Image.Image:
    """The image after downscaling by `share` and upscaling to its original size."""
    small = (max(8, round(image.width * share)), max(8, round(image.height * share)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def _bitmap(library: Library, concept: str, style: str, rng: np.random.Generator) -> np.ndarray:
    paint = None
    if style == SHAPES or (rng.random() < PAINTED and library.is_paintable(concept, style)):
        paint = PALETTE[rng.integers(len(PALETTE))]
    side = int(np.exp(rng.uniform(*np.log(SIDES))))
    sprite = np.asarray(library.sprite(concept, style, paint, library.fit(concept, style, side, side)), np.float32)
    alpha = sprite[..., 3:] / 255
    return _maybe_warped(_framed(np.concatenate([sprite[..., :3] * alpha, sprite[..., 3:]], axis=2)), rng)


def _framed(bitmap: np.ndarray) -> np.ndarray:
    return np.pad(bitmap, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))


def _maybe_warped(bitmap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() >= WARPED:
        return bitmap
    offsets = elastic_offsets(bitmap.shape[0], bitmap.shape[1], WARPS, rng)
    return warp(torch.from_numpy(bitmap).permute(2, 0, 1)[None], offsets)[0].permute(1, 2, 0).numpy()


def _joined(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two bitmaps of about the same size that touch, one next to or above the other."""
    height, width = first.shape[:2]
    scale = rng.uniform(0.6, 1.4) * max(height, width) / max(second.shape[:2])
    size = [max(12, round(side * scale)) for side in second.shape[:2]]
    other = functional.interpolate(torch.from_numpy(second).permute(2, 0, 1)[None], size=size, mode="area")
    second = other[0].permute(1, 2, 0).numpy()
    lower = rng.random() < 0.5
    near = rng.uniform(0.6, 1.0)  # offset of the second one, as a share of the first one's side
    y, x = (round(near * height), 0) if lower else (0, round(near * width))
    canvas = np.zeros((max(height, y + size[0]), max(width, x + size[1]), 4), np.float32)
    canvas[:height, :width] = first
    under = canvas[y : y + size[0], x : x + size[1]]
    under[:] = second + under * (1 - second[..., 3:] / 255)
    return canvas


def _crop(bitmap: np.ndarray, rng: np.random.Generator, is_thing: bool, cover: np.ndarray | None = None) -> Image.Image:
    """The crop that `regions` would make: the augmented image on a random background, under an inexact mask, on grey.

    Args:
        cover: (H, W) bool, an occluder that may be in front.
    """
    alpha = bitmap[..., 3:] / 255
    ground = rng.integers(0, 256, 3).astype(np.float32)
    image = Image.fromarray(np.clip(bitmap[..., :3] + ground * (1 - alpha), 0, 255).astype(np.uint8))
    if rng.random() < BLURRED:
        image = blurred(image, rng.uniform(0.4, 0.9))
    if rng.random() < RECOMPRESSED:
        image = recompressed(image, int(rng.integers(15, 70)))
    mask = alpha[..., 0] > 0.5
    if not is_thing:
        mask = _part(mask, rng.uniform(*PARTS), rng)
    elif rng.random() < COVERED:
        mask = _covered(mask, rng) if cover is None or rng.random() < 0.3 else _covered_by(mask, cover, rng)
    if rng.random() < FRAYED:
        mask = _frayed(mask, rng)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Image.new("RGB", (8, 8), GREY)
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(np.where(mask[inside][..., None], np.asarray(image)[inside], np.uint8(GREY[0])))


def _covered(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask without the pixels beyond a random straight line."""
    return _part(mask, 1 - rng.uniform(0, MAX_COVERED), rng)


def _covered_by(mask: np.ndarray, cover: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask without the pixels of an occluder in its middle or at its edge; unchanged if too little would remain."""
    height, width = mask.shape
    inside = rng.random() < 0.5
    scale = rng.uniform(*(INSIDE if inside else BEFORE)) * min(height, width) / max(cover.shape)
    size = [max(2, round(side * scale)) for side in cover.shape]
    small = np.asarray(Image.fromarray(cover).resize((size[1], size[0])))
    middle = rng.uniform(0.45, 0.55, 2) if inside else rng.uniform(0.1, 0.9, 2)
    y, x = (round(at * side - own / 2) for at, side, own in zip(middle, mask.shape, size, strict=True))
    y, x = min(max(0, y), height - size[0]), min(max(0, x), width - size[1])
    left = mask.copy()
    left[y : y + size[0], x : x + size[1]] &= ~small
    return left if left.sum() > (1 - MAX_COVERED) * mask.sum() else mask


def _part(mask: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """`share` of a mask's pixels: those on one side of a straight line in a random direction."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return mask
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * rows + np.sin(angle) * columns
    kept = along <= np.quantile(along, share)
    part = np.zeros_like(mask)
    part[rows[kept], columns[kept]] = True
    return part


def _frayed(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask dilated or eroded by one or two pixels."""
    reach = int(rng.integers(1, 3))
    sign = 1 if rng.random() < 0.5 else -1
    planes = sign * torch.from_numpy(mask.astype(np.float32))[None, None]
    grown = sign * functional.max_pool2d(planes, 2 * reach + 1, 1, reach)[0, 0].numpy() > 0.5
    return grown if grown.sum() > 40 else mask
