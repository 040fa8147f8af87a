"""Encodes prompts into text features: the states of several language-model layers and a mask of real tokens.

The opened folder decides which language model and which template do that; nothing after this file knows.

Shapes: B prompts, S text tokens after the template's prefix is dropped, E width of the language model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leanlens.models.text_encoder import LensGptOssEncoder, layer_features
from leanlens.pipeline.template_date import DEFAULT_DATE, MAX_SEQUENCE_LENGTH
from leanlens.pipeline.tokens import template_named, tokenize


@dataclass(frozen=True)
class TextFeatures:
    """`layers`: one (B, S, E) tensor for each selected layer; `mask`: (B, S) bool, False where a token is padding."""

    layers: list[Tensor]
    mask: Tensor

    def repeat(self, times: int) -> "TextFeatures":
        """Every row `times` times, copies next to each other: (B * times, S, E)."""
        return TextFeatures([x.repeat_interleave(times, 0) for x in self.layers], self.mask.repeat_interleave(times, 0))

    def padded(self, length: int) -> "TextFeatures":
        """Zeros and False on the right up to `length` tokens."""
        extra = length - self.mask.shape[1]
        pad = torch.nn.functional.pad
        return TextFeatures([pad(x, (0, 0, 0, extra)) for x in self.layers], pad(self.mask, (0, extra), value=False))

    def trimmed(self) -> "TextFeatures":
        """Without the columns that are padding in every row."""
        used = int(self.mask.any(0).nonzero().max()) + 1 if self.mask.any() else 0
        return TextFeatures([x[:, :used] for x in self.layers], self.mask[:, :used])

    def without_text(self) -> "TextFeatures":
        """The same rows with zero tokens: what Lens knows as "no prompt"."""
        return TextFeatures([x[:, :0] for x in self.layers], self.mask[:, :0])

    def to(self, device: Any, dtype: torch.dtype) -> "TextFeatures":
        return TextFeatures([x.to(device, dtype) for x in self.layers], self.mask.to(device, torch.bool))

    def cpu(self) -> "TextFeatures":
        return TextFeatures([x.cpu() for x in self.layers], self.mask.cpu())

    @property
    def size(self) -> int:
        """Bytes of the layers."""
        return sum(x.nbytes for x in self.layers)

    def to_tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The form in which features are written: `layer00`, `layer01`, ..., and `mask` where there is padding."""
        layers = {f"{prefix}layer{number:02d}": layer for number, layer in enumerate(self.layers)}
        return layers if bool(self.mask.all()) else {**layers, f"{prefix}mask": self.mask}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> "TextFeatures":
        """The features that `to_tensors` gave, or an older version, which named layers `0`, `1`, ... after a prefix."""
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        names = sorted(own.keys() - {"mask"}, key=lambda name: int(name.removeprefix("layer")))
        layers = [own[name] for name in names]
        mask = own.get("mask", torch.ones(layers[0].shape[:2], dtype=torch.bool, device=layers[0].device))
        return cls(layers, mask)


def join(rows: Sequence[TextFeatures]) -> TextFeatures:
    """Stack several along the batch, padded to the longest."""
    length = max(row.mask.shape[1] for row in rows)
    rows = [row.padded(length) for row in rows]
    layers = [torch.cat(group) for group in zip(*(row.layers for row in rows), strict=True)]
    return TextFeatures(layers, torch.cat([row.mask for row in rows]))


class TextSide:
    """Prompts -> `TextFeatures`.

    Args:
        tokenizer: a transformers tokenizer.
        encoder: `LensGptOssEncoder`, or any frozen transformers language model.
        layers: layers whose features are wanted, counted from 0, when the encoder's own configuration names none.
        template: "harmony" or "plain"; None takes harmony for GPT-OSS and plain for any other model.
        device: where the encoder computes, if that is not where its weights lie.
    """

    def __init__(
        self, tokenizer: Any, encoder: Any, layers: Sequence[int], template: str | None = None, device: Any = None
    ):
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.layers = tuple(getattr(encoder.config, "lens_selected_layers", None) or layers)
        self.device = device
        self.template = template or ("harmony" if isinstance(encoder, LensGptOssEncoder) else "plain")

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        date: str = DEFAULT_DATE,
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
    ) -> TextFeatures:
        """Encode `prompts` in one batch; the template's prefix is encoded with them and dropped."""
        tokens = tokenize(self.tokenizer, prompts, template_named(self.template, date), max_sequence_length)
        device = self.device or self.encoder.device
        states = layer_features(self.encoder, self.layers, tokens.ids.to(device), tokens.mask.to(device))
        return TextFeatures(
            [state[:, tokens.prefix :] for state in states], tokens.mask[:, tokens.prefix :].to(device, torch.bool)
        )

    def negative(self, prompts: list[str], like: TextFeatures, **options: Any) -> TextFeatures:
        """Features of negative prompts, row for row beside `like`; an empty or blank one has zero tokens."""
        written = [index for index, prompt in enumerate(prompts) if prompt.strip()]
        if not written:
            return like.without_text()
        encoded = self([prompts[index] for index in written], **options)
        layers = [x.new_zeros(len(prompts), *x.shape[1:]) for x in encoded.layers]
        mask = encoded.mask.new_zeros(len(prompts), encoded.mask.shape[1])
        for target, source in zip([*layers, mask], [*encoded.layers, encoded.mask], strict=True):
            target[written] = source
        return TextFeatures(layers, mask)
