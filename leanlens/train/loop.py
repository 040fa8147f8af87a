"""Training, from the first step to the export, of whatever a `Task` describes; the file to read first.

Reinforcement learning and distillation have loops of their own on `run`, which keeps every run.
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
S = TypeVar("S")  # everything that a run of this kind keeps open: models, data, frozen networks


@dataclass(frozen=True)
class StepFigures:
    """What the loop knows of a step besides its sums.

    Attributes:
        norm: of the gradient, before it was clipped.
        lr: the learning rate.
        seconds: that the step took, measurements included.
        measured: what `Task.validate` found.
    """

    norm: float
    lr: float
    seconds: float
    measured: dict[str, float]


@dataclass(frozen=True)
class Task(Generic[R, S]):
    """One kind of thing that is trained, as functions that the loop calls in this order.

    Attributes:
        build: recipe, processes, whether a run goes on -> all that is open during the run, the model on its device.
        trainable: the module whose weights with `requires_grad` are trained; a checkpoint holds these alone.
        batches: what is learnt from.
        prepare: called once, when the weights are those of the run's first or next step.
        loss: batches, number of the step -> the step's sums; its gradients are added to those of the weights.
        is_due: recipe, steps made -> whether `validate` is called after this step.
        validate: open things, steps made -> figures on held-out data, of the averaged weights.
        line: open things, progress, sums, figures -> one line of metrics.
        words: the line in words, for those who look at the output alone.
        export: open things, folder -> the folder, whole, with the averaged weights. Called on all processes.
        score: the measured figure by which the best checkpoint is chosen, the lower the better.
        optimizers: model, `[optim]` -> its optimisers.
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
        How far the run is, and whether a signal stopped it.

    Raises:
        ValueError: another run is in `run.dir`, or anything in the recipe that cannot be; before a step is made.
        FloatingPointError: a loss that stays broken after `guard.restores` restorations.
        OSError: the last checkpoint could not be written.
    """
    with keep(recipe, group) as run:
        opened = task.build(recipe, group, run.begun)
        model, stream = task.trainable(opened), task.batches(opened)
        run.start(model, task.optimizers(model, recipe.optim), stream)
        if run.progress.step < recipe.train.steps:
            task.prepare(opened)
        batches = iter(stream)

        while run.goes_on():
            began, step = time.monotonic(), run.progress.step
            model.zero_grad(set_to_none=True)
            sums = task.loss(opened, batches, step)
            norm = clip_gradients(model, recipe.optim.clip)
            if run.goes_back(sums.loss, norm):
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
