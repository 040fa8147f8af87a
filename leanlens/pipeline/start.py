"""Prepares the start of the denoising loop: noise, the noise levels, and an image noised to one of them.

Shapes: B images, L = h * w image tokens, C packed latent channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from leanlens.flow.schedule import linear_sigmas, shift_mu
from leanlens.models import vae as autoencoder
from leanlens.pipeline.device import compute_device
from leanlens.pipeline.image import SourcePicture

# (step index, latents after the step) -> latents in which the part of a picture that is to stay is in place.
Keep = Callable[[int, Tensor], Tensor]


def draw_noise(
    transformer: Any,
    batch: int,
    grid: tuple[int, int],
    generator: torch.Generator | list[torch.Generator] | None,
    given: Tensor | None,
) -> Tensor:
    """Standard normal noise (B, L, C) in packed order, in the transformer's dtype and on its device, or `given`.

    Raises:
        ValueError: `given` has a wrong shape, or there is not one generator for each image.
    """
    shape = (batch, grid[0] * grid[1], transformer.config.in_channels)
    device, dtype = compute_device(transformer), transformer.dtype
    if given is not None:
        if tuple(given.shape) != shape:
            raise ValueError(f"latents has shape {tuple(given.shape)}; expected {shape} for this size and batch")
        return given.to(device, dtype)
    if isinstance(generator, list | tuple):
        generator = list(generator)
        if len(generator) != batch:
            raise ValueError(f"generator holds {len(generator)} generators for {batch} pictures; give one for each")
    for one in generator if isinstance(generator, list) else [generator]:
        if one is not None and not isinstance(one, torch.Generator):
            raise ValueError(f"invalid generator {one!r}: expected a torch.Generator, or a list of them")
    return randn_tensor(shape, generator=generator, device=device, dtype=dtype)


def set_levels(scheduler: Any, grid: tuple[int, int], steps: int, strength: float = 1.0) -> None:
    """Set the scheduler's noise levels; below strength 1 only the last share of them, at least one, is used."""
    scheduler.set_timesteps(sigmas=linear_sigmas(steps), mu=shift_mu(scheduler.config, grid[0] * grid[1], steps))
    skipped = steps - max(1, min(steps, round(steps * strength)))
    scheduler.timesteps = scheduler.timesteps[skipped:]
    scheduler.set_begin_index(skipped)


def begin_from(
    source: SourcePicture, vae: Any, scheduler: Any, noise: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Keep | None]:
    """The image noised to the first level, and a function that restores its untouched part after every step.

    `grid` is (h, w) of the image to draw; with `latent_resize` the source's latents are resized to it.

    A token is repainted if any of its pixels is. After each step the others are set to the source noised to that
    step's level.
    """
    clean = autoencoder.encode(vae, source.pixels.to(compute_device(vae)))
    if source.latent_resize is not None:
        side = autoencoder.token_pixels(vae)
        own = (source.pixels.shape[2] // side, source.pixels.shape[3] // side)
        clean = autoencoder.resize(vae, clean, own, grid, source.latent_resize)
    clean = clean.to(noise.device, noise.dtype)
    clean = clean.expand(noise.shape[0], -1, -1)
    levels = scheduler.sigmas[scheduler.begin_index :].to(noise.device)

    def noised(index: int) -> Tensor:
        return ((1 - levels[index]) * clean.float() + levels[index] * noise.float()).to(noise.dtype)

    if source.repaint is None:
        return noised(0), None
    tokens = torch.nn.functional.max_pool2d(source.repaint, autoencoder.token_pixels(vae))  # (1, 1, h, w)
    touched = (tokens > 0).flatten(2).transpose(1, 2).to(noise.device)  # (1, L, 1)

    def keep(index: int, latents: Tensor) -> Tensor:
        return torch.where(touched, latents, noised(index + 1))

    return noised(0), keep
