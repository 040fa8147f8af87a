"""Chooses the number of CPU threads for each call of a small model from the load of the machine.

It respects the user's settings: `OMP_NUM_THREADS` turns the choice off, and `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` is
left unchanged.

A small model runs thousands of parallel sections a second, each some microseconds long. If another process occupies one
of the cores, every section waits for a thread that was preempted, and an image takes fifty times as long. Two things
help: waiting threads sleep soon instead of spinning, and a step uses no more threads than there are idle cores.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Iterations that a waiting OpenMP thread spins before it sleeps. The library's default is thirty times as many.
SPIN_COUNT = 10_000
# Seconds that a load is measured over; in less, the kernel's clock ticks cannot tell half a core from a whole one.
WINDOW = 0.2
# Seconds after which a measurement is out of date.
STALE = 5.0
MAX_THREADS = 1024
_CGROUP = Path("/sys/fs/cgroup")


def spin_briefly() -> None:
    """Make waiting OpenMP threads sleep soon. Works only before torch is imported, and with GNU OpenMP."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def free_cores(taken: float) -> int:
    """Whole cores left for this process if others use `taken` of the cores in its affinity mask; at least 1.

    The load of others does not reduce a container's CPU quota, which is never exceeded.
    """
    quota = _quota(_CGROUP)
    left = len(_usable_cores()) - round(taken)
    return max(1, left if quota is None else min(left, quota))


def can_be_chosen(threads: int) -> bool:
    """Whether `threads`, torch's current number, is its default rather than a user's choice."""
    return not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(os.environ) and threads == len(_usable_cores())


def check_threads(threads: Any, plan: Any) -> None:
    """Raise a ValueError unless the thread counts of an image's record are valid."""
    counts = [threads, *(change[1] for change in plan)] if _is_plan(plan) else [None]
    if not all(type(count) is int and 1 <= count <= MAX_THREADS for count in counts):
        raise ValueError(f"invalid threads in the record: expected integers from 1 to {MAX_THREADS}")


class Load:
    """The load of other processes on the cores that this process may use."""

    def __init__(self) -> None:
        self._then = _times()

    @property
    def age(self) -> float:
        """Seconds since the last measurement."""
        return time.monotonic() - self._then[0]

    def measure(self) -> float:
        """Average number of cores that other processes kept busy since the last call."""
        before, self._then = self._then, _times()
        seconds, busy, own = (now - then for now, then in zip(self._then, before, strict=True))
        return max(0.0, busy - own) / max(seconds, 1e-6)


class StepThreads:
    """Chooses the number of threads for each call of a model and records every change.

    Args:
        most: threads if all cores are idle.
        load: load of other processes; None to always use `most`.
        plan: recorded `changes` to replay.
    """

    def __init__(self, most: int, load: Load | None = None, plan: Sequence[Sequence[int]] = ()):
        self.most = most
        self.load = None if plan else load
        self.changes: list[list[int]] = []
        """[call index, threads] for every change; empty if every call used `most`."""
        self._plan = {change[0]: change[1] for change in plan}
        self._calls = 0
        self._threads = most

    def __call__(self) -> int:
        """Number of threads for the next call."""
        threads = self._plan.get(self._calls, self._threads)
        if self.load is not None and self.load.age >= WINDOW:
            stale = self.load.age > STALE
            others = self.load.measure()
            threads = self._threads if stale else min(self.most, free_cores(others))
        if threads != self._threads:
            self.changes.append([self._calls, threads])
        self._threads = threads
        self._calls += 1
        return threads


@contextmanager
def threads_of(model: Any, choose: Callable[[], int]) -> Iterator[None]:
    """Use `choose()` threads for each call of `model` inside the block; other work keeps its number of threads."""
    import torch

    usual = torch.get_num_threads()
    begin = model.register_forward_pre_hook(lambda *_: torch.set_num_threads(choose()))
    end = model.register_forward_hook(lambda *_: torch.set_num_threads(usual), always_call=True)
    try:
        yield
    finally:
        begin.remove()
        end.remove()


def _times() -> tuple[float, float, float]:
    """Seconds of wall time, of busy time on the usable cores, and of this process's CPU time."""
    import psutil

    every = psutil.cpu_times(percpu=True)
    busy = sum(_busy(every[core]) for core in _usable_cores() if core < len(every))
    return time.monotonic(), busy, time.process_time()


def _usable_cores() -> set[int]:
    """Indices of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _is_plan(plan: Any) -> bool:
    pairs = isinstance(plan, list | tuple) and all(isinstance(change, list | tuple) for change in plan)
    return pairs and all(len(change) == 2 and type(change[0]) is int for change in plan)


def _busy(times: Any) -> float:
    """Busy seconds of a core. Guest time is already part of user time; steal time counts as busy."""
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(value for name, value in times._asdict().items() if name not in idle)


def _quota(folder: Path) -> int | None:
    """Cores of a container's CPU quota, rounded up; None if there is none. Source: Linux cgroup v2 and v1."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()[:2]
        else:
            quota, period = ((folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota.strip() == "max" or int(quota) <= 0 else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None
