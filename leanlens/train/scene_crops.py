"""Cuts training crops from synthetic scenes in the device's memory, so that it never waits for pictures to be read.

Shapes: N pictures (N, H, W, 3) uint8, B crops of side S.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from leanlens.log import logger
from leanlens.scenes.draw import drawn_chunks
from leanlens.scenes.icons import library
from leanlens.scenes.layout import PATTERNS
from leanlens.train.autoencoder_config import AutoencoderRecipe, CropScenes
from leanlens.train.crops import BUSY_CHOICES, MEASURED, OTHER_STEPS, Pictures

SIDE = 256  # of a scene, pixels
SEEDS = (77, 78)  # of all scenes, and of those with patterned backgrounds
TRIED = 10  # scenes tried for each one with a pattern; one in six has it


def pictures_of_scenes(recipe: AutoencoderRecipe, scenes: CropScenes, device: torch.device) -> Pictures:
    """Crops of scenes, drawn by every core onto the device.

    Raises:
        ValueError: the library of drawings is missing.
    """
    pixels = draw_scenes(scenes, device)
    logger.info("drew %d scenes", len(pixels))
    return SceneCrops(pixels, recipe).pictures


def draw_scenes(scenes: CropScenes, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8: scenes, of which at least the share `scenes.patterns` has a patterned background."""
    with_patterns = round(scenes.patterns * scenes.num)
    parts = list(_drawn(scenes, scenes.num - with_patterns, SEEDS[0], ()))
    parts += islice(_drawn(scenes, TRIED * with_patterns, SEEDS[1], PATTERNS), with_patterns)
    return torch.from_numpy(np.stack(parts)).to(device)


def _drawn(scenes: CropScenes, num: int, seed: int, backgrounds: tuple[str, ...]) -> Iterator[np.ndarray]:
    if not num:
        return
    for chunk in drawn_chunks(library(scenes.sources).folder, num, seed, ((SIDE, SIDE),), backgrounds=backgrounds):
        for pixels, _ in chunk.values():
            yield from pixels


def scaled(pixels: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in -1..1."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class SceneCrops:
    """Crops of pictures on the device, each the busiest of a few; they depend on seed and step alone."""

    pixels: Tensor
    recipe: AutoencoderRecipe

    @property
    def pictures(self) -> Pictures:
        """The crops in the form that the autoencoder's task needs."""
        return Pictures(
            batches=self.batches,
            fixed=lambda steps: [self.crops(OTHER_STEPS + step) for step in range(steps)],
            whole=lambda: scaled(self.pixels[:MEASURED]).split(1),
        )

    def batches(self, first: int) -> Iterator[Tensor]:
        """Crops of step `first`, `first` + 1, ..."""
        return map(self.crops, count(first))

    def crops(self, step: int) -> Tensor:
        """(B, 3, S, S) in -1..1 of one step."""
        number, height, width, _ = self.pixels.shape
        device, side = self.pixels.device, self.recipe.crops.side
        generator = torch.Generator(device).manual_seed(self.recipe.run.seed * 2**32 + step)
        many = (self.recipe.crops.pictures * self.recipe.crops.crops, BUSY_CHOICES)

        def some(below: int, shape: tuple[int, ...]) -> Tensor:
            return torch.randint(below, shape, generator=generator, device=device)

        rows = some(number, many[:1])
        y, x = some(height - side + 1, many), some(width - side + 1, many)
        busy = self._cut(rows[:, None], y, x, 2).float().std(dim=(2, 3)).sum(-1).argmax(1, keepdim=True)
        return scaled(self._cut(rows, y.gather(1, busy)[:, 0], x.gather(1, busy)[:, 0], 1))

    def _cut(self, rows: Tensor, y: Tensor, x: Tensor, step: int) -> Tensor:
        """Every `step`-th pixel of the crops at (y, x) of pictures `rows`, any shape: (..., S / step, S / step, 3)."""
        along = torch.arange(0, self.recipe.crops.side, step, device=self.pixels.device)
        down, across = (y[..., None] + along)[..., :, None], (x[..., None] + along)[..., None, :]
        return self.pixels[rows[..., None, None], down, across]
