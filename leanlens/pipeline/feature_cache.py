"""Caches the text features of prompts on disk, under a checksum of everything they depend on.

A prompt that is cached needs no text encoder. Features read are bit-equal to features encoded.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.template_date import resolve_date
from leanlens.store import Store, content_key

Pair = tuple[TextFeatures, TextFeatures]


class FeatureCache:
    """A folder of text features.

    Args:
        folder: made with the first prompt that is kept.
        encoder: checksum of the text encoder's and the tokenizer's files.
        dtype: that the text encoder computes in.
        device: what it computes on; the last bits differ between kinds of devices.
    """

    def __init__(self, folder: str | Path, encoder: str, dtype: torch.dtype, device: str):
        self.store = Store(folder)
        self.depends_on = {"encoder": encoder, "dtype": str(dtype), "device": device, "torch": torch.__version__}

    def find(self, text: tuple[str, str, str, int], encode: Callable[[], Pair]) -> Pair:
        """Features of (prompt, negative prompt, template date, tokens at most); what is not here is encoded and kept.

        Raises:
            ValueError: the folder cannot be written to.
        """
        prompt, negative, date, tokens = text
        key = content_key(
            kind="prompt features", prompt=prompt, negative=negative, date=resolve_date(date), tokens=tokens,
            **self.depends_on,
        )  # fmt: skip
        if (kept := self.store.load(key)) is not None:
            return _unpacked(kept, "positive"), _unpacked(kept, "negative")
        pair = encode()
        self.store.save(key, {**_packed(pair[0], "positive"), **_packed(pair[1], "negative")})
        return pair


def _packed(features: TextFeatures, name: str) -> dict[str, Tensor]:
    layers = {f"{name}.{index}": layer for index, layer in enumerate(features.layers)}
    return {**layers, f"{name}.mask": features.mask}


def _unpacked(tensors: dict[str, Tensor], name: str) -> TextFeatures:
    layers = [tensors[f"{name}.{index}"] for index in range(sum(key.startswith(f"{name}.") for key in tensors) - 1)]
    return TextFeatures(layers, tensors[f"{name}.mask"])
