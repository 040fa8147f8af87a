"""A file that shows the image as it is drawn.

Comes in: latents after every step, and the finished image. Goes out: one file, rewritten
each time and whole at any moment.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.files import whole_file
from leanlens.pipeline.metadata import FORMATS
from leanlens.serve.preview import LatentColours, Snapshot


class PreviewFile:
    """Writes what an image is becoming, at the size of the image.

    Args:
        opened: the model that draws.
        path: the file; its suffix is one that images are saved with.
    """

    def __init__(self, opened: Any, path: Path):
        self.path, self.scheduler = path, opened.pipeline.scheduler
        vae = opened.pipeline.vae
        self.colours = LatentColours.fit(vae)
        self.token = 2 ** (len(vae.config.block_out_channels) - 1) * vae.config.patch_size[0]  # pixels a side
        self.before: Any = None

    def start(self, request: Any) -> None:
        """Before the first step of another image."""
        self.size = (request.width, request.height)
        self.grid = (request.height // self.token, request.width // self.token)
        self.before = None

    def step(self, step: int, latents: Any) -> None:
        """After each step; latents (1, L, C)."""
        place = (self.scheduler.begin_index or 0) + step
        if self.before is None:  # a velocity needs two steps: the first shows the latents themselves
            look = self.colours.picture(latents[0], self.grid)
        else:
            levels = (float(self.scheduler.sigmas[place - 1]), float(self.scheduler.sigmas[place]))
            look = Snapshot(step, self.before, latents, levels, 0, self.grid, self.colours).look()
        self.before = latents
        self.write(look.resize(self.size, Image.Resampling.BICUBIC))

    def write(self, image: Image.Image) -> None:
        """The file becomes this image."""
        with whole_file(self.path) as temporary:
            image.save(temporary, FORMATS[self.path.suffix.lower()])
