"""Modulation weights that stay in main memory while the rest of the transformer is on its device.

Each modulation layer is copied to the device while it computes. `modulation_cache.py` has every layer copied once in a
drawing, because all noise levels are known beforehand. They are a third of the released weights (1.36 of 4.10 billion),
and what they give for 20 levels is 35 MB.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OffloadedLinear(nn.Linear):
    """A linear layer whose weights stay where they are, whatever its model is moved to."""

    def _apply(self, fn: Any, recurse: bool = True) -> "OffloadedLinear":
        """Moving or casting the whole model leaves this layer as it is."""
        return self

    def fetched(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The layer with a copy of its weights on `device`, which lives as long as what this gives."""
        weight = self.weight.to(device, non_blocking=True)
        bias = None if self.bias is None else self.bias.to(device, non_blocking=True)
        return partial(F.linear, weight=weight, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return self.fetched(input.device)(input)


def offload_modulation(transformer: Any, device: torch.device) -> None:
    """Keep the modulation of every block in main memory, pinned where the device is a GPU.

    Args:
        transformer: on the processor, in the dtype that it computes in.
        device: where it will compute.
    """
    for block in transformer.transformer_blocks:
        for _, linear in (block.img_mod, block.txt_mod):
            if device.type == "cuda":
                for name, value in [*linear.named_parameters()]:
                    setattr(linear, name, nn.Parameter(value.detach().pin_memory(), requires_grad=False))
            linear.__class__ = OffloadedLinear
