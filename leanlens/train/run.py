"""What every run keeps, whoever trains: a folder of its own, signals that stop it, a line that says how far it is.

Comes in: a run's folder, signals, steps. Goes out: a lock that lives as long as the run, a request to stop, lines to
read. Knows nothing of models, recipes or data.
"""

import json
import os
import shlex
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from leanlens.dist import gathered, leads_here
from leanlens.files import read_json, whole_file
from leanlens.log import logger

LOCK, OWNER = ".lock", ".owner.json"  # in the run's folder
STOPPED = 75  # exit code of a run that a signal stopped: EX_TEMPFAIL of sysexits.h, "try again"
SAY_SECONDS = 30  # between two lines about the progress
REPEAT_SECONDS = 0.5  # a second Ctrl-C within this time is the first one
REPEAT_SECONDS_TORCHRUN = 5.0  # the terminal sends one to every process, and torchrun sends it on once more


class Interrupted(KeyboardInterrupt):
    """A signal came while nothing had been trained yet that could be saved."""


# ------------------------------------------------------------------------------------------------------- the folder


def require_folder(folder: Path) -> None:
    """Check that `run.dir` is a folder that can be written to, or can become one. Nothing is left there.

    Raises:
        ValueError: it, or a folder that it lies in, is a file or takes no files.
    """
    for path in (folder, *folder.absolute().parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"run.dir {folder} is not accepted: {path} is a file; give the path of a folder")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    probe = there / f".{folder.name}.{os.getpid()}.probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise ValueError(
            f"run.dir {folder} is not accepted: {there} cannot be written to ({error.strerror}); give another folder"
        ) from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within: this run, whatever its number of processes, is the only one in `folder`.

    The operating system releases the lock when the process ends, however it ends, so that none is ever stale.

    Raises:
        ValueError: another run is in the folder; the sentence says which process, and where.
    """
    require_folder(folder)
    lock, is_new = FileLock(folder / LOCK), not folder.exists()
    fault = _taken(lock, folder) if leads_here() else None
    if faults := [line for line in gathered(fault) if line]:
        raise ValueError(faults[0])
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / OWNER).unlink(missing_ok=True)
            with suppress(OSError):  # Windows removes no file that is open
                if is_new and os.listdir(folder) == [LOCK]:  # a run that could not begin leaves nothing
                    (folder / LOCK).unlink()
            lock.release()
            with suppress(OSError):  # it holds a run, or another process has just taken it
                if is_new:
                    folder.rmdir()


def require_free(folder: Path) -> None:
    """Check that no run is in `folder` now; nothing is written.

    Raises:
        ValueError: one is.
    """
    if leads_here() and (folder / LOCK).exists():
        lock = FileLock(folder / LOCK)
        if fault := _taken(lock, folder, sign=False):
            raise ValueError(fault)
        lock.release()


def _taken(lock: FileLock, folder: Path, sign: bool = True) -> str | None:
    """Take the lock and say whose it is now; a sentence where it is another's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        if sign:
            _sign(folder)
    except Timeout:
        return f"run.dir {folder} is in use by {_owner(folder)}; wait until it ends, stop it, or give another run.dir"
    except OSError as error:
        return f"run.dir {folder} cannot be locked ({error.strerror or error}); give a folder on another disk"
    return None


