"""The state of a run: what a checkpoint holds, and how it is restored to the same bits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from leanlens.train.checkpoint import load_tensors, read_facts
from leanlens.train.ema import Averages


class Stream(Protocol):
    """Endless batches. The state is the same on every process, and counts for the next iterator."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...

    def __iter__(self) -> Any: ...


@dataclass(frozen=True)
class StepSums:
    """Sums over all batches and processes of one step.

    Attributes:
        loss: the value that was minimised.
        samples: their number.
        image_tokens, text_tokens: of them; text tokens with padding.
        flops: of the model, forward and backward. encoder_flops: of the frozen encoders.
        values: further numbers for the line of metrics.
    """

    loss: float
    samples: int
    image_tokens: int = 0
    text_tokens: int = 0
    flops: float = 0.0
    encoder_flops: float = 0.0
    values: dict[str, float] = field(default_factory=dict)


@dataclass
class Progress:
    """How far a run is; all counts since its first step, over all processes.

    Attributes:
        step: optimiser steps made.
        samples, image_tokens, text_tokens, flops, encoder_flops: as in `StepSums`, with repetition.
        seconds: of training, checkpoints and sampling included, while a process was alive.
        recent: the latest losses, newest last.
        stopped: whether a signal ended this process before the run's last step; not part of the state.
    """

    step: int = 0
    samples: int = 0
    image_tokens: int = 0
    text_tokens: int = 0
    flops: float = 0
    encoder_flops: float = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    stopped: bool = False

    def add(self, sums: StepSums, window: int) -> None:
        """Count a step, and remember its loss among the last `window`."""
        self.step += 1
        for name in ("samples", "image_tokens", "text_tokens", "flops", "encoder_flops"):
            setattr(self, name, getattr(self, name) + getattr(sums, name))
        self.recent = [*self.recent, sums.loss][-window:]

    def facts(self) -> dict[str, Any]:
        """The values that a checkpoint stores."""
        return {name: value for name, value in asdict(self).items() if name != "stopped"}

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The progress in a checkpoint; those of earlier versions call the samples `images`."""
        return cls(**{"samples" if name == "images" else name: value for name, value in facts.items()})


@dataclass
class RunState:
    """Everything that changes during a run. Frozen weights are not part of it."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    averages: Averages
    stream: Stream
    progress: Progress = field(default_factory=Progress)

    def tensors(self) -> dict[str, Any]:
        """The tensors that a checkpoint stores, in full precision, by the names of the weights."""
        return {
            "model": trained_weights(self.model),
            "optimizer": get_optimizer_state_dict(self.model, list(self.optimizers)),
            "averages": {f"{std:g}": copy for std, copy in self.averages.copies.items()},
        }

    def facts(self) -> dict[str, Any]:
        """The plain values that a checkpoint stores: progress and the position in the data, equal on all processes."""
        return {"progress": self.progress.facts(), "stream": self.stream.state_dict()}

    def restore(self, checkpoint: Path, rewind: bool = True) -> None:
        """Restore a checkpoint; without `rewind` the data continues from its current position.

        Raises:
            ValueError: the checkpoint belongs to another model or other data.
        """
        facts = read_facts(checkpoint)
        tensors = self.tensors()
        load_tensors(checkpoint, tensors)
        set_optimizer_state_dict(self.model, list(self.optimizers), tensors["optimizer"])
        self.progress = Progress.of_facts(facts["progress"])
        if rewind:
            self.stream.load_state_dict(facts["stream"])

    @torch.no_grad()
    def restore_file(self, path: Path) -> None:
        """Restore the `state.safetensors` of an autoencoder or language run of an earlier version.

        Raises:
            ValueError: the file belongs to another model.
        """
        tensors = self.tensors()
        with safe_open(path, "pt") as file:
            there = set(file.keys())
            for target, name in _in_one_file(tensors):
                if name in there:
                    target.copy_(file.get_tensor(name))
                elif not name.startswith("optimizer."):  # a weight that no loss depends on had no moments
                    raise ValueError(f"{path} does not fit this model: it has no {name}")
            self.progress = Progress(**json.loads(file.metadata()["progress"]))
        set_optimizer_state_dict(self.model, list(self.optimizers), tensors["optimizer"])
        self.stream.load_state_dict({"next": self.progress.step})


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of a model that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _in_one_file(tensors: dict[str, Any]) -> list[tuple[Tensor, str]]:
    """Every tensor of a state, and its name in a `state.safetensors`."""
    return [
        *((weight, f"model.{name}") for name, weight in tensors["model"].items()),
        *(
            (value, f"optimizer.{key}.{name}")
            for name, state in tensors["optimizer"]["state"].items()
            for key, value in state.items()
        ),
        *(
            (value, f"average.{std}.{name}")
            for std, copy in tensors["averages"].items()
            for name, value in copy.items()
        ),
    ]
