"""Turns Ctrl-C and SIGTERM into a request to save and stop, and into an exit code."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from leanlens.dist import leads_here
from leanlens.log import logger

STOPPED = 75  # exit code of a run that a signal stopped: EX_TEMPFAIL of sysexits.h, "try again"
REPEAT_SECONDS = 0.5  # a second Ctrl-C within this time is the first one
REPEAT_SECONDS_TORCHRUN = 5.0  # the terminal sends one to every process, and torchrun sends it on once more


class Interrupted(KeyboardInterrupt):
    """A signal arrived before the first step, when there was nothing to save."""


class StopRequest:
    """Whether a signal asked this process to stop, and which."""

    def __init__(self) -> None:
        self.signal = ""
        self.saves = False  # True once training has started: a signal is noted, and the state is saved
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self.signal)

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal: the first one is remembered, a later Ctrl-C stops at once."""
        now = time.monotonic()
        within = REPEAT_SECONDS_TORCHRUN if "TORCHELASTIC_RUN_ID" in os.environ else REPEAT_SECONDS
        if self and number == signal.SIGINT and now - self._since > within:
            raise KeyboardInterrupt
        if self:
            return
        self.signal, self._since = signal.Signals(number).name, now
        if not self.saves:
            raise Interrupted
        if leads_here():  # not with the logger, which this signal may have interrupted
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            os.write(2, f"{self.signal}: saving after this step{again}\n".encode())


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Context in which Ctrl-C (SIGINT) and SIGTERM request a stop instead of ending the process."""
    request = StopRequest()
    before: dict[int, Any] = {}
    with suppress(ValueError):  # only the main thread may set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request.note)
    try:
        yield request
    finally:
        for taken, handler in before.items():
            signal.signal(taken, handler)


def log_stopped(request: StopRequest, step: int) -> None:
    """Log where a signal stopped a run."""
    by = request.signal or "a signal to another process"
    logger.info("stopped by %s after step %d, which is saved; the same command continues the run", by, step)


def this_command() -> str:
    """The command line of this process, quoted for a shell."""
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
    """0 for a finished run; 75 for one that a signal stopped, after a line with the command that continues it."""
    if stopped and leads:
        print(f"to continue: {this_command()}", file=sys.stderr, flush=True)
    return STOPPED if stopped else 0
