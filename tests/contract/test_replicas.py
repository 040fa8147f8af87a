"""`leanlens serve --replicas 2`: a real Ray cluster of this machine, the same APIs, jobs and bytes as without."""

import base64
import io
import json
import os
import re
import signal
import threading
import time

import httpx
import pytest
import torch
from PIL import Image

from leanlens.pipeline.draw import draw
from leanlens.pipeline.metadata import read_record, save_picture
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest
from tests.contract.running import Running

pytest.importorskip("ray")
pytestmark = pytest.mark.long

DRAW = "/v1/images/generations"
SMALL = {"prompt": "a fox", "size": "64x64", "steps": 3, "seed": 5}
LONG = {"prompt": "a", "size": "256x256", "steps": 60, "seed": 1}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    (folder / "loras").mkdir()
    (folder / "loras" / "bad.safetensors").write_bytes(b"no safetensors file")
    words = ("--replicas", "2", "--batch", "1", "--no-page", "--loras", str(folder / "loras"))
    running = Running(folder / "out", *words)
    try:
        yield running.wait(400)
    finally:
        assert running.stop() in (0, -15, 15), running.log.read_text()


@pytest.fixture
def client(live):
    with httpx.Client(base_url=live.url, timeout=180) as one:
        yield one


def pictures(answer) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(datum["b64_json"]) for datum in answer.json()["data"]]


def test_the_file_is_that_of_the_command_line(client, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server's replicas here
    try:
        request = ImageRequest.checked(
            prompt="a fox", width=64, height=64, num_inference_steps=3, guidance_scale=5.0, seed=5
        )
        drawn = draw(open_model("toy", "cpu", "float32"), request)
    finally:
        torch.set_num_threads(threads)
    wanted = save_picture(drawn.image, tmp_path / "a.png", drawn.record).read_bytes()
    assert pictures(client.post(DRAW, json=SMALL)) == [wanted]


def test_two_pictures_of_one_request_are_drawn_at_once_with_looks_at_both(client):
    kinds: list[tuple[str, int]] = []
    body = {**LONG, "n": 2, "stream": True, "partial_images": 3}
    with client.stream("POST", DRAW, json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                kinds.append((event["type"].rpartition(".")[2], event.get("partial_image_index", -1)))
    assert [kind for kind, _ in kinds].count("completed") == 2
    before = kinds[: [kind for kind, _ in kinds].index("completed")]
    assert before.count(("partial_image", 0)) == 2  # both had begun before either was done


def test_an_upload_is_drawn_from_elsewhere_and_replays_here(live, client):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    answer = client.post(
        "/v1/images/edits", data={"prompt": "a", "steps": "3", "response_format": "url"},
        files={"image": ("a.png", buffer.getvalue())},
    )  # fmt: skip
    name = answer.json()["data"][0]["url"].rpartition("/")[2]
    output = next(live.log.parent.glob("out"))
    record = read_record(output / "pictures" / name)
    assert record["request"]["image"].startswith(str(output / "inputs"))
    assert record["marking"] == "compositeWithTrainedAlgorithmicMedia"


def test_what_is_wrong_is_told_as_without_replicas(client):
    for fields, code in (
        ({"size": "100x100"}, "invalid_value"),
        ({"loras": ["bad"]}, "invalid_value"),
        ({"loras": ["none"]}, "invalid_value"),
        ({"model": "other"}, "model_not_found"),
    ):
        answer = client.post(DRAW, json={**SMALL, **fields})
        assert (answer.status_code in (400, 404), answer.json()["error"]["code"]) == (True, code), answer.text


def test_a_job_is_cancelled_wherever_it_is_drawn(client):
    identity = "ab" * 16
    answers: list = []
    drawing = threading.Thread(
        target=lambda: answers.append(client.post(DRAW, json={**LONG, "n": 4}, headers={"x-job-id": identity}))
    )
    drawing.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = client.get(f"/v1/jobs/{identity}")
        if found.status_code == 200 and found.json()["progress"] > 0.02:
            break
        time.sleep(0.05)
    assert client.post(f"/v1/jobs/{identity}/cancel").status_code == 200
    drawing.join(60)
    assert client.get(f"/v1/jobs/{identity}").json()["state"] in ("cancelled", "partial")
    began = time.monotonic()
    assert pictures(client.post(DRAW, json=SMALL))
    assert time.monotonic() - began < 30


def wait_until_two_are_drawn(client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (job, *_) = client.get("/v1/jobs").json()["data"]
        if job["state"] == "drawing" and job["progress"] > 0.05:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was drawn")


@pytest.mark.parametrize(("how", "least", "most"), [("interrupt", 2, 2), ("skip", 2, 3)])
def test_what_is_interrupted_or_skipped_ends_on_both_devices(client, how, least, most):
    """Two devices draw two pictures of four at a time: an interrupt ends both, a skip drops one and draws the rest."""
    answers: list = []
    body = {"prompt": "a", "width": 256, "height": 256, "steps": 60, "seed": 1, "n_iter": 4}
    drawing = threading.Thread(target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=body)))
    drawing.start()
    wait_until_two_are_drawn(client)
    assert client.post(f"/sdapi/v1/{how}").status_code == 200
    drawing.join(180)
    told = json.loads(answers[0].json()["info"])
    assert least <= len(answers[0].json()["images"]) <= most
    assert all(("Stopped after: " in text) == (how == "interrupt") for text in told["infotexts"])
    assert pictures(client.post(DRAW, json=SMALL))


def test_a_replica_that_is_killed_while_it_draws_loses_no_picture(live, client):
    alone = pictures(client.post(DRAW, json=LONG))[0]
    process = int(re.findall(r"runs on cpu in process (\d+)", live.log.read_text())[0])
    answers: list = []
    drawing = threading.Thread(target=lambda: answers.append(client.post(DRAW, json={**LONG, "n": 2})))
    drawing.start()
    time.sleep(1)
    os.kill(process, signal.SIGKILL)
    drawing.join(180)
    drawn = pictures(answers[0])
    assert len(drawn) == len(set(drawn)) == 2
    assert drawn[0] == alone
    assert pictures(client.post(DRAW, json={**SMALL, "n": 2}))


def test_more_replicas_than_the_cluster_has_are_refused(tmp_path):
    running = Running(tmp_path / "out", "--replicas", "1000", "--no-page")
    assert running.process.wait(180) == 2
    assert "invalid replicas 1000: expected at most" in running.log.read_text()
