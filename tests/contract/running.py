"""A real server: `leanlens serve` as a process of its own on the loopback."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


class Running:
    """`leanlens serve` on a free port; `log` collects what it says.

    Args:
        output: where it keeps its pictures.
        words: further options.
        model: its model.
        threads: for the model; None leaves that to torch.
    """

    def __init__(self, output: Path, *words: str, model: str = "toy", threads: int | None = 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = output.parent / f"{output.name}-{self.port}.log"
        command = [sys.executable, "-m", "leanlens", "serve", "--model", model, "--device", "cpu", "--dtype", "float32"]
        environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "-o", str(output), *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
            )

    def wait(self, seconds: float = 600) -> "Running":
        """Until it is ready to draw."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.process.kill()
        self.process.wait()
        raise AssertionError(self.log.read_text())

    def stop(self) -> int:
        """As an operator does; gives the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)
