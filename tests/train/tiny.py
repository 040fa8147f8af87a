"""A run so small that a step takes milliseconds: the real denoiser at toy size, and random latents for data."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from leanlens.config import checked
from leanlens.dist import Group
from leanlens.pipeline.features import TextFeatures
from leanlens.train.checkpoint import latest_checkpoint
from leanlens.train.config import TrainRecipe
from leanlens.train.step import TrainingData

CPU = Group(0, 1, torch.device("cpu"))


def tiny_recipe(folder: Path, **tables: dict[str, Any]) -> TrainRecipe:
    """Two blocks of width 32 on pictures of 64 pixels; `tables` change single keys."""
    values: dict[str, dict[str, Any]] = {
        "run": {"dir": str(folder), "seed": 3},
        "model": {
            "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": [4, 6, 6],
            "enc_hidden_dim": 48, "selected_layer_index": [0, 1, 2, 3],
        },
        "data": {"scenes": {"num": 8}, "buckets": [{"base": 64, "batch": 2, "sizes": [[64, 64]]}]},
        "train": {"steps": 4, "micro_batches": 2, "precision": "float32"},
        "optim": {"lr": 1e-3, "warmup": 2},
        "save": {"every": 2, "keep": 2},
    }  # fmt: skip
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table}
    return checked(TrainRecipe, values)


@dataclass
class RandomStream:
    """Micro-batch number i of the whole run holds pictures i * batch, i * batch + 1, ...; a process takes its share.

    Args:
        sizes: (height, width) -> pictures; micro-batches take them in turn.
        broken: numbers of micro-batches whose latents are not finite.
    """

    sizes: dict[tuple[int, int], int]
    rank: int = 0
    world_size: int = 1
    broken: tuple[int, ...] = ()
    consumed: int = 0

    def __iter__(self) -> Iterator[SimpleNamespace]:
        while True:
            number = self.consumed + self.rank
            self.consumed += self.world_size
            yield self.batch(number)

    def batch(self, number: int) -> SimpleNamespace:
        table = list(self.sizes.items())
        full, turn = divmod(number, len(table))
        bucket, batch = table[turn]
        first = full * sum(self.sizes.values()) + sum(count for _, count in table[:turn])
        keys = [str(first + row) for row in range(batch)]
        return SimpleNamespace(bucket=bucket, captions=keys, keys=keys, broken=number in self.broken)

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.consumed = state["consumed"]


def encode(batch: SimpleNamespace) -> SimpleNamespace:
    """Latents and three text tokens that depend on each picture's key alone."""
    grid = (batch.bucket[0] // 16, batch.bucket[1] // 16)
    latents, texts = [], []
    for key in batch.keys:
        generator = torch.Generator().manual_seed(int(key))
        latents.append(torch.randn(grid[0] * grid[1], 128, generator=generator) * (torch.nan if batch.broken else 1))
        texts.append(torch.randn(4, 3, 48, generator=generator))
    layers = list(torch.stack(texts, dim=1))
    mask = torch.tensor([[True, True, int(key) % 2 == 0] for key in batch.keys])
    text = TextFeatures(layers, mask)
    return SimpleNamespace(latents=torch.stack(latents), grid=grid, text=text, keys=batch.keys)


def tiny_data(recipe: TrainRecipe, group: Group = CPU, broken: tuple[int, ...] = ()) -> TrainingData:
    """Random latents for the recipe's buckets; two held-out micro-batches."""
    stream = RandomStream(recipe.data.batch_sizes, group.rank, group.world_size, broken)
    return TrainingData(stream, encode, [stream.batch(1000), stream.batch(1001)])


def state_of(folder: Path) -> dict[str, Any]:
    """Every value of a run's latest checkpoint by its name, read by torch's own converter."""
    with tempfile.TemporaryDirectory() as scratch:
        dcp_to_torch_save(latest_checkpoint(folder / "checkpoints"), f"{scratch}/state.pt")
        return dict(_flat(torch.load(f"{scratch}/state.pt", weights_only=False)))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def differing(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Names of the values of two states that are not the same bits."""
    assert left.keys() == right.keys()
    same = {
        name: value.equal(right[name]) if isinstance(value, torch.Tensor) else value == right[name]
        for name, value in left.items()
    }
    return [name for name, equal in same.items() if not equal]
