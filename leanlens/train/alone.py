"""What a run that one process trains keeps: its recipe beside it, its whole state in one file, its rate by the clock.

Comes in: a recipe, a model, its optimisers. Goes out: `recipe.json` and `state.safetensors` in `run.dir`. The denoiser,
which many processes train, has `checkpoint.py` and `state.py` instead.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from leanlens.files import sync, whole_file, whole_folder
from leanlens.log import logger
from leanlens.train.ema import Averages
from leanlens.train.optim import rate_factor
from leanlens.train.resume import claim_run

STATE = "state.safetensors"


@dataclass
class Progress:
    """How far a run is: steps, samples seen, seconds of training; `stopped` if a signal ended this process early."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    stopped: bool = False


def claim(recipe: Any) -> None:
    """Write the recipe beside the run, or check that the one there is the same.

    Raises:
        ValueError: `run.dir` holds a run with another recipe.
    """
    claim_run(recipe, is_begun(recipe.run.dir))


def is_begun(folder: Path) -> bool:
    """Whether a run of one process has saved its state there."""
    return (folder / STATE).is_file() and (folder / "recipe.json").is_file()


def save(
    folder: Path,
    trained: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    averages: Averages | None = None,
) -> None:
    """The whole state in one file, averages of the weights included."""
    tensors = {f"model.{name}": value.contiguous() for name, value in trained.state_dict().items()}
    names = {id(weight): name for name, weight in trained.named_parameters()}
    for optimizer in optimizers:
        for weight, state in optimizer.state.items():
            tensors |= {f"optimizer.{key}.{names[id(weight)]}": value.contiguous() for key, value in state.items()}
    for std, copy in (averages.copies if averages else {}).items():
        tensors |= {f"average.{std:g}.{name}": value.contiguous() for name, value in copy.items()}
    facts = {name: value for name, value in asdict(progress).items() if name != "stopped"}
    with whole_file(folder / STATE) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(facts)})


def restore(
    folder: Path, trained: nn.Module, optimizers: Sequence[torch.optim.Optimizer], averages: Averages | None = None
) -> Progress:
    """Set everything back to the state in `folder`, if there is one."""
    path = folder / STATE
    if not path.exists():
        return Progress()
    tensors = load_file(path)
    trained.load_state_dict({name.removeprefix("model."): v for name, v in tensors.items() if name[:6] == "model."})
    names = {id(weight): name for name, weight in trained.named_parameters()}
    for optimizer in optimizers:
        for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
            name = names[id(weight)]
            if f"optimizer.step.{name}" not in tensors:  # a weight that no loss depends on has no state
                continue
            moments = {
                key: torch.empty_like(weight).copy_(tensors[f"optimizer.{key}.{name}"])
                for key in ("exp_avg", "exp_avg_sq")
            }
            optimizer.state[weight] = {"step": tensors[f"optimizer.step.{name}"], **moments}
    for std, copy in (averages.copies if averages else {}).items():
        for name, value in copy.items():
            value.copy_(tensors[f"average.{std:g}.{name}"])
    with safe_open(path, "pt") as file:
        return Progress(**json.loads(file.metadata()["progress"]))


def rate(recipe: Any, step: int, used: float) -> float:
    """The factor of the learning rate; where the time is bounded the schedule follows the `used` seconds."""
    if recipe.train.minutes is None or recipe.optim.length is None:
        return rate_factor(step, recipe.optim)
    part = used / (60 * recipe.train.minutes)
    at = max(step if step < recipe.optim.warmup else recipe.optim.warmup, int(part * recipe.optim.length))
    return rate_factor(min(at, recipe.optim.length), recipe.optim)


def is_time_up(recipe: Any, used: float) -> bool:
    """Whether the `used` seconds are all that the recipe gives one process."""
    return recipe.train.minutes is not None and used > 60 * recipe.train.minutes


def replace_export(output: Path, write: Callable[[Path], None]) -> None:
    """Write the folder anew: whole or not at all."""
    fresh = output.with_name(f".{output.name}-new")
    shutil.rmtree(fresh, ignore_errors=True)
    with whole_folder(fresh) as temporary:
        write(temporary)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(fresh, output)
    sync(output.parent)
    logger.info("exported %s", output)
