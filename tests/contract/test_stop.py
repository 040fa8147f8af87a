"""A server that is told to stop, or is killed: who waits is told, and nothing of it is left running."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.contract.running import Running

pytestmark = pytest.mark.long
LONG = {"prompt": "a", "size": "512x512", "width": 512, "height": 512, "steps": 100, "num_inference_steps": 100}


@pytest.fixture(autouse=True)
def hangup_ends_a_process():
    """Whoever runs the tests under nohup has it ignored, here and in the server."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_who_waits_is_told_and_the_server_is_gone_in_time(tmp_path, sig):
    running = Running(tmp_path / "out", "--batch", "1").wait()
    answers: dict[str, httpx.Response] = {}
    apis = {
        "openai": ("/v1/images/generations", LONG),
        "stream": ("/v1/images/generations", {**LONG, "stream": True, "partial_images": 2}),
        "sdapi": ("/sdapi/v1/txt2img", LONG),
    }

    def ask(api: str) -> None:
        path, body = apis[api]
        answers[api] = httpx.post(running.url + path, json=body, timeout=60)

    threads = [threading.Thread(target=ask, args=(api,)) for api in apis]
    for thread in threads:
        thread.start()
    page = socket.create_connection(("127.0.0.1", running.port))  # a tab, whose heartbeat never ends
    page.sendall(b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nhost: localhost\r\n\r\n")
    time.sleep(4)
    began = time.monotonic()
    running.process.send_signal(sig)
    assert running.process.wait(60) == 0
    assert time.monotonic() - began < 8
    for thread in threads:
        thread.join(10)
    page.close()
    assert (answers["openai"].status_code, answers["openai"].json()["error"]["code"]) == (503, "model_unavailable")
    assert answers["sdapi"].status_code == 503
    assert answers["sdapi"].json()["detail"] == "the server is shutting down"
    events = [json.loads(line[6:]) for line in answers["stream"].text.splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["message"] == "the server is shutting down"
    assert "Traceback" not in running.log.read_text()


HANGS = """
import sys, time
import leanlens.serve.service
leanlens.serve.service.ImageService.stop = lambda service: time.sleep(60)
from leanlens.cli.main import run
sys.argv = ["leanlens", *sys.argv[1:]]
run()
"""


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_that_hangs_ends_all_the_same(tmp_path, sig):
    words = ["serve", "--model", "toy", "--device", "cpu", "--no-page", "--port", "0", "-o", str(tmp_path / "out")]
    server = subprocess.Popen([sys.executable, "-c", HANGS, *words], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    with server.stderr:
        assert any("ready: " in line for line in server.stderr)
        began = time.monotonic()
        server.send_signal(sig)
        assert server.wait(60) == 0
    assert 5 < time.monotonic() - began < 8


def test_three_hundred_half_sent_requests_keep_nobody_out(tmp_path):
    running = Running(tmp_path / "out", "--no-page").wait()
    halves = []
    try:
        for _ in range(300):
            half = socket.create_connection(("127.0.0.1", running.port))
            half.sendall(b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\n")
            halves.append(half)
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert httpx.get(f"{running.url}/health").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1
        time.sleep(17)
        process = psutil.Process(running.process.pid)
        assert len(process.net_connections("tcp")) < 20  # all of them have been closed
    finally:
        for half in halves:
            half.close()
        running.stop()


def marked() -> dict[int, str]:
    """Processes that a server's cluster has started, with what they are."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
            if b"\0LEANLENS_CLUSTER=" in file.read() and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())[:100]
    return found


@pytest.mark.parametrize("how", ["TERM", "group TERM", "group INT", "group HUP", "KILL", "KILL while it starts"])
def test_no_process_of_ray_is_left(how):
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket() as free:  # short: paths of sockets
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        words = ["--model", "toy", "--device", "cpu", "--dtype", "float32", "--replicas", "2", "--no-page"]
        before = set(marked())
        with open(f"{folder}/log", "wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "leanlens", "serve", *words, "--port", str(port), "-o", f"{folder}/out"],
                stdout=log, stderr=log, start_new_session=True, env=os.environ | {"RAY_TMPDIR": folder},
            )  # fmt: skip
        free.close()
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and server.poll() is None:
            if how.endswith("starts") and len(set(marked()) - before) > 3:
                break
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                    break
            time.sleep(0.3)
        with open(f"{folder}/log") as log:
            assert server.poll() is None, log.read()
        assert len(set(marked()) - before) > 3  # Ray's own processes, two replicas
        watchdog = next(
            one for one in psutil.Process(server.pid).children() if "watchdog.py" in " ".join(one.cmdline())
        )
        family = psutil.Process(server.pid).children(recursive=True)  # also those that have lost their mark
        began = time.monotonic()
        if how.startswith("KILL"):
            server.kill()
        elif how.startswith("group"):
            os.killpg(server.pid, getattr(signal, f"SIG{how.split()[1]}"))
        else:
            server.terminate()
        code = server.wait(60)
        assert time.monotonic() - began < 8
        assert code == (-signal.SIGKILL if how.startswith("KILL") else 0)
        watchdog.wait(10)
        _, alive = psutil.wait_procs(family, 2)
        assert [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
        assert {pid: what for pid, what in marked().items() if pid not in before} == {}
        assert [one.name for one in os.scandir(folder) if one.name.startswith("leanlens-ray-")] == []
