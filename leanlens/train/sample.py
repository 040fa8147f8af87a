"""Draws a grid of fixed prompts and seeds during training.

Every process draws, because a sharded model needs all of them; the leading one writes the file.
"""

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from leanlens.files import whole_file
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.train.best_effort import best_effort
from leanlens.train.config import Sample


def draw_grid(pipeline: LensPipeline, sample: Sample, side: int, path: Path, leads: bool) -> None:
    """Draw every prompt once and write the pictures as one grid to `path`; a full disk is a warning.

    Args:
        side: height and width in pixels if the recipe names none.
    """
    pipeline.set_progress_bar_config(disable=True)
    drawn: Any = pipeline(
        prompt=list(sample.prompts),
        height=sample.height or side,
        width=sample.width or side,
        num_inference_steps=sample.steps,
        guidance_scale=sample.guidance,
        generator=[torch.Generator().manual_seed(sample.seed + index) for index in range(len(sample.prompts))],
    )
    if leads:
        with best_effort(path), whole_file(path) as temporary:
            _grid(drawn.images).save(temporary, format="PNG")


def _grid(pictures: list[Image.Image]) -> Image.Image:
    columns = math.ceil(math.sqrt(len(pictures)))
    width, height = pictures[0].size
    grid = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for index, picture in enumerate(pictures):
        grid.paste(picture, (index % columns * width, index // columns * height))
    return grid
