"""Runs a command that answers in JSON lines: with time-outs, its errors drained, and ended with all that it started."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Sequence
from typing import IO, Any

from leanlens.files import parse_json

MOST_LINE = 4 * 2**20  # bytes of one answer
SHOWN = 200  # characters of a message
GRACE = 2.0  # seconds to end by itself once its input is closed
_KEPT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of this process's environment, which is another one


class ChildFailed(Exception):
    """The process ended, was late, or wrote something else than an answer; the message says which."""


class Child:
    """A process that reads one JSON line and answers with one, again and again, until its input ends.

    Its output is read and its errors are drained all the time, so neither can block it for want of a reader.

    Raises:
        ChildFailed: the command cannot be started.
    """

    def __init__(self, command: Sequence[str]):
        env = {name: value for name, value in os.environ.items() if name not in _KEPT_OUT}
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**env, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ChildFailed(f"cannot start {command[0]}: {error}") from None
        self._lines: queue.Queue[bytes | None] = queue.Queue(16)
        self._requests: queue.Queue[bytes | None] = queue.Queue()
        self._stopped = threading.Event()
        self._last_error = ""
        pipes: list[Any] = [self.process.stdin, self.process.stdout, self.process.stderr]
        works = (self._write, self._read, self._drain)
        self._threads = [
            threading.Thread(target=work, args=(pipe,), daemon=True) for work, pipe in zip(works, pipes, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        self._end = weakref.finalize(self, _kill, self.process)  # also where the interpreter ends without `close`

    def send(self, request: Any) -> None:
        """Write a JSON value on one line; never waits."""
        self._requests.put(json.dumps(request).encode() + b"\n")

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next line as a JSON object.

        Raises:
            ChildFailed: it ended, it is later than `timeout` seconds, or the line is something else.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ChildFailed(self._with_error(f"no answer within {timeout:g} s")) from None
        if line is None:
            raise ChildFailed(self._with_error(self._how_it_ended()))
        try:
            table = parse_json(line, "the answer", finite=False)
        except ValueError:
            table = None
        if not isinstance(table, dict) or not line.endswith(b"\n"):
            raise ChildFailed(f"an answer that is no JSON object: {_shown(line)}")
        return table

    def wait(self, timeout: float) -> int | None:
        """The exit code, once its input is closed; None if it still runs after `timeout` seconds."""
        self._requests.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout)
        return None

    def close(self, grace: float = GRACE) -> None:
        """Let it end, or end it, and with it every process that it started."""
        children = _children(self.process)
        if grace:
            self.wait(grace)
        self._stopped.set()
        self._end.detach()
        _kill(self.process, children)
        self._requests.put(None)
        for thread in self._threads:
            thread.join(1.0)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"the process ended with code {self.process.wait(GRACE)}"
        return "the process closed its output"

    def _with_error(self, reason: str) -> str:
        """The reason with the last line of the errors, which may still be on their way."""
        if self.process.poll() is not None:
            self._threads[2].join(1.0)
        return f"{reason}: {self._last_error}" if self._last_error else reason

    def _write(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (line := self._requests.get()) is not None:
                pipe.write(line)
                pipe.flush()
        with contextlib.suppress(OSError, ValueError):
            pipe.close()

    def _read(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := pipe.readline(MOST_LINE):
                self._put(line)
        self._put(None)

    def _put(self, line: bytes | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                return self._lines.put(line, timeout=0.2)

    def _drain(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := pipe.readline(65536):
                lines = line.decode("utf-8", "replace").replace("\r", "\n").split("\n")
                self._last_error = next((_shown(one) for one in reversed(lines) if one.strip()), self._last_error)


def _shown(text: str | bytes) -> str:
    """On one line, shortened."""
    text = text[: 4 * SHOWN].decode("utf-8", "replace") if isinstance(text, bytes) else text
    return " ".join(text.split())[:SHOWN]


def _children(process: "subprocess.Popen[bytes]") -> list[Any]:
    """What a process has started, and what these have."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def _kill(process: "subprocess.Popen[bytes]", children: Sequence[Any] = ()) -> None:
    """End a process, all in its group, and all that descend from it."""
    import psutil

    left = [*children, *_children(process)]
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # its group bears its number and outlives it
    for child in left:
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(OSError):
        process.kill()
    deadline = time.monotonic() + GRACE
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
