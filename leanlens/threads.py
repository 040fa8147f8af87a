"""How many threads a small model takes on a processor, and how they wait for one another.

Comes in: what the machine is doing. Goes out: a number of threads for each call of a model. Does not change what a user
has set: with `OMP_NUM_THREADS` nothing is chosen, with `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` nothing is set.

A small model runs thousands of parallel sections a second, each of some microseconds. Where another process holds one
of the cores, every section waits for a thread that has lost its turn, and a drawing takes fifty times as long. Two
things help: threads that wait give their core up soon, and a step takes no more threads than there are idle cores.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Rounds that a waiting OpenMP thread spins before it sleeps. The library's own choice is thirty times as many.
SPIN_COUNT = 10_000
# Seconds of observation behind a choice: below, the kernel's clock ticks are too coarse to tell a core from a half.
WINDOW = 0.2
# Seconds after which an observation says nothing about now.
STALE = 5.0
MOST = 1024
_CGROUP = Path("/sys/fs/cgroup")


def spin_briefly() -> None:
    """Let waiting OpenMP threads sleep soon. It acts only before torch is imported, and on GNU's OpenMP."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def free_cores(taken: float) -> int:
    """Whole cores left for this process where others take `taken` of those it is bound to; at least 1.

    A container's quota is no smaller for what others do, and is never exceeded.
    """
    quota = _quota(_CGROUP)
    left = len(_bound()) - round(taken)
    return max(1, left if quota is None else min(left, quota))


def can_be_chosen(threads: int) -> bool:
    """Whether `threads`, the number that torch works with, is its own default and not somebody's choice."""
    return not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(os.environ) and threads == len(_bound())


def check_threads(threads: Any, plan: Any) -> None:
    """Raise a ValueError unless a record's numbers of threads are ones that a machine can have."""
    counts = [threads, *(change[1] for change in plan)] if _is_plan(plan) else [None]
    if not all(type(count) is int and 1 <= count <= MOST for count in counts):
        raise ValueError(f"the record's threads are not accepted; give whole numbers from 1 to {MOST}")


class Load:
    """What other processes take of the cores that this one may use."""

    def __init__(self) -> None:
        self._then = _times()

    @property
    def age(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self._then[0]

    def look(self) -> float:
        """Cores that others kept busy since the last look, on average."""
        before, self._then = self._then, _times()
        seconds, busy, own = (now - then for now, then in zip(self._then, before, strict=True))
        return max(0.0, busy - own) / max(seconds, 1e-6)


class StepThreads:
    """Chooses the threads of one call of a model after another, and keeps what it chose.

    Args:
        most: threads on idle cores.
        load: what others take; None to take `most` always.
        plan: changes as `changes` gives them, to be repeated.
    """

    def __init__(self, most: int, load: Load | None = None, plan: Sequence[Sequence[int]] = ()):
        self.most = most
        self.load = None if plan else load
        self.changes: list[list[int]] = []
        """[number of the call, threads] wherever the number changed; empty where all calls took `most`."""
        self._plan = {change[0]: change[1] for change in plan}
        self._calls = 0
        self._threads = most

    def __call__(self) -> int:
        """Threads of the next call."""
        threads = self._plan.get(self._calls, self._threads)
        if self.load is not None and self.load.age >= WINDOW:
            stale = self.load.age > STALE
            others = self.load.look()
            threads = self._threads if stale else min(self.most, free_cores(others))
        if threads != self._threads:
            self.changes.append([self._calls, threads])
        self._threads = threads
        self._calls += 1
        return threads


@contextmanager
def threads_of(model: Any, choose: Callable[[], int]) -> Iterator[None]:
    """Within, every call of `model` takes as many threads as `choose` says; all else takes as many as before."""
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
    """Seconds by the clock, of all work on the usable cores, and of this process's own work."""
    import psutil

    every = psutil.cpu_times(percpu=True)
    busy = sum(_busy(every[core]) for core in _bound() if core < len(every))
    return time.monotonic(), busy, time.process_time()


def _bound() -> set[int]:
    """Numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _is_plan(plan: Any) -> bool:
    pairs = isinstance(plan, list | tuple) and all(isinstance(change, list | tuple) for change in plan)
    return pairs and all(len(change) == 2 and type(change[0]) is int for change in plan)


def _busy(times: Any) -> float:
    """Guests' time is part of the users' already; a core that the host gives to others is busy."""
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(value for name, value in times._asdict().items() if name not in idle)


def _quota(folder: Path) -> int | None:
    """Whole cores of a container's quota, rounded up; None without one. Source: Linux, cgroup v2 and v1."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()[:2]
        else:
            quota, period = ((folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota.strip() == "max" or int(quota) <= 0 else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None
