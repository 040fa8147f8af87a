"""Ends the Ray cluster that a server has started, however the server ends.

A small process reads a pipe that only the server holds open. When the pipe closes, the server is gone: the process
kills every process that carries the mark in its environment, and removes the folder of their files. It has a session of
its own, so that signals to the server's process group do not reach it, and it also works after `kill -9`.

Run as a script, this file is that process. It imports nothing of leanlens, so that it stays small.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

MARK = "LEANLENS_CLUSTER"
_ROUNDS = 3  # without a find: a process between fork and exec has no mark yet


class Watchdog:
    """Ends the processes that are started within `marked`.

    Attributes:
        folder: for their files; removed with them.
    """

    def __init__(self) -> None:
        # Paths of sockets are limited to about 100 bytes, and the temporary folder of macOS takes half of them.
        root = os.environ.get("RAY_TMPDIR") or ("/tmp" if sys.platform == "darwin" else None)
        self.folder = tempfile.mkdtemp(prefix="leanlens-ray-", dir=root)
        self._token = secrets.token_hex(16)
        # -P keeps this folder, which has a queue.py and a logging.py, off the module path.
        command = [sys.executable, "-P", os.path.abspath(__file__), self._token, self.folder]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    @contextlib.contextmanager
    def marked(self) -> Iterator[None]:
        """Processes started within, and their children, end with this process."""
        os.environ[MARK] = self._token
        try:
            yield
        finally:
            del os.environ[MARK]

    def end(self, patience: float = 3.0) -> None:
        """End them now.

        Args:
            patience: seconds to wait; the watchdog continues after that.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)


def keep(token: str, folder: str) -> None:
    """Wait for the end of standard input, then end what carries the token, or has a file in the folder open.

    The server is such a process too, as the cluster's driver; on its way out it is left to end by itself.
    """
    import psutil

    server = psutil.Process(os.getppid())
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    idle = 0
    while idle < _ROUNDS:
        idle = 0 if _kill(token, folder, server) else idle + 1
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _kill(token: str, folder: str, server: Any) -> int:
    """Kill each process that belongs here but `server`; gives how many there were."""
    import psutil

    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            belongs = process != server and (_has(process, token) or _writes(process, folder))
            if belongs and process.status() != psutil.STATUS_ZOMBIE:
                found += 1
                process.kill()
    return found


def _has(process: Any, token: str) -> bool:
    """Whether a process was started with the token."""
    try:
        with open(f"/proc/{process.pid}/environ", "rb") as file:  # psutil stops at the first gap in it
            return f"{MARK}={token}".encode() in file.read().split(b"\0")
    except FileNotFoundError:  # no Linux
        return process.environ().get(MARK) == token


def _writes(process: Any, folder: str) -> bool:
    """Whether a process has a file in the folder open: some of Ray's write their title over their environment."""
    return any(file.path.startswith(folder + os.sep) for file in process.open_files())


if __name__ == "__main__":
    keep(*sys.argv[1:])
