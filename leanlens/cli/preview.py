"""Writes a preview of the image to a file after every step, atomically."""

from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.files import whole_file
from leanlens.pipeline.metadata import FORMATS
from leanlens.serve.preview import LatentColours, LatentPreview


class PreviewFile:
    """Writes previews at the size of the image.

    Args:
        opened: the opened model.
        path: the file; its suffix chooses the image format.
    """

    def __init__(self, opened: Any, path: Path):
        self.path, self.scheduler = path, opened.pipeline.scheduler
        vae = opened.pipeline.vae
        self.colours = LatentColours.fit(vae)
        self.token = 2 ** (len(vae.config.block_out_channels) - 1) * vae.config.patch_size[0]  # pixels a side
        self.before: Any = None

    def start(self, request: Any) -> None:
        """Called before the first step of an image."""
        self.size = (request.width, request.height)
        self.grid = (request.height // self.token, request.width // self.token)
        self.before = None

    def step(self, step: int, latents: Any) -> None:
        """Called after each step; latents (1, L, C)."""
        place = (self.scheduler.begin_index or 0) + step
        if self.before is None:  # a velocity needs two steps: the first shows the latents themselves
            image = self.colours.picture(latents[0], self.grid)
        else:
            levels = (float(self.scheduler.sigmas[place - 1]), float(self.scheduler.sigmas[place]))
            image = LatentPreview(step, self.before, latents, levels, 0, self.grid, self.colours).to_image()
        self.before = latents
        self.write(image.resize(self.size, Image.Resampling.BICUBIC))

    def write(self, image: Image.Image) -> None:
        """Write an image to the file."""
        with whole_file(self.path) as temporary:
            image.save(temporary, FORMATS[self.path.suffix.lower()])
