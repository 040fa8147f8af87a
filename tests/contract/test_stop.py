"""A server that is told to stop, or is killed: who waits is told, and nothing of it is left running."""

import json
import signal
import socket
import threading
import time

import httpx
import psutil
import pytest

from tests.contract.running import Running

pytestmark = pytest.mark.long
LONG = {"prompt": "a", "size": "512x512", "width": 512, "height": 512, "steps": 100, "num_inference_steps": 100}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP])
def test_who_waits_is_told_and_the_server_is_gone_in_time(tmp_path, sig):
    running = Running(tmp_path / "out", "--batch", "1").wait()
    answers: dict[str, httpx.Response] = {}
    doors = {
        "openai": ("/v1/images/generations", LONG),
        "stream": ("/v1/images/generations", {**LONG, "stream": True, "partial_images": 2}),
        "sdapi": ("/sdapi/v1/txt2img", LONG),
    }

    def ask(door: str) -> None:
        path, body = doors[door]
        answers[door] = httpx.post(running.url + path, json=body, timeout=60)

    threads = [threading.Thread(target=ask, args=(door,)) for door in doors]
    for thread in threads:
        thread.start()
    page = socket.create_connection(("127.0.0.1", running.port))  # a tab, whose heartbeat never ends
    page.sendall(b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nhost: localhost\r\n\r\n")
    time.sleep(4)
    began = time.monotonic()
    running.process.send_signal(sig)
    running.process.wait(60)
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
