"""How many threads a call takes: by the load, by a plan, or as the user says."""

import os
from pathlib import Path

import pytest
import torch

from leanlens import threads
from leanlens.threads import Load, StepThreads, can_be_chosen, check_threads, free_cores, spin_briefly, threads_of


class Given(Load):
    """Others that take what a test says, seen `WINDOW` seconds after the last look."""

    def __init__(self, *taken: float, age: float = threads.WINDOW):
        self.taken, self._age = list(taken), age

    @property
    def age(self) -> float:
        return self._age

    def measure(self) -> float:
        return self.taken.pop(0)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(threads, "_usable_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(threads, "_CGROUP", Path("/nowhere"))


@pytest.mark.parametrize(("taken", "left"), [(0.0, 4), (0.4, 4), (0.6, 3), (1.0, 3), (2.7, 1), (3.9, 1), (60.0, 1)])
def test_cores_that_others_take_are_left_to_them(taken, left):
    assert free_cores(taken) == left


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "nonsense"}, 3),
        ({}, 3),
    ],
)
def test_a_quota_is_not_exceeded(monkeypatch, tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    assert free_cores(1.0) == left


def test_threads_follow_the_load_and_changes_are_kept():
    choose = StepThreads(4, Given(0.1, 1.2, 1.0, 0.2))
    assert [choose() for _ in range(4)] == [4, 3, 3, 4]
    assert choose.changes == [[1, 3], [3, 4]]


def test_no_choice_is_made_on_too_short_or_too_old_a_look():
    assert StepThreads(4, Given(3.0, age=0.05))() == 4
    assert StepThreads(4, Given(3.0, age=3600.0))() == 4


def test_a_plan_is_repeated_whatever_the_load():
    choose = StepThreads(4, Given(), plan=[[1, 3], [3, 4]])
    assert [choose() for _ in range(4)] == [4, 3, 3, 4]
    assert choose.changes == [[1, 3], [3, 4]]


def test_without_a_load_all_calls_take_all_threads():
    choose = StepThreads(2)
    assert [choose(), choose()] == [2, 2]
    assert choose.changes == []


def test_what_the_user_has_set_stays(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert can_be_chosen(4)
    assert not can_be_chosen(3)  # somebody called torch.set_num_threads
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert not can_be_chosen(4)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == str(threads.SPIN_COUNT)


def test_only_the_model_takes_other_threads():
    seen = []

    class Model(torch.nn.Module):
        def forward(self, fails: bool = False) -> None:
            seen.append(torch.get_num_threads())
            if fails:
                raise RuntimeError("failed")

    model, usual = Model(), torch.get_num_threads()
    with threads_of(model, lambda: usual + 1):
        model()
        seen.append(torch.get_num_threads())
        with pytest.raises(RuntimeError, match="failed"):
            model(fails=True)
        seen.append(torch.get_num_threads())
    model()
    assert seen == [usual + 1, usual, usual + 1, usual, usual]


def test_a_look_counts_others_and_not_this_process():
    load = Load()
    while load.age < 0.3:
        sum(range(1000))
    assert 0 <= load.measure() < (os.cpu_count() or 1)
    assert load.age < 0.1


@pytest.mark.parametrize(
    ("count", "plan"),
    [(0, ()), (-1, ()), (10**9, ()), (True, ()), ("2", ()), (2.0, ()), (None, ()), (2, [[0, 0]]), (2, [[0, 10**9]]),
     (2, [[0]]), (2, [["0", 1]]), (2, "01"), (2, {"0": 1}), (2, None), (2, [[0, 1, 2]])],
)  # fmt: skip
def test_a_record_with_impossible_threads_is_refused(count, plan):
    with pytest.raises(ValueError, match="invalid threads in the record: expected integers from 1 to 1024"):
        check_threads(count, plan)
    check_threads(2, [[0, 1], [3, 2]])
