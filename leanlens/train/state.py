"""The state of a run: what a checkpoint holds, and how a run is started or continued.

Comes in: model, optimisers, averages, a stream of data. Goes out: nested tensors and plain facts for `checkpoint`, and
the same objects set back to what a checkpoint holds, bit for bit. Knows nothing of losses.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from leanlens.dist import Group, gathered
from leanlens.train.checkpoint import load_tensors, read_facts
from leanlens.train.config import TrainRecipe
from leanlens.train.ema import Averages
from leanlens.train.export import is_run
from leanlens.train.resume import claim_run


@dataclass
class Progress:
    """How far a run is; all counts since its first step, over all processes.

    Attributes:
        step: optimiser steps made.
        images, image_tokens, text_tokens: learnt from, with repetition; text tokens with padding.
        flops: of the model, forward and backward. encoder_flops: of the frozen encoders.
        seconds: of training, checkpoints and sampling included, while a process was alive.
        recent: the last losses, newest last.
        stopped: whether a signal ended this process before the run's last step; not part of the state.
    """

    step: int = 0
    images: int = 0
    image_tokens: int = 0
    text_tokens: int = 0
    flops: float = 0
    encoder_flops: float = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    stopped: bool = False

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: value for name, value in asdict(self).items() if name != "stopped"}


@dataclass
class RunState:
    """Everything that changes during a run."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    averages: Averages
    stream: Any
    progress: Progress = field(default_factory=Progress)

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint keeps in full precision, by the names of the weights."""
        return {
            "model": dict(self.model.named_parameters()),
            "optimizer": get_optimizer_state_dict(self.model, list(self.optimizers)),
            "averages": {f"{std:g}": copy for std, copy in self.averages.copies.items()},
        }

    def facts(self) -> dict[str, Any]:
        """What it keeps as plain values; the place in the data, which is the same for all processes, among them."""
        return {"progress": self.progress.facts(), "stream": self.stream.state_dict()}

    def restore(self, checkpoint: Path, rewind: bool = True) -> None:
        """Set everything back to a checkpoint; without `rewind` the data goes on from where it is.

        Raises:
            ValueError: the checkpoint is of another model or of other data.
        """
        facts = read_facts(checkpoint)
        tensors = self.tensors()
        load_tensors(checkpoint, tensors)
        set_optimizer_state_dict(self.model, list(self.optimizers), tensors["optimizer"])
        self.progress = Progress(**facts["progress"])
        if rewind:
            self.stream.load_state_dict(facts["stream"])


def claim_folder(recipe: TrainRecipe, group: Group) -> None:
    """Write the recipe into the run's folder, or check that the one there is the same run.

    Raises:
        ValueError: the folder holds a run with another recipe; every difference is shown.
    """
    fault = None
    if group.leads:
        try:
            claim_run(recipe, is_run(recipe.run.dir))
        except ValueError as error:
            fault = str(error)
    if faults := [line for line in gathered(fault) if line]:
        raise ValueError(faults[0])
