"""Computes projected text and the modulation of every block once per drawing instead of in every step.

A third of the released weights (1.36 of 4.10 billion) do nothing but turn a noise level into modulation, so with the
rows of all levels at hand they are read once in a drawing and not in every pass of every branch. What is computed is
what each pass would compute: level by level, because a product of several rows at once rounds differently. For one
picture it is equal to the last bit; in a batch, whose equal rows are then computed as one, to rounding.

The keys and values of text are not among it: the text stream is modulated by the noise level and reads the image.

Shapes: B batch, S text tokens, N levels, D width of the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from torch import Tensor, nn
from torch.nn import functional as F

from leanlens.models.offloaded_linear import OffloadedLinear

Modulation = Tensor | tuple[Tensor, Tensor]


class ModulationCache:
    """Handed to every call of the transformer that belongs to one drawing.

    Args:
        times: (N,) noise levels in 0..1, in the dtype and on the device of the latents.

    Attributes:
        step: index of the level that the next call is at; the owner of the loop sets it.
    """

    def __init__(self, times: Tensor):
        self.times = times
        self.step = 0
        # Each level has tensors of its own: a compiled block sees what a view is cut from, and would know N.
        self._embeddings: list[Tensor] = []  # N of (1, D)
        self._blocks: dict[nn.Module, tuple[list[Tensor], list[Tensor]]] = {}  # N of (1, 6 D) for image and text
        self._texts: dict[int, tuple[Any, Tensor]] = {}

    def text(self, transformer: Any, features: list[Tensor]) -> Tensor:
        """`transformer.project_text(features)`, (B, S, D); the same list gives the same tensor."""
        known = self._texts.get(id(features))
        if known is None:  # the features are kept beside it, so that no other list can have their id
            known = self._texts[id(features)] = features, transformer.project_text(features)
        return known[1]

    def embedding(self, transformer: Any, like: Tensor) -> Tensor:
        """The level's embedding, (1, D), in the dtype of `like` (B, L, D).

        Raises:
            IndexError: a step past the last level.
        """
        if self.step >= len(self.times):
            raise IndexError(f"step {self.step} is not one of the {len(self.times)} levels, which count from 0")
        if not self._embeddings:
            self._embeddings = [transformer.time_text_embed(time, like[:1]) for time in self.times.split(1)]
        return self._embeddings[self.step]

    def modulation(self, block: Any, embedding: Tensor) -> Modulation:
        """What `block` makes of the level, (1, 6 D) for image and text.

        A block whose weights are elsewhere until it runs gets the embedding itself, to do it by itself.
        """
        if block not in self._blocks:
            if _comes_when_it_runs(block):
                return embedding
            self._blocks[block] = self._rows(block.img_mod), self._rows(block.txt_mod)
        image, text = self._blocks[block]
        return image[self.step], text[self.step]

    def _rows(self, modulation: nn.Sequential) -> list[Tensor]:
        """N of (1, 6 D), each as a call of its own gives it."""
        activation, linear = modulation
        with _weights_here(linear, self._embeddings[0].device) as product:
            return [product(activation(row)) for row in self._embeddings]


def _comes_when_it_runs(block: Any) -> bool:
    """Whether the block's own call brings its weights: offloaded in groups, or sharded over processes."""
    return _is_group_offload_enabled(block) or any(hasattr(p, "device_mesh") for p in block.img_mod.parameters())


@contextmanager
def _weights_here(linear: Any, device: torch.device) -> Iterator[Any]:
    """A layer whose weights are fetched for each call has them fetched once for all calls within."""
    if isinstance(linear, OffloadedLinear):
        yield linear.fetched(device)
        return
    hook = getattr(linear, "_hf_hook", None)
    if hook is None:
        yield linear
        return
    hook.pre_forward(linear)
    try:
        yield lambda row: F.linear(row, linear.weight, linear.bias)
    finally:
        hook.post_forward(linear, None)
