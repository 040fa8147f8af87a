"""Packs samples of any resolution into one row without padding; samples do not attend to each other.

Shapes: N samples, L_i image tokens and S_i text tokens of sample i, C packed latent channels, E text width. A row has
the image tokens of all samples one after another, and their text tokens likewise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leanlens.batches.encode import EncodedBatch
from leanlens.models.transformer import LensTransformer2DModel


@dataclass(frozen=True)
class PackedBatch:
    """`latents` (1, sum of L_i, C); `text` (1, sum of S_i, E) for each layer; the rest has one entry per sample."""

    latents: Tensor
    text: list[Tensor]
    grids: list[tuple[int, int]]
    text_lengths: list[int]
    keys: list[str]

    @property
    def lengths(self) -> list[int]:
        """Image tokens of each sample."""
        return [height * width for height, width in self.grids]


def pack(batches: Sequence[EncodedBatch]) -> PackedBatch:
    """Put the samples of several batches into one row, in their order, without the padding of their texts.

    Raises:
        ValueError: no batches.
    """
    if not batches:
        raise ValueError("batches is empty: expected one or more")
    masks = [batch.text.mask for batch in batches]
    return PackedBatch(
        latents=torch.cat([batch.latents.flatten(0, 1) for batch in batches])[None],
        text=[
            torch.cat([batch.text.layers[layer][mask] for batch, mask in zip(batches, masks, strict=True)])[None]
            for layer in range(len(batches[0].text.layers))
        ],
        grids=[batch.grid for batch in batches for _ in batch.keys],
        text_lengths=[count for mask in masks for count in mask.sum(1).tolist()],
        keys=[key for batch in batches for key in batch.keys],
    )


def predict_packed(
    transformer: LensTransformer2DModel, packed: PackedBatch, hidden_states: Tensor, timestep: Tensor
) -> Tensor:
    """The velocity of noised latents in the layout of `packed.latents`: (1, sum of L_i, C) -> the same shape.

    Args:
        hidden_states: noised latents.
        timestep: (N,) noise levels in 0..1, one per sample.
    """
    return transformer(
        hidden_states=hidden_states,
        encoder_hidden_states=packed.text,
        timestep=timestep,
        img_shapes=[(1, *grid) for grid in packed.grids],
        text_lengths=packed.text_lengths,
    )


def spread(values: Tensor, packed: PackedBatch) -> Tensor:
    """Repeat one value per sample (N,) for each of its image tokens: (1, sum of L_i, 1)."""
    lengths = torch.tensor(packed.lengths, device=values.device)
    return values.repeat_interleave(lengths, output_size=sum(packed.lengths))[None, :, None]


def sample_means(values: Tensor, packed: PackedBatch) -> Tensor:
    """The mean over each sample's tokens and channels: (1, sum of L_i, C) -> (N,)."""
    return torch.stack([part.mean() for part in values[0].split(packed.lengths)])
