"""The state of a run: what a checkpoint holds, and how a run is started or continued.

Comes in: model, optimisers, averages, a stream of data. Goes out: nested tensors and plain facts for `checkpoint`, and
the same objects set back to what a checkpoint holds, bit for bit. Knows nothing of losses.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from leanlens.config import differences, plain
from leanlens.dist import Group, wait_for_all
from leanlens.files import read_json, whole_file
from leanlens.train.checkpoint import load_tensors, read_facts
from leanlens.train.config import TrainRecipe
from leanlens.train.ema import Averages
from leanlens.train.export import is_run

# Keys that may differ between a run and its continuation: where to stop, where it lies, what it runs on.
FREE_KEYS = ("train.steps", "run.dir", "run.device")


@dataclass
class Progress:
    """How far a run is; all counts since its first step, over all processes.

    Attributes:
        step: optimiser steps made.
        images, image_tokens, text_tokens: learnt from, with repetition; text tokens with padding.
        flops: of the model, forward and backward. encoder_flops: of the frozen encoders.
        seconds: of training, checkpoints and sampling included, while a process was alive.
        recent: the last losses, newest last.
    """

    step: int = 0
    images: int = 0
    image_tokens: int = 0
    text_tokens: int = 0
    flops: float = 0
    encoder_flops: float = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)


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
        return {"progress": asdict(self.progress), "stream": self.stream.state_dict()}

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


def require_folder(folder: Path) -> None:
    """Check that `run.dir` is a folder, or can become one.

    Raises:
        ValueError: it, or a folder that it lies in, is a file.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"run.dir {folder} is not accepted: {path} is a file; give the path of a folder")


def claim_folder(recipe: TrainRecipe, group: Group) -> None:
    """Write the recipe into the run's folder, or check that the one there is the same run.

    Raises:
        ValueError: the folder holds a run with another recipe; every difference is shown.
    """
    folder = recipe.run.dir
    require_folder(folder)
    path, new = folder / "recipe.json", plain(recipe)
    if is_run(folder):
        changed = differences(read_json(path), new)
        lines = [f"{key}: {old!r} there, {now!r} here" for key, (old, now) in changed.items() if key not in FREE_KEYS]
        if lines:
            raise ValueError(
                f"run.dir {folder} holds a run with another recipe ({'; '.join(lines)}); only train.steps may change: "
                "set the others back, or give another run.dir"
            )
    wait_for_all()
    if group.leads:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    wait_for_all()
