"""Averages of the weights whose width is chosen after the run.

A profile gives the weights at picture count s, seen from T, the weight (g + 1) s^g / T^(g + 1). Its standard deviation
as a share of T is what the recipe calls `std`. Averages of different g and T span others: least squares over their
inner products finds the mixture.

Source: EDM2, arXiv 2312.02696, section 3 and appendix C. Legend: g exponent, T pictures seen, B pictures in one step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


def exponent_of(std: float) -> float:
    """The exponent g of the profile with relative standard deviation `std` (0 < std < 0.289), equation 126."""
    return float(np.roots([1.0, 7.0, 16.0 - std**-2, 12.0 - std**-2]).real.max())


def keep_share(std: float, images: int, added: int) -> float:
    """Factor of the old average when `images` have been seen, `added` of them in this step, equation 127."""
    return (1 - added / images) ** (exponent_of(std) + 1)


def mixture(stored: Sequence[tuple[int, float]], wanted: tuple[int, float]) -> list[float]:
    """Weights, summing to 1, of stored averages (T, std) that come nearest to the wanted one, appendix C.3."""
    images, stds = (np.array(column, dtype=np.float64) for column in zip(*stored, strict=True))
    among = _inner(images[:, None], stds[:, None], images[None], stds[None])
    against = _inner(images, stds, np.float64(wanted[0]), np.float64(wanted[1]))
    weights = np.linalg.lstsq(among, against, rcond=None)[0]
    return [float(weight) for weight in weights / weights.sum()]


class Averages:
    """One float32 copy of the trained weights for each `std`, sharded as they are.

    Args:
        model: its trainable parameters are followed, in place.
        stds: relative standard deviations.
    """

    def __init__(self, model: nn.Module, stds: Sequence[float]):
        self.live = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.copies = {std: {name: weight.detach().clone() for name, weight in self.live.items()} for std in stds}

    @torch.no_grad()
    def update(self, images: int, added: int) -> None:
        """Update the averages after a step; `images` pictures have been seen, `added` of them in this step."""
        live = [_local(weight) for weight in self.live.values()]
        for std, copy in self.copies.items():
            torch._foreach_lerp_([_local(weight) for weight in copy.values()], live, 1 - keep_share(std, images, added))

    @contextmanager
    def in_place(self, std: float) -> Iterator[None]:
        """Context in which the model computes with this average instead of its own weights. 0 changes nothing."""
        if std == 0:
            yield
            return
        kept = [_local(weight).detach().clone() for weight in self.live.values()]
        try:
            self._overwrite([_local(weight) for weight in self.copies[std].values()])
            yield
        finally:
            self._overwrite(kept)

    @torch.no_grad()
    def _overwrite(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self.live.values(), values, strict=True):
            _local(weight).copy_(value)


def _local(weight: Tensor) -> Tensor:
    """The local shard of a sharded tensor; a plain tensor itself."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


def _inner(a_images, a_std, b_images, b_std):
    """Inner product of two profiles, equation 151."""
    a, b = np.vectorize(exponent_of)(a_std), np.vectorize(exponent_of)(b_std)
    ratio = (a_images / b_images) ** np.where(a_images < b_images, b, -a)
    return (a + 1) * (b + 1) * ratio / ((a + b + 1) * np.maximum(a_images, b_images))
