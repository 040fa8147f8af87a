"""Keeps the state of a run for any training loop: folder, checkpoints, progress, clock, signals, loss guard, averages.

with keep(recipe, group) as run:
    run.start(model, build_optimizers(model, recipe.optim), stream)
    batches = iter(stream)
    while run.should_continue():
        ...                                       # a loss of next(batches), and its gradients
        if run.restored_after_fault(loss, norm):  # the loss was broken: the last checkpoint is back
            continue
        run.update(StepSums(loss, samples))
        run.record(line, words)
        run.save_when_due()
    if run.finish():
        ...                                       # export
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from leanlens.dist import Group, gathered
from leanlens.log import logger
from leanlens.train import config
from leanlens.train.best_effort import best_effort
from leanlens.train.checkpoint import CHECKPOINTS, STATE_FILE, Checkpoints, is_begun
from leanlens.train.ema import Averages
from leanlens.train.lock import held
from leanlens.train.metrics import MetricsFile
from leanlens.train.optim import rate_factor, set_rate
from leanlens.train.progress import ProgressLine
from leanlens.train.resume import require_same_run, write_recipe
from leanlens.train.signals import StopRequest, log_stopped, stop_on_signals
from leanlens.train.state import Progress, RunState, StepSums, Stream


class Length(Protocol):
    """The part of a `[train]` table that says when a run ends."""

    @property
    def steps(self) -> int: ...

    @property
    def minutes(self) -> float | None: ...


class Averaging(Protocol):
    """An `[ema]` table."""

    @property
    def stds(self) -> tuple[float, ...]: ...

    @property
    def every(self) -> int | None: ...

    @property
    def export(self) -> float: ...


class Written(Protocol):
    """A `[metrics]` table."""

    @property
    def tensorboard(self) -> bool: ...


class Recipe(Protocol):
    """The tables that recipes of all kinds have."""

    @property
    def run(self) -> config.Run: ...

    @property
    def train(self) -> Length: ...

    @property
    def optim(self) -> config.Optim: ...

    @property
    def ema(self) -> Averaging: ...

    @property
    def save(self) -> config.Save: ...

    @property
    def guard(self) -> config.Guard: ...

    @property
    def metrics(self) -> Written: ...


@contextmanager
def keep(recipe: Recipe, group: Group) -> Iterator["Run"]:
    """Context of a recipe's run: its folder is locked, and SIGTERM and Ctrl-C request a stop.

    Raises:
        ValueError: another process trains in `run.dir`, or it holds a run with another recipe.
    """
    with held(recipe.run.dir), stop_on_signals() as stop:
        run = Run(recipe, group, stop)
        try:
            yield run
        finally:
            run.close()


class Run:
    """A run in progress; `keep` makes one.

    Attributes:
        begun: whether the folder holds a state to continue from.
        averages: of the trained weights, with the widths of the recipe's `[ema]`.
        lr_factor: of the learning rate in the last update.
    """

    def __init__(self, recipe: Recipe, group: Group, stop: StopRequest):
        self.recipe, self.group, self.folder = recipe, group, recipe.run.dir
        self.begun = is_begun(self.folder)
        self.lr_factor = 0.0
        self._stop, self._inputs = stop, _agreed(group, lambda: require_same_run(recipe) if self.begun else {})
        self._metrics: MetricsFile | None = None
        self._line: ProgressLine | None = None
        self._restored, self._used = 0, 0.0
        self._score: float | None = None

    def start(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], stream: Stream) -> None:
        """Write the recipe, restore the newest intact checkpoint or save the first one, and start the clock.

        Args:
            model: its weights with `requires_grad` are trained, averaged and kept in checkpoints.
            stream: the training data; its next iterator starts at the run's position.

        Raises:
            ValueError: all checkpoints are damaged, or belong to another model.
            OSError: there is no disk space for a checkpoint.
        """
        _agreed(self.group, lambda: write_recipe(self.recipe, self._inputs))
        self.averages = Averages(model, self.recipe.ema.stds)
        self.state = RunState(model, optimizers, self.averages, stream)
        self._checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.group, self.recipe.save.keep)
        if (latest := self._checkpoints.latest()) is not None:
            self.state.restore(latest)
        else:
            if self.begun:
                self.state.restore_file(self.folder / STATE_FILE)
            # Proves that there is disk space, and gives the guard a state to restore.
            self._checkpoints.save(self.progress.step, self.state.tensors(), self.state.facts())
        if self.group.leads:
            self._metrics = MetricsFile(self.folder, self.progress.step, self.recipe.metrics.tensorboard)
            _log_start(self.progress.step, self.recipe.train.steps, self._metrics)
        self._line = ProgressLine(
            self.recipe.train.steps, self.progress.step, self.recipe.train.minutes, silent=not self.group.leads
        )
        self._began, self._before, self._stop.saves = time.monotonic(), self.progress.seconds, True

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self.state.progress

    def should_continue(self) -> bool:
        """Whether to make another step: no signal, and `train.steps` and `train.minutes` not reached. The same on all
        processes."""
        if self.progress.step >= self.recipe.train.steps:
            return False
        answers = gathered((bool(self._stop), time.monotonic() - self._began))
        self._used = answers[0][1]
        minutes = self.recipe.train.minutes
        if minutes is not None and self._used > 60 * minutes:
            return False
        self.progress.stopped = any(stop for stop, _ in answers)
        return not self.progress.stopped

    def restored_after_fault(self, loss: float, norm: float) -> bool:
        """Restore the last checkpoint if the loss or gradient norm is broken; the data continues with the next batch.

        Returns:
            Whether the checkpoint was restored, so that this step must not be taken.

        Raises:
            FloatingPointError: more than `guard.restores` restorations since the last save.
        """
        fault = find_fault(loss, norm, self.progress.recent, self.recipe.guard)
        if fault is None:
            return False
        fault = f"step {self.progress.step + 1}: {fault}"
        self._restored += 1
        self._settle(wait=True)
        latest = self._checkpoints.latest()
        if latest is None or self._restored > self.recipe.guard.restores:
            raise FloatingPointError(
                f"{fault}; the run stopped"
                + (f", {latest} is the last good state" if latest else "; there is no checkpoint")
            )
        self.state.restore(latest, rewind=False)
        logger.warning("%s; restored the state after step %d and continuing with new data", fault, self.progress.step)
        if self._metrics is not None:
            with best_effort(self._metrics.path):
                self._metrics.rewind(self.progress.step)
        return True

    def update(self, sums: StepSums) -> None:
        """Step the optimisers at the scheduled rate, and update counts and averages."""
        recipe = self.recipe
        self.lr_factor = rate_factor(schedule_step(recipe, self.progress.step, self._used), recipe.optim)
        set_rate(self.state.optimizers, self.lr_factor)
        for optimizer in self.state.optimizers:
            optimizer.step()
        self.progress.add(sums, recipe.guard.window)
        self.averages.update(self.progress.samples, sums.samples)
        self.progress.seconds = self._before + time.monotonic() - self._began

    def record(self, line: dict[str, Any], words: str, measured: bool = False) -> None:
        """Write a step's line of metrics, and show `words` in the progress; `measured` lines are always shown."""
        if self._metrics is not None and self._line is not None:
            self._metrics.write(line)
            done = self.progress.step
            self._line.tell(done, words, always=measured or done == self.recipe.train.steps)

    def save_when_due(self, score: float | None = None) -> None:
        """Start a checkpoint every `save.every` steps; the one with the lowest score is kept beside the latest."""
        self._score = score
        if self.progress.step % self.recipe.save.every == 0:
            self._restored = 0
            try:
                self._checkpoints.save(self.progress.step, self.state.tensors(), self.state.facts(), score)
            except OSError as error:
                logger.warning("%s; training continues", error)
        else:
            self._settle()

    def finish(self) -> bool:
        """Save the last state; whether the run ended without a signal, so that it can be exported.

        Raises:
            OSError: it could not be saved.
        """
        self.close()
        self._settle(wait=True)
        self._checkpoints.save(self.progress.step, self.state.tensors(), self.state.facts(), self._score)
        self._checkpoints.settle()
        if self._metrics is not None:
            self._metrics.close()
        if self.progress.stopped and self.group.leads:
            log_stopped(self._stop, self.progress.step)
        return not self.progress.stopped

    def close(self) -> None:
        """Remove the progress line."""
        if self._line is not None:
            self._line.close()

    def _settle(self, wait: bool = False) -> None:
        try:
            self._checkpoints.settle(wait)
        except OSError as error:
            logger.warning("%s; training continues", error)


