"""Computes classifier-free guidance: extrapolates, then rescales each token to the norm of the conditional velocity.

Source: the released Lens code. The rescale is per token, over channels, and may lengthen as well as shorten.
"""

import torch
from torch import Tensor


def guided_velocity(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """u + scale (c - u), rescaled per token to the norm of c.

    Args:
        conditional: c, (B, L, C).
        unconditional: u, (B, L, C).
        scale: guidance scale; 1 gives c up to rounding.

    Returns:
        (B, L, C) in the dtype of `conditional`. A token whose extrapolation is exactly zero stays zero.
    """
    combined = unconditional + scale * (conditional - unconditional)
    target = torch.linalg.vector_norm(conditional, dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(combined, dim=-1, keepdim=True)
    factor = torch.where(length > 0, target / length.clamp_min(1e-12), torch.ones_like(length))
    return combined * factor
