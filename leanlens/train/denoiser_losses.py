"""The denoiser's loss on a micro-batch, and the random numbers of a step.

Shapes: B samples, L image tokens, C packed latent channels, S text tokens.

Source: Lens, arXiv 2605.21573, section 3: flow matching on the velocity, resolution-shifted logit-normal times.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from leanlens.batches.pack import pack, predict_packed, sample_means, spread
from leanlens.flow.path import noised, velocity, velocity_loss
from leanlens.flow.times import training_times
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.train.config import TrainRecipe

Levels = Callable[[Tensor, int], Tensor]  # standard normal numbers (B,), image tokens -> levels (B,)
PATCH = 4  # places of a latent channel that one token holds


def draw_randomness(
    seed: int, step: int, first_sample: int, shape: torch.Size, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Standard normal numbers for the times (B,) and the noise (B, L, C) of samples `first_sample`, + 1, ... of a step.

    Each sample's numbers depend on `seed`, `step` and its own number in the step alone, and are drawn on the CPU: they
    do not depend on how a step is divided into micro-batches and processes. With a `device` they are drawn there all
    at once, and also depend on the shape and on the kind of device.
    """
    if device is not None:
        generator = _generator(f"{seed}/{step}/{first_sample}", device)
        time = torch.randn(shape[0], generator=generator, device=device)
        return time, torch.randn(shape, generator=generator, device=device)
    rows = []
    for sample in range(first_sample, first_sample + shape[0]):
        generator = _generator(f"{seed}/{step}/{sample}", torch.device("cpu"))
        time = torch.randn((), generator=generator)
        rows.append((time, torch.randn(shape[1:], generator=generator)))
    return torch.stack([time for time, _ in rows]), torch.stack([noise for _, noise in rows])


def _generator(name: str, device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def channel_weights(recipe: TrainRecipe, device: torch.device) -> Tensor | None:
    """Weights of the packed latent channels in the loss, (C,) with mean 1; None if all are equal."""
    if recipe.train.channel_weights is None:
        return None
    weights = torch.tensor(recipe.train.channel_weights, device=device)
    return (weights / weights.mean()).repeat_interleave(PATCH)  # packed: the four places of each channel together


def levels_of(recipe: TrainRecipe) -> Levels:
    """The distribution of noise levels of a recipe."""
    return partial(training_times, mean=recipe.train.logit_mean, std=recipe.train.logit_std)


def denoiser_losses(model: nn.Module, batch: Any, t: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of the predicted velocity of each sample: (B,) float32.

    Args:
        model: the transformer.
        batch: an `EncodedBatch` on the model's device.
        t: levels (B,), noise (B, L, C), on any device.
        weights: of the channels, see `channel_weights`.
    """
    x0 = batch.latents.float()
    noise, t = noise.to(x0.device), t.to(x0.device)
    mask = None if bool(batch.text.mask.all()) else batch.text.mask  # attention without a mask is faster
    text = [layer.float() for layer in batch.text.layers]
    predicted = model(noised(x0, noise, t), text, mask, t, [(1, *batch.grid)])
    return velocity_loss(predicted, x0, noise, weights)


def packed_losses(
    model: nn.Module,
    batches: Sequence[Any],
    times: Sequence[Tensor],
    noises: Sequence[Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    """`denoiser_losses` of several batches of any sizes, packed into one row: all their samples, in order.

    Args:
        times, noises: levels (B,) and noise (B, L, C) of each batch, on any device.
    """
    row = pack(batches)
    x0 = row.latents.float()
    noise = torch.cat([noise.flatten(0, 1) for noise in noises])[None].to(x0.device)
    t = torch.cat(list(times)).to(x0.device)
    level = spread(t, row)
    text = replace(row, text=[layer.float() for layer in row.text])
    predicted = predict_packed(cast(LensTransformer2DModel, model), text, (1 - level) * x0 + level * noise, t)
    error = (predicted.float() - velocity(x0, noise)).square()
    return sample_means(error if weights is None else error * weights, row)


def packed_training_losses(
    model: nn.Module,
    batches: Sequence[Any],
    seed: int,
    step: int,
    first_samples: Sequence[int],
    weights: Tensor | None = None,
    device: torch.device | None = None,
    levels: Levels = training_times,
) -> list[Tensor]:
    """`training_losses` of several batches, packed into one row; each has the number of its first sample."""
    times, noises = [], []
    for batch, first in zip(batches, first_samples, strict=True):
        normal, noise = draw_randomness(seed, step, first, batch.latents.shape, device)
        times.append(levels(normal, noise.shape[1]))
        noises.append(noise)
    losses = packed_losses(model, batches, times, noises, weights)
    return list(losses.split([len(time) for time in times]))


def training_losses(
    model: nn.Module,
    batch: Any,
    seed: int,
    step: int,
    first_sample: int,
    weights: Tensor | None = None,
    device: torch.device | None = None,
    levels: Levels = training_times,
) -> Tensor:
    """`denoiser_losses` at the random times and noise of a training step, drawn as `draw_randomness` says."""
    normal, noise = draw_randomness(seed, step, first_sample, batch.latents.shape, device)
    return denoiser_losses(model, batch, levels(normal, noise.shape[1]), noise, weights)