def _sign(folder: Path) -> None:
    """Write down whose the lock is. Without it the lock holds as well, so that a full disk does not matter."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(timespec="seconds")}
    with suppress(ValueError, OSError), whole_file(folder / OWNER) as temporary:
        temporary.write_text(json.dumps(owner) + "\n", encoding="utf-8")


def _owner(folder: Path) -> str:
    try:
        owner = read_json(folder / OWNER)
        return f"process {owner['pid']} on {owner['host']}, which has been training there since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock and has not signed yet
        return "another process"


# ------------------------------------------------------------------------------------------------------- stopping


class StopRequest:
    """Whether a signal asked this process to stop, and which."""

    def __init__(self) -> None:
        self.signal = ""
        self.saves = False  # once the steps begin: a signal is noted, and what is trained is saved
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self.signal)

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal: the first one is remembered, a later Ctrl-C stops at once."""
        now = time.monotonic()
        within = REPEAT_SECONDS_TORCHRUN if "TORCHELASTIC_RUN_ID" in os.environ else REPEAT_SECONDS
        if self and number == signal.SIGINT and now - self._since > within:
            raise KeyboardInterrupt
        if self:
            return
        self.signal, self._since = signal.Signals(number).name, now
        if not self.saves:
            raise Interrupted
        if leads_here():  # not by the logger, which this signal may have interrupted
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            os.write(2, f"{self.signal}: saving after this step{again}\n".encode())


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within: Ctrl-C (SIGINT) and SIGTERM ask to stop instead of ending the process."""
    request = StopRequest()
    before: dict[int, Any] = {}
    with suppress(ValueError):  # only the main thread may set handlers; elsewhere signals are somebody else's matter
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request.note)
    try:
        yield request
    finally:
        for taken, handler in before.items():
            signal.signal(taken, handler)


def say_stopped(request: StopRequest, step: int) -> None:
    """One line about where a signal stopped a run."""
    by = request.signal or "a signal to another process"
    logger.info("stopped by %s after step %d, which is saved; the same command continues the run", by, step)


def this_command() -> str:
    """The command line that this process was started with, as a shell reads it."""
    program, *words = sys.argv
    if Path(program).name == "__main__.py":
        launched = ["-m", Path(program).parent.name]
    elif Path(program).suffix == ".py":
        launched = [program]
    else:
        return shlex.join([Path(program).name, *words])
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    torchrun = ["torchrun", "--nproc-per-node", processes]
    start = torchrun if "TORCHELASTIC_RUN_ID" in os.environ else ["python"]
    return shlex.join([*start, *launched, *words])


def exit_code(stopped: bool, leads: bool = True) -> int:
    """0 for a run that is done; where a signal stopped it, 75, and a line says how to go on."""
    if stopped and leads:
        print(f"to go on: {this_command()}", file=sys.stderr, flush=True)
    return STOPPED if stopped else 0


# ------------------------------------------------------------------------------------------------------- the progress


class ProgressLine:
    """How far a run is: a bar on a terminal, a line every half minute elsewhere, both with the time that is left.

    Args:
        steps: where the run stops.
        done: steps that earlier processes made.
        minutes: or when it stops, counted from now; None where only steps count.
        silent: for processes that do not lead.
    """

    def __init__(self, steps: int, done: int, minutes: float | None = None, silent: bool = False):
        self.steps, self.minutes, self.silent = steps, minutes, silent
        self._began, self._said = time.monotonic(), -float("inf")
        self._times: deque[tuple[float, int]] = deque([(self._began, done)], maxlen=64)
        self._stack = ExitStack()
        self._bar: Any = None
        if not silent and sys.stderr.isatty() and done < steps:
            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, leave=False)
            if self._bar.disable:
                self._bar = None
            else:
                self._stack.enter_context(logging_redirect_tqdm())

    def tell(self, step: int, words: str, always: bool = False) -> None:
        """Say that `step` is made; `words` are its numbers. `always` where they should be read later, too."""
        now = time.monotonic()
        self._times.append((now, step))
        if self.silent:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(step - self._bar.n)
        if always or (self._bar is None and now - self._said > SAY_SECONDS):
            self._said = now
            left = self.seconds_left()
            logger.info(
                "step %d of %d: %s%s",
                step,
                self.steps,
                words,
                f", {_clock(left)} left" if left and step < self.steps else "",
            )

    def seconds_left(self) -> float | None:
        """Until the last step at the pace of the last ones, or until the time is up; None where no pace is known."""
        (first, start), (last, end) = self._times[0], self._times[-1]
        by_clock = None if self.minutes is None else max(0.0, 60 * self.minutes - (last - self._began))
        by_steps = (self.steps - end) * (last - first) / (end - start) if end > start else None
        known = [value for value in (by_clock, by_steps) if value is not None]
        return min(known) if known else None

    def close(self) -> None:
        """Take the bar away."""
        self._stack.close()
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
