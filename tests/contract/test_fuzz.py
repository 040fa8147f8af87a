"""Hostile requests over all APIs of a running server: none ends in a mistake, none keeps others waiting."""

import json
import os
import random
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.contract.hostile import MAKERS, written
from tests.contract.running import Running

NUMBER = int(os.environ.get("LEANLENS_FUZZ", "400"))
STATED = {503, 504}  # what a server says of itself rather than of a mistake
MOST_GROWTH = 200e6  # bytes


def _status(running: Running, request: bytes) -> int:
    """The status of the answer; 0 where the connection was closed without one."""
    head = b""
    with suppress(ConnectionError, TimeoutError), socket.create_connection(("127.0.0.1", running.port), 30) as one:
        with suppress(ConnectionError):  # refused before all of it was read
            one.sendall(request)
        head = one.recv(4096)
        one.settimeout(10)
        while one.recv(65536):  # a stream is read to its end
            pass
    found = re.match(rb"HTTP/1\.1 (\d{3})", head)
    return int(found[1]) if found else 0


class Watch(threading.Thread):
    """Asks all the time how the server is."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self.url, self.slowest, self.wrong, self.ended = url, 0.0, 0, threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self.ended.wait(0.2):
                began = time.monotonic()
                self.wrong += client.get(f"{self.url}/health").status_code != 200
                self.slowest = max(self.slowest, time.monotonic() - began)


@pytest.mark.long
def test_hostile_requests_over_all_apis(tmp_path):
    running = Running(tmp_path / "out", "--max-pixels", "4096", "--timeout", "30").wait()
    chance = random.Random(19)
    process = psutil.Process(running.process.pid)
    watch, statuses, mistakes = Watch(running.url), Counter(), []
    requests = [written(chance.choice(MAKERS)(chance), running.port) for _ in range(max(50, NUMBER // 10))]
    try:
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(lambda request: _status(running, request), requests))  # whatever is imported late
            before = process.memory_info().rss
            watch.start()
            left = NUMBER
            while left > 0:
                batch = [written(chance.choice(MAKERS)(chance), running.port) for _ in range(min(left, 100))]
                left -= len(batch)
                for request, status in zip(
                    batch, clients.map(lambda request: _status(running, request), batch), strict=True
                ):
                    statuses[status] += 1
                    if status >= 500 and status not in STATED:
                        mistakes.append(request[:600])
        watch.ended.set()
        watch.join(30)
        growth = process.memory_info().rss - before
        log = running.log.read_text()
        numbers = {"inputs": NUMBER, "statuses": dict(sorted(statuses.items())), "health s": round(watch.slowest, 3),
                   "growth MB": round(growth / 1e6), "tracebacks": log.count("Traceback")}  # fmt: skip
        print(json.dumps(numbers))
        assert not mistakes, mistakes[:3]
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
        assert watch.wrong == 0
        assert watch.slowest < 1
        assert growth < MOST_GROWTH
        drawn = httpx.post(f"{running.url}/v1/images/generations", json={"prompt": "a", "size": "32x32", "steps": 1})
        assert drawn.status_code == 200
    finally:
        assert running.stop() in (0, -15), running.log.read_text()