def find_fault(loss: float, norm: float, recent: Sequence[float], guard: config.Guard) -> str | None:
    """What is wrong with a step's loss and gradient norm, or None."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss {loss:g}, gradient norm {norm:g}"
    if len(recent) >= guard.window and loss > guard.spike * statistics.median(recent):
        return f"loss {loss:g} is more than {guard.spike:g} times the recent median {statistics.median(recent):g}"
    return None


def schedule_step(recipe: Recipe, step: int, used: float) -> int:
    """Step of the learning rate schedule; with `train.minutes` it follows the `used` seconds."""
    optim, minutes = recipe.optim, recipe.train.minutes
    if minutes is None or optim.length is None:
        return step
    by_clock = int(used / (60 * minutes) * optim.length)
    return min(max(min(step, optim.warmup), by_clock), optim.length)


def _agreed(group: Group, act: Callable[[], Any]) -> Any:
    """What `act` returns on the leading process; its error is raised on all.

    Raises:
        ValueError: that of `act`.
    """
    found, fault = None, None
    if group.leads:
        try:
            found = act()
        except ValueError as error:
            fault = str(error)
    if faults := [line for line in gathered(fault) if line]:
        raise ValueError(faults[0])
    return found


def _log_start(done: int, steps: int, metrics: MetricsFile) -> None:
    if done >= steps:
        logger.info("the run has done %d steps already, train.steps is %d", done, steps)
    else:
        begun = f"continuing after step {done}" if done else "starting"
        logger.info("%s; every step has a line in %s", begun, metrics.path)
