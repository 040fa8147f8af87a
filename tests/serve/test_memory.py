"""What cannot fit is refused before it is drawn, with what would; what cannot fit together is drawn apart."""

import threading

import pytest
import torch

from leanlens.pipeline.open import open_model
from leanlens.plan.free_memory import FreeMemory, working_bytes
from leanlens.plan.memory import ModelSizes
from leanlens.serve import engine as engine_module
from leanlens.serve.errors import APIError
from leanlens.serve.memory import _left_in_container, free_bytes, sizes_of
from leanlens.serve.parameters import GenerationParameters

SIDE = 128


@pytest.fixture(scope="module")
def one_picture():
    """Gigabytes that one picture of 128 x 128 needs on the toy model."""
    return working_bytes(sizes_of(open_model("toy", "cpu", "float32")), FreeMemory(0, "float32"), SIDE, SIDE) / 1e9


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that are really drawn."""
    sizes, plain = [], engine_module.draw_together

    def counted(opened, requests, *rest):
        sizes.append(len(requests))
        return plain(opened, requests, *rest)

    monkeypatch.setattr(engine_module, "draw_together", counted)
    return sizes


def finished(service, job) -> threading.Event:
    ended = threading.Event()
    job.listen(lambda event: ended.set() if job.is_final else None)
    service.start(job)
    return ended


def parameters(side: int = SIDE, **fields) -> GenerationParameters:
    return GenerationParameters("a", width=side, height=side, num_inference_steps=2, seed=1, **fields)


def test_a_picture_that_cannot_fit_is_refused_before_the_queue_and_what_it_names_fits(service, one_picture, batches):
    server = service(memory_limit=1.5 * one_picture)
    assert finished(server, server.prepare(parameters(), "a", "test")).wait(60)
    with pytest.raises(
        APIError, match=r"a picture of 512x512 needs about .* GB of memory .* are free; \d+x\d+ would"
    ) as no:
        server.prepare(parameters(512), "a", "test")
    assert (no.value.kind, no.value.field, no.value.info.status) == ("memory", "size", 400)
    side = int(no.value.message.rpartition("; ")[2].partition("x")[0])
    assert SIDE <= side < 512
    job = server.prepare(parameters(side), "a", "test")
    assert finished(server, job).wait(60)
    assert job.state == "done"
    assert batches == [1, 1]


def test_a_worker_refuses_what_came_before_its_model_was_open(service, one_picture, batches):
    server = service(started=False, memory_limit=0.5 * one_picture)
    job = server.prepare(parameters(), "a", "test")
    ended = finished(server, job)
    server.open()
    assert ended.wait(60)
    assert (job.state, job.tasks[0].error.kind, batches) == ("failed", "memory", [])


def test_what_does_not_fit_together_is_drawn_in_parts_that_do(service, one_picture, batches):
    server = service(started=False, memory_limit=2.5 * one_picture)
    job = server.prepare(parameters(count=5), "a", "test")
    ended = finished(server, job)
    server.open()
    assert ended.wait(60)
    assert job.state == "done"
    assert batches == [2, 1, 2]


def test_the_guard_can_be_turned_off(service, batches):
    server = service(memory_limit=0)
    job = server.prepare(parameters(count=3), "a", "test")
    assert finished(server, job).wait(60)
    assert (job.state, sum(batches)) == ("done", 3)


def test_a_model_whose_weights_cannot_fit_is_not_opened(service, monkeypatch):
    opened = []
    monkeypatch.setattr(engine_module, "open_model", lambda *given, **more: opened.append(given))
    server = service(started=False)
    monkeypatch.setattr(server.library, "sizes", lambda model: ModelSizes())
    monkeypatch.setattr(engine_module, "free_bytes", lambda device: 4e9)
    job = server.prepare(parameters(), "a", "test")
    ended = finished(server, job)
    server.open()
    assert ended.wait(60)
    assert job.tasks[0].error.kind == "unavailable"
    assert "its weights need at least 21 GB of memory and 4 GB are free" in job.tasks[0].error.message
    assert "its weights need" in server.trouble
    assert opened == []


@pytest.mark.parametrize("api", ["/v1/images/generations", "/sdapi/v1/txt2img"])
def test_each_api_says_so_in_its_own_shape(server, one_picture, api):
    client = server(memory_limit=1.5 * one_picture)
    small = {"prompt": "a", "steps": 1, "width": SIDE, "height": SIDE}
    assert client.post(api, json=small).status_code == 200
    answer = client.post(api, json={**small, "width": 512, "height": 512})
    assert answer.status_code == 400
    if api.startswith("/v1"):
        error = answer.json()["error"]
        named = "width x height"  # the fields that were sent
        assert (error["code"], error["param"], error["type"]) == ("out_of_memory", named, "invalid_request_error")
        said = error["message"]
        streamed = client.post(api, json={**small, "width": 512, "height": 512, "stream": True})
        assert (streamed.status_code, streamed.json()["error"]["code"]) == (400, "out_of_memory")
    else:
        assert answer.json()["error"] == "HTTPException"
        said = answer.json()["detail"]
    assert "512x512 needs about" in said
    assert "would fit" in said


def test_sizes_of_an_opened_model_are_those_the_planner_reads_from_its_files():
    from dataclasses import replace

    from leanlens.weights.sizes import model_sizes

    planned, found = model_sizes("nano")[0], sizes_of(open_model("nano", "cpu", "float32"))
    assert found.denoiser == planned.denoiser
    assert (found.denoiser_parameters, found.heads) == (planned.denoiser_parameters, planned.heads)
    assert replace(found.encoder, active=0, parameters=0) == replace(planned.encoder, active=0, parameters=0)
    assert found.encoder.parameters <= planned.encoder.parameters
    assert found.autoencoder.channels[-1] >= planned.autoencoder.channels[-1]


def test_what_a_container_leaves_is_counted(tmp_path):
    assert _left_in_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 50\n")
    assert _left_in_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _left_in_container(tmp_path) == 750
    assert 0 < free_bytes(torch.device("cpu")) < 1e15


def test_a_limit_below_nothing_is_refused(settings):
    with pytest.raises(ValueError, match=r"invalid memory_limit -1\.0"):
        settings(memory_limit=-1.0)
