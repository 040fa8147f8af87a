"""Training times: which noise levels a picture is learnt at.

Comes in: the number of image tokens and standard normal numbers. Goes out: levels t in 0..1, 1 pure noise. Pure; the
randomness is the caller's.

    t = sigmoid(mu(n) + z),  z ~ N(0, 1),   mu(n) = 1.0 + 0.3 (n - 256) / (4096 - 256)

More tokens carry more redundancy, so that the same noise hides less of the picture and mu grows with n: 1.00 at 256
tokens, 1.06 at 1024 (512 pixels), 1.30 at 4096 (1024 pixels). Smaller and larger n continue the line.

A recipe may move the line and change the width of z.

Source: Lens, arXiv 2605.21573, section 3. The width of the normal is not stated there; 1 is our choice.
"""

import torch
from torch import Tensor

from leanlens.flow.schedule import linear_mu

PAPER_MEAN = 1.0  # mu at 256 tokens


def training_mu(tokens: int, mean: float = PAPER_MEAN) -> float:
    """mu(n) of `tokens` image tokens; with another `mean` than the paper's at 256 tokens, the whole line is moved."""
    return linear_mu(tokens, mean, mean + 0.3, 256, 4096)


def training_times(normal: Tensor, tokens: int, mean: float = PAPER_MEAN, std: float = 1.0) -> Tensor:
    """Levels for standard normal numbers of any shape: sigmoid(mu(n) + std z)."""
    return torch.sigmoid(training_mu(tokens, mean) + std * normal)


def spread_times(count: int, tokens: int) -> Tensor:
    """`count` fixed levels (count,) at equal steps of probability, for losses that are compared over a run."""
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return training_times(torch.special.ndtri(quantiles), tokens).float()
