"""Previews of unfinished images, at almost no cost.

Between noise levels s and s', Euler's step is x' = x + (s' - s) v. So both latents give the velocity, and x' - s' v is
where the path ends if it stays straight. A linear map turns that into colours. It is fitted once for each autoencoder,
by least squares, on what the autoencoder makes of soft coloured clouds (where trained latents lie) and of noise.

Shapes: B images, L = h * w tokens, C packed latent channels.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from leanlens.models import vae as autoencoder

_CLOUDS = 8
_GRID = 8  # tokens a side of a cloud; 8 clouds and 8 noises of 8 x 8 tokens are 1024 equations for C + 1 = 129 unknowns
_RIDGE = 0.1


class LatentColours:
    """Latents -> colours, for one autoencoder.

    Args:
        weights: (C + 1, 12), from a token's channels and a one to 2 x 2 pixels of three colours in -1..1.
    """

    def __init__(self, weights: Tensor):
        self.weights = weights

    @classmethod
    @torch.no_grad()
    def fit(cls, vae: "torch.nn.Module") -> "LatentColours":
        """Fit to what `vae` makes of coloured clouds: one small encoding and decoding."""
        side = autoencoder.token_pixels(vae)
        generator = torch.Generator().manual_seed(0)
        clouds = torch.rand(_CLOUDS, 3, 5, 5, generator=generator) * 2 - 1
        pixels = torch.nn.functional.interpolate(clouds, size=(_GRID * side,) * 2, mode="bicubic").clamp(-1, 1)
        device = next(vae.parameters()).device
        encoded = autoencoder.encode(vae, pixels.to(device))
        noise = torch.randn(encoded.shape, generator=generator)
        latents = torch.cat([encoded, noise.to(encoded.device, encoded.dtype)])
        drawn = autoencoder.decode(vae, latents, (_GRID, _GRID))
        colours = torch.nn.functional.avg_pool2d(drawn.float(), side // 2).cpu()  # (B, 3, 2 h, 2 w)
        wanted = colours.view(2 * _CLOUDS, 3, _GRID, 2, _GRID, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 12).double()
        rows = _with_one(latents.float().cpu().flatten(0, 1)).double()
        square = rows.T @ rows
        ridge = _RIDGE * square.diagonal().mean() * torch.eye(square.shape[0], dtype=square.dtype)
        return cls(torch.linalg.solve(square + ridge, rows.T @ wanted).float())

    @torch.no_grad()
    def picture(self, latents: Tensor, grid: tuple[int, int]) -> Image.Image:
        """(L, C) -> an image of 2 h x 2 w pixels."""
        colours = _with_one(latents.float().cpu()) @ self.weights
        pixels = colours.view(*grid, 2, 2, 3).permute(0, 2, 1, 3, 4).reshape(grid[0] * 2, grid[1] * 2, 3)
        return Image.fromarray(((pixels.clamp(-1, 1) + 1) * 127.5).to(torch.uint8).numpy())


class Preview(Protocol):
    """An unfinished image after `step` steps."""

    @property
    def step(self) -> int:
        """Finished steps."""

    def to_image(self) -> Image.Image:
        """The predicted image, 2 h x 2 w pixels."""


@dataclass(frozen=True)
class PreviewImage:
    """A preview that was computed elsewhere."""

    step: int
    image: Image.Image

    def to_image(self) -> Image.Image:
        """The image as it came."""
        return self.image


@dataclass(frozen=True)
class LatentPreview:
    """One image of a batch between two steps; nothing is computed before `to_image`.

    Attributes:
        step: finished steps.
        before, after: latents (B, L, C) before and after the last of them.
        levels: the noise levels of `before` and `after`.
        row: which of the B images.
        grid: (h, w).
        colours: of the model's autoencoder.
    """

    step: int
    before: Tensor
    after: Tensor
    levels: tuple[float, float]
    row: int
    grid: tuple[int, int]
    colours: LatentColours

    @torch.no_grad()
    def to_image(self) -> Image.Image:
        """The predicted image, 2 h x 2 w pixels."""
        before, after = self.before[self.row].float(), self.after[self.row].float()
        velocity = (after - before) / (self.levels[1] - self.levels[0])
        return self.colours.picture(after - self.levels[1] * velocity, self.grid)


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(rows.shape[0], 1)], dim=1)
