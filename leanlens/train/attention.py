"""Joint attention written out as matrix products, for compiled training on processors.

Comes in: query, key and value. Goes out: their attention, as the model's own processor gives it, with gradients. Knows
nothing of recipes.

The fused kernel that torch has for processors saves no time where rows are short, and its backward pass is slow: 16
rows of 112 tokens with 4 heads of 64 in bfloat16 took 2.8 ms forward and 15.5 ms back on two cores, products that the
compiler fuses with the softmax 1.4 and 2.4; 8 rows of 368 took 8.6 and 21.5 against 6.7 and 10.3 (torch 2.13).
"""

from typing import cast

from torch import Tensor

from leanlens.models.transformer import LensAttention, LensAttnProcessor, LensTransformer2DModel

TOKENS = 1024  # the longest row whose table of scores is written; it takes 4 bytes for each pair of tokens and head


class WrittenOutAttnProcessor(LensAttnProcessor):
    """The model's attention, with the scores of short rows written out."""

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """As in the base class; rows of more than `TOKENS` tokens go to the fused kernel."""
        if query.shape[1] > TOKENS:
            return super().mix(query, key, value, mask)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (B, H, N, K)
        scores = (query @ key.mT).float() * query.shape[-1] ** -0.5  # (B, H, N, N)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2)


def write_out_attention(model: LensTransformer2DModel) -> None:
    """Give every block of `model` the processor of this file; weights and their names stay."""
    for block in model.transformer_blocks:
        cast(LensAttention, block.attn).processor = WrittenOutAttnProcessor()
