"""Defines the straight path between image and noise, and with it the time convention of the whole library.

    x_t = (1 - t) x0 + t noise          t = 1 is pure noise, t = 0 the image
    v   = d x_t / d t = noise - x0      what the denoiser predicts
    x0  = x_t - t v
    noise = x_t + (1 - t) v
    one Euler step from t to s:  x_s = x_t + (s - t) v

For papers that put noise at t = 0 (SiT, REPA, parts of the DMD line), exchange t with 1 - t and negate v.

Legend: x0 latents of the image, noise standard normal, t noise level in 0..1 of shape (B,) or scalar; B batch.

Source: Lens, arXiv 2605.21573, section 3; Lipman et al., arXiv 2210.02747.
"""

from torch import Tensor


def noised(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t for noise levels t (B,): (B, ...) in the dtype of `x0`."""
    t = _over(t, x0)
    return (1 - t) * x0 + t * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """The velocity noise - x0, which does not depend on t."""
    return noise - x0


def picture_at(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The x0 that the velocity `v` at x_t points to."""
    return x_t - _over(t, x_t) * v


def velocity_loss(predicted: Tensor, x0: Tensor, noise: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of a predicted velocity per sample: (B, ..., C) -> (B,), float32.

    Args:
        weights: channel weights (C,) with mean 1; None weighs all channels equally.
    """
    error = (predicted.float() - velocity(x0, noise).float()).square()
    return (error if weights is None else error * weights).flatten(1).mean(1)


def _over(t: Tensor, like: Tensor) -> Tensor:
    """Reshape noise levels (B,) to (B, 1, ...) in the dtype and on the device of `like` (B, ...)."""
    return t.to(like.device, like.dtype).reshape(-1, *[1] * (like.ndim - 1))
