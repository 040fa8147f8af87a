"""What keeps a run, used by a loop of a few lines that knows no kind: state, guard, clock, the folder."""

import itertools
import json
import logging
import math
import os
import signal

import pytest
import torch
from torch import nn

from leanlens.batches.numbered import Numbered
from leanlens.config import Section, checked
from leanlens.train.checkpoint import is_begun, whole_checkpoints
from leanlens.train.config import Average, EventFiles, Guard, Minutes, Optim, Run, Save, StepCount
from leanlens.train.optim import build_optimizers, clip_gradients
from leanlens.train.run import find_fault, keep, schedule_step
from leanlens.train.state import Progress, StepSums
from tests.train.tiny import CPU, differing, state_of


class Steps(Section):
    steps: StepCount
    minutes: Minutes | None = None


class Recipe(Section):
    run: Run
    train: Steps
    optim: Optim = Optim(lr=0.1)
    ema: Average = Average(export=0.1)
    save: Save = Save(every=2)
    guard: Guard = Guard()
    metrics: EventFiles = EventFiles()


@pytest.fixture
def recipe(tmp_path):
    def make(folder="run", steps=6, **tables):
        train = {"steps": steps, **tables.pop("train", {})}
        return checked(Recipe, {"run": {"dir": str(tmp_path / folder)}, "train": train, **tables})

    return make


def trained(wanted, broken=(), signalled=None):
    """A line through points: batch n is the number n; batches in `broken` have a loss that is not finite."""
    with keep(wanted, CPU) as run:
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        frozen = nn.Linear(1, 1).requires_grad_(False)
        both = nn.ModuleDict({"line": model, "frozen": frozen})
        stream = Numbered(lambda first: iter(itertools.count(first)))
        run.start(both, build_optimizers(both, wanted.optim), stream)
        batches = iter(stream)
        while run.should_continue():
            number = next(batches)
            both.zero_grad()
            loss = (model(torch.tensor([[math.sin(number)]])) - 1).square().mean() * (
                math.nan if number in broken else 1
            )
            loss.backward()
            if run.restored_after_fault(loss.item(), clip_gradients(both, 1.0)):
                continue
            run.update(StepSums(loss.item(), 1))
            run.record({"step": run.progress.step, "loss": loss.item(), "batch": number}, "")
            run.save_when_due()
            if run.progress.step == signalled:
                os.kill(os.getpid(), signal.SIGTERM)
        return run.progress, run.finish()


def lines(wanted):
    return [json.loads(line) for line in (wanted.run.dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_kept_and_goes_on_bit_for_bit(recipe):
    assert not is_begun(recipe().run.dir)
    progress, done = trained(recipe())
    assert (progress.step, progress.samples, done) == (6, 6, True)
    assert [path.name for path in whole_checkpoints(recipe().run.dir / "checkpoints")][-1] == "step-00000006"
    assert is_begun(recipe().run.dir)
    stopped, done = trained(recipe("stopped"), signalled=3)
    assert (stopped.step, stopped.stopped, done) == (3, True, False)
    trained(recipe("stopped"))
    assert differing(state_of(recipe().run.dir), state_of(recipe("stopped").run.dir)) == []
    assert [line["batch"] for line in lines(recipe("stopped"))] == [0, 1, 2, 3, 4, 5]


def test_a_checkpoint_holds_what_is_trained_and_nothing_of_what_is_frozen(recipe):
    trained(recipe())
    names = {
        name for name in state_of(recipe().run.dir) if name.startswith(("model.", "averages.", "optimizer.state."))
    }
    assert {"model.line.weight", "averages.0.1.line.weight", "optimizer.state.line.weight.exp_avg"} <= names
    assert [name for name in names if "frozen" in name] == []


def test_a_broken_loss_goes_back_and_the_data_goes_on(recipe, caplog):
    with caplog.at_level(logging.WARNING):
        progress, _ = trained(recipe(), broken={3})
    assert "step 4: loss nan, gradient norm nan; restored the state after step 2 and continuing" in caplog.text
    assert progress.step == 6
    assert [line["batch"] for line in lines(recipe())] == [0, 1, 4, 5, 6, 7]


def test_a_loss_that_stays_broken_ends_the_run_and_leaves_the_last_good_state(recipe):
    with pytest.raises(FloatingPointError, match=r"the run stopped, .*step-00000002 is the last good state"):
        trained(recipe(guard={"restores": 2}), broken=range(3, 99))
    assert trained(recipe(guard={"restores": 3}))[0].step == 6


def test_a_spike_is_a_fault_and_inf_looks_for_none():
    guard = Guard(window=2, spike=2.0)
    assert find_fault(2.1, 1.0, [1.0, 1.0], guard) == "loss 2.1 is more than 2 times the recent median 1"
    assert find_fault(2.1, 1.0, [1.0], guard) is None
    assert find_fault(99.0, 1.0, [1.0, 1.0], Guard(window=2, spike=math.inf)) is None
    assert find_fault(1.0, math.inf, [], guard) == "loss 1, gradient norm inf"


def test_the_clock_ends_a_process_and_the_next_goes_on(recipe):
    progress, done = trained(recipe(train={"minutes": 1e-9}))
    assert (progress.step, progress.stopped, done) == (0, False, True)
    assert trained(recipe(train={"minutes": 9.0}))[0].step == 6


def test_the_schedule_follows_the_clock(recipe):
    wanted = recipe(steps=1000, train={"minutes": 1.0}, optim={"schedule": "wsd", "length": 100, "warmup": 10})
    assert [schedule_step(wanted, 5, used) for used in (0.0, 3.0, 30.0, 59.0, 70.0)] == [5, 5, 50, 98, 100]
    assert schedule_step(wanted, 700, 0.0) == 10  # the warm-up is over, the time has not passed
    assert schedule_step(recipe(steps=1000), 700, 30.0) == 700


def test_another_recipe_is_refused_before_anything_is_built(recipe):
    trained(recipe())
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.1 there, 0\.2 here"), keep(recipe(optim={"lr": 0.2}), CPU):
        raise AssertionError
    assert lines(recipe())[-1]["step"] == 6


def test_the_progress_of_earlier_versions_is_read():
    facts = {"step": 3, "images": 12, "flops": 1.0, "recent": [0.5], "seconds": 2.0}
    assert Progress.of_facts(facts) == Progress(step=3, samples=12, flops=1.0, recent=[0.5], seconds=2.0)
