"""Encodes pixels to normalised packed latents and decodes them, with diffusers' `AutoencoderKLFlux2`.

Shapes: B batch, H x W pixels, h = H / 16 and w = W / 16 tokens, z latent channels (32), C = 4 z packed channels.

Source: Lens, arXiv 2605.21573, section 3 (the FLUX.2 autoencoder, frozen, latents normalised by its batch-norm
statistics); packing order and rounding are those of the released code.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from leanlens.plan.memory import TILE_ABOVE_TOKENS


def token_pixels(vae: AutoencoderKLFlux2) -> int:
    """Side in pixels of the square that one token covers: 16 for every released Lens."""
    return 2 ** (len(vae.config.block_out_channels) - 1) * vae.config.patch_size[0]


def pack(latents: Tensor) -> Tensor:
    """(B, z, 2 h, 2 w) -> (B, h * w, 4 z); channel order (z, row in patch, column in patch), tokens row-major."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h * w, 4 z) -> (B, z, 2 h, 2 w), the inverse of `pack`."""
    batch, _, channels = tokens.shape
    patches = tokens.view(batch, *grid, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, grid[0] * 2, grid[1] * 2)


def encode(vae: AutoencoderKLFlux2, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(B, 3, H, W) in -1..1 -> normalised packed latents (B, h * w, C), in the autoencoder's dtype.

    Uses the mode of the posterior, like every known trainer, or a sample if a `generator` is given.
    """
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    latents = pack(posterior.mode() if generator is None else posterior.sample(generator))
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def decode(vae: AutoencoderKLFlux2, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Normalised packed latents (B, h * w, C) -> pixels (B, 3, H, W), about -1..1, in the autoencoder's dtype."""
    tokens = tokens.to(vae.dtype)
    mean, std = _statistics(vae, tokens)
    return vae.decode(unpack(tokens * std + mean, grid), return_dict=False)[0]


def resize(
    vae: AutoencoderKLFlux2, tokens: Tensor, grid: tuple[int, int], target: tuple[int, int], method: str
) -> Tensor:
    """Interpolate normalised packed latents from one grid (h, w) to another.

    Args:
        vae: the autoencoder of the latents.
        tokens: (B, h * w, C).
        grid, target: current and new (h, w).
        method: nearest, nearest-exact, bilinear or bicubic, as in `torch.nn.functional.interpolate`; the last two also
            with the suffix `-antialias`.
    """
    mean, std = _statistics(vae, tokens)
    mode, antialias = method.removesuffix("-antialias"), method.endswith("-antialias")
    planes = unpack(tokens * std + mean, grid).float()
    size = (target[0] * 2, target[1] * 2)
    planes = torch.nn.functional.interpolate(planes, size=size, mode=mode, antialias=antialias)
    return (pack(planes.to(tokens.dtype)) - mean) / std


@contextmanager
def tiled_decoding(vae: AutoencoderKLFlux2, grid: tuple[int, int]) -> Iterator[None]:
    """Decode in tiles within this block if the (h, w) grid of tokens is larger than any official image."""
    asked = vae.use_tiling
    try:
        if grid[0] * grid[1] > TILE_ABOVE_TOKENS:
            vae.enable_tiling()
        yield
    finally:
        vae.use_tiling = asked


def decode_in_small_tiles(vae: AutoencoderKLFlux2) -> None:
    """Decode in tiles of half the side that the autoencoder was trained at."""
    vae.enable_tiling()
    vae.tile_sample_min_size = vae.config.sample_size // 2
    vae.tile_latent_min_size = vae.tile_sample_min_size // 2 ** (len(vae.config.block_out_channels) - 1)


def _statistics(vae: AutoencoderKLFlux2, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each packed channel, (C,) each."""
    mean = vae.bn.running_mean.to(like.device, like.dtype)
    std = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps).to(like.device, like.dtype)
    return mean, std
