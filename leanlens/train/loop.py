"""The training loop, from the first step to the export, of anything that a `Task` describes; read this file first.

A method that needs another loop writes its own on `leanlens.train.run`, which keeps the state of every run.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from leanlens.dist import Group
from leanlens.train.config import Optim
from leanlens.train.optim import build_optimizers, clip_gradients
from leanlens.train.run import Recipe, keep
from leanlens.train.snapshots import write_snapshots
from leanlens.train.state import Progress, StepSums, Stream

R = TypeVar("R", bound=Recipe)  # the recipe
S = TypeVar("S")  # what `build` opens for a run of this kind: models, data, frozen networks


@dataclass(frozen=True)
class StepFigures:
    """What the loop measures in a step besides its sums.

    Attributes:
        norm: of the gradient, before clipping.
        lr: the learning rate.
        seconds: duration of the step, validation included.
        measured: what `Task.validate` returned.
    """

    norm: float
    lr: float
    seconds: float
    measured: dict[str, float]


@dataclass(frozen=True)
class Task(Generic[R, S]):
    """One kind of training, as functions that the loop calls in this order.

    Attributes:
        build: recipe, processes, whether a run is continued -> the opened objects of the run: an object of the task's
            own type with everything that a run needs, the model on its device. All other functions get it as `opened`.
        trainable: opened -> the module whose weights with `requires_grad` are trained; a checkpoint holds only these.
        batches: opened -> the training data.
        optimizers: model, `[optim]` -> its optimisers.
        prepare: opened; called once, with the weights of the run's first or next step.
        loss: opened, batches, number of the step -> the step's sums. Adds the gradients to those of the weights.
        is_due: recipe, steps done -> whether to call `validate` after this step.
        validate: opened, steps done -> figures on held-out data. The averaged weights are in place.
        line: opened, progress, sums, figures -> one line of `metrics.jsonl`.
        words: the line as text for the terminal.
        export: opened, folder -> writes the folder completely. The averaged weights are in place; called on all
            processes.
        score: name of the measured figure that chooses the best checkpoint, lower is better; empty for none.
    """

    build: Callable[[R, Group, bool], S]
    trainable: Callable[[S], nn.Module]
    batches: Callable[[S], Stream]
    loss: Callable[[S, Iterator[Any], int], StepSums]
    line: Callable[[S, Progress, StepSums, StepFigures], dict[str, Any]]
    words: Callable[[dict[str, Any]], str]
    export: Callable[[S, Path], None]
    is_due: Callable[[R, int], bool] = lambda recipe, done: False
    validate: Callable[[S, int], dict[str, float]] = lambda opened, done: {}
    prepare: Callable[[S], None] = lambda opened: None
    optimizers: Callable[[nn.Module, Optim], list[torch.optim.Optimizer]] = build_optimizers
    score: str = ""


def train(task: Task[R, S], recipe: R, group: Group) -> Progress:
    """Start or continue the run in `recipe.run.dir` until `train.steps`, `train.minutes`, Ctrl-C or SIGTERM.

    Returns:
        The progress of the run, and whether a signal stopped it.

    Raises:
        ValueError: another run is in `run.dir`, or the recipe is invalid; raised before the first step.
        FloatingPointError: the loss stays broken after `guard.restores` restorations.
        OSError: the last checkpoint could not be written.
    """
    with keep(recipe, group) as run:
        opened = task.build(recipe, group, run.begun)
        model, stream = task.trainable(opened), task.batches(opened)
        run.start(model, task.optimizers(model, recipe.optim), stream)
        if run.progress.step < recipe.train.steps:
            task.prepare(opened)
        batches = iter(stream)

        while run.should_continue():
            began, step = time.monotonic(), run.progress.step
            model.zero_grad(set_to_none=True)
            sums = task.loss(opened, batches, step)
            norm = clip_gradients(model, recipe.optim.clip)
            if run.restored_after_fault(sums.loss, norm):
                continue
            run.update(sums)

            done, measured = run.progress.step, {}
            if task.is_due(recipe, done):
                with run.averages.in_place(recipe.ema.export):
                    measured = task.validate(opened, done)
            if recipe.ema.every is not None and done % recipe.ema.every == 0:
                write_snapshots(run.folder, done, run.progress.samples, run.averages, group.leads)
            figures = StepFigures(norm, run.lr_factor * recipe.optim.lr, time.monotonic() - began, measured)
            line = task.line(opened, run.progress, sums, figures)
            run.record(line, task.words(line), measured=bool(measured))
            run.save_when_due(measured.get(task.score))

        if run.finish():
            with run.averages.in_place(recipe.ema.export):
                task.export(opened, run.folder / "export")
        return run.progress
