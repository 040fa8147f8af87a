"""Joint attention written out as matrix products, for compiled blocks on processors.

Comes in: query, key and value. Goes out: their attention, as the model's own processor gives it, with gradients. Knows
nothing of recipes, pipelines or who compiles.

The fused kernel that torch has for processors gains nothing from bfloat16, and its backward pass is slow; the compiler
fuses the softmax with the products around it. Two cores of an AMD EPYC, torch 2.13, bfloat16: one row of 1,152 tokens
with 24 heads of 64, a head at a time, 18.6 ms instead of 45.1; of 4,250 tokens 311 instead of 613; 16 rows of 112
tokens with 4 heads, all at once, 1.4 ms and 2.4 back instead of 2.8 and 15.5. In float32 the fused kernel is as fast.
"""

from typing import cast

import torch
from torch import Tensor

from leanlens.models.transformer import LensAttention, LensAttnProcessor, LensTransformer2DModel

TOKENS = 1024  # the longest row whose tables of all heads are written at once; 4 bytes for each pair of tokens and head


class WrittenOutAttnProcessor(LensAttnProcessor):
    """The model's attention, with its tables of scores written out.

    Args:
        one_by_one: a head at a time, so that its table stays in the cache, and in 16 bits alone: for drawing. Without
            it all heads at once, where rows are short: for training.
    """

    def __init__(self, one_by_one: bool = False) -> None:
        self.one_by_one = one_by_one

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """As in the base class, which takes what is not to be written out."""
        if (query.dtype == torch.float32) if self.one_by_one else (query.shape[1] > TOKENS):
            return super().mix(query, key, value, mask)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (B, H, N, K)
        if not self.one_by_one:
            return _written_out(query, key, value, mask).transpose(1, 2)
        heads = zip(query.split(1, dim=1), key.split(1, dim=1), value.split(1, dim=1), strict=True)
        return torch.cat([_written_out(q, k, v, mask) for q, k, v in heads], dim=1).transpose(1, 2)


def _written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, N, K) each -> (B, H, N, K)."""
    scores = (query @ key.mT).float() * query.shape[-1] ** -0.5  # (B, H, N, N)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(value.dtype) @ value


def write_out_attention(model: LensTransformer2DModel, one_by_one: bool = False) -> None:
    """Give every block of `model` the processor of this file; weights and their names stay."""
    for block in model.transformer_blocks:
        cast(LensAttention, block.attn).processor = WrittenOutAttnProcessor(one_by_one)
