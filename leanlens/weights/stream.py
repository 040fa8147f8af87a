"""A model that is never whole in memory: each layer's weights are read when it runs and let go when it has run.

Comes in: files in any layout. Goes out: the model, ready to run on a device, that holds nothing between two layers.
accelerate's hooks put weights in and take them out; this file is the mapping they read from, which decodes whatever
packed form the files have, and asks the system to have the next bytes ready meanwhile.

What is computed is what the model in memory computes, to the last bit. Memory that is free serves as the cache of the
files, so a machine with more of it reads less from the disk.

Knows nothing of pipelines.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

from leanlens.weights.layouts import Layout, identify, require_readable
from leanlens.weights.load import empty_model, read_stored, require_fit, stored_tensors

AHEAD_BYTES = 256_000_000  # of the files, asked for before they are needed


class StoredWeights(Mapping[str, Tensor]):
    """Official name -> tensor, read and decoded each time it is asked for.

    Args:
        layout: the files.
        names: of the model, in about the order of its layers.
        dtype: of what is given.
        device: where it is decoded and left.
    """

    def __init__(self, layout: Layout, names: list[str], dtype: torch.dtype, device: torch.device):
        self.stored = stored_tensors(layout)
        self.names = names
        self.places = {name: index for index, name in enumerate(names)}
        self.dtype = dtype
        self.device = device
        self._last = self._until = 0  # what was asked for last, and the first that the system was not told of

    def __getitem__(self, name: str) -> Tensor:
        self._prepare(self.places[name])
        return read_stored(self.stored[name], self.dtype, self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def _prepare(self, place: int) -> None:
        """Have the system read on from `place`, as far ahead as `AHEAD_BYTES`."""
        if not hasattr(os, "posix_fadvise"):
            return
        self._until = place + 1 if place < self._last else max(self._until, place + 1)  # smaller: a new pass
        self._last = place
        ahead = sum(map(self._size, self.names[place + 1 : self._until]))
        while self._until < len(self.names) and ahead < AHEAD_BYTES:
            name = self.names[self._until]
            for entry in (self.stored[name].weight, *self.stored[name].scales):
                with open(entry.file, "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), entry.start, entry.stop - entry.start, os.POSIX_FADV_WILLNEED)
            ahead += self._size(name)
            self._until += 1

    def _size(self, name: str) -> int:
        weight = self.stored[name].weight
        return weight.stop - weight.start


def stream(
    path: str | Path,
    component: str,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> Any:
    """A transformer or text encoder that computes on `device` and reads its weights from `path` layer by layer.

    Raises:
        ValueError: something else than the component, damaged, or names and shapes that do not fit.
    """
    layout = identify(path)
    require_readable(layout, component)
    model, device = nn.Module.to(empty_model(layout), dtype), torch.device(device)
    names = require_fit(model, stored_tensors(layout), layout)
    if component == "text_encoder":
        model.config.dtype = dtype
        model.model.rotary_emb = GptOssRotaryEmbedding(model.config).to(device)  # its buffers are computed, not stored
    cpu_offload(model.eval(), device, state_dict=StoredWeights(layout, names, dtype, device))
    return model
