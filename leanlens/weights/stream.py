"""Streams a model from disk: each layer's weights are loaded when it runs and unloaded afterwards.

accelerate's hooks load and unload the weights; this file is the mapping they read from. It decodes packed formats and
prefetches the next bytes. Results are bit-identical to the model in memory. The operating system caches the files in
free memory, so a machine with more memory reads less from the disk.
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

AHEAD_BYTES = 256_000_000  # bytes to prefetch


class StoredWeights(Mapping[str, Tensor]):
    """Official name -> tensor, read and decoded at each access.

    Args:
        layout: the files.
        names: tensor names, roughly in the order of the layers.
        dtype: dtype of the tensors.
        device: where they are decoded.
    """

    def __init__(self, layout: Layout, names: list[str], dtype: torch.dtype, device: torch.device):
        self.stored = stored_tensors(layout)
        self.names = names
        self.places = {name: index for index, name in enumerate(names)}
        self.dtype = dtype
        self.device = device
        self._last = self._until = 0  # index of the last access, and of the first tensor not prefetched

    def __getitem__(self, name: str) -> Tensor:
        self._prepare(self.places[name])
        return read_stored(self.stored[name], self.dtype, self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def _prepare(self, place: int) -> None:
        """Ask the operating system to prefetch `AHEAD_BYTES` from `place` on."""
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
    """A transformer or text encoder that computes on `device` and streams its weights from `path` layer by layer.

    Raises:
        ValueError: another component, damaged files, or names and shapes that do not fit.
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
