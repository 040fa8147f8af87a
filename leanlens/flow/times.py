"""Computes the noise levels t at which images are trained, from standard normal numbers that the caller samples.

    t = sigmoid(mu(n) + z),  z ~ N(0, 1),   mu(n) = 1.0 + 0.3 (n - 256) / (4096 - 256)

More tokens carry more redundancy, so the same noise hides less of the image, and mu grows with n: 1.00 at 256 tokens,
1.06 at 1024 (512 pixels), 1.30 at 4096 (1024 pixels). The line continues for smaller and larger n. A recipe can move
the line and change the standard deviation of z.

Source: Lens, arXiv 2605.21573, section 3. The paper does not state the standard deviation of z; 1 is our choice.
"""

import torch
from torch import Tensor

from leanlens.flow.schedule import linear_mu

PAPER_MEAN = 1.0  # mu at 256 tokens


def training_mu(tokens: int, mean: float = PAPER_MEAN) -> float:
    """mu(n) for `tokens` image tokens; `mean` is its value at 256 tokens and moves the whole line."""
    return linear_mu(tokens, mean, mean + 0.3, 256, 4096)


def training_times(normal: Tensor, tokens: int, mean: float = PAPER_MEAN, std: float = 1.0) -> Tensor:
    """Levels for standard normal numbers of any shape: sigmoid(mu(n) + std z)."""
    return torch.sigmoid(training_mu(tokens, mean) + std * normal)


def spread_times(count: int, tokens: int) -> Tensor:
    """`count` fixed levels (count,) at equal steps of probability, so that validation losses are comparable."""
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return training_times(torch.special.ndtri(quantiles), tokens).float()
