"""One worker: the same pictures as the command line, together or alone, and it goes on whatever happens."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from leanlens.pipeline.draw import draw
from leanlens.pipeline.metadata import save_picture
from leanlens.pipeline.open import open_model
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.request import ImageRequest
from leanlens.serve import engine as engine_module
from leanlens.serve.errors import APIError
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.preview import LatentColours, LatentPreview

SMALL = {"width": 64, "height": 64, "num_inference_steps": 3}


def finish(service, *parameter_sets: GenerationParameters, owner: str = "a") -> list:
    """Prepare all, start all, wait for all."""
    jobs = [service.prepare(parameters, owner, "test") for parameters in parameter_sets]
    ended = threading.Event()
    for job in jobs:
        job.listen(lambda event: ended.set() if all(one.is_final for one in jobs) else None)
    for job in jobs:
        service.start(job)
    assert ended.wait(120)
    return jobs


def pixels(task) -> np.ndarray:
    with Image.open(task.picture.path) as picture:
        return np.asarray(picture, dtype=int)


@pytest.fixture(scope="module")
def alone():
    """`alone(prompt="a", ...)` -> the bytes of the file that `leanlens generate` writes."""
    opened = open_model("toy", device="cpu", dtype="float32")

    def make(path: Path, **fields) -> bytes:
        drawn = draw(opened, ImageRequest.checked(**fields))
        return save_picture(drawn.image, path, drawn.record).read_bytes()

    return make


def test_drawn_alone_the_file_is_that_of_the_command_line(service, alone, tmp_path):
    (job,) = finish(service(), GenerationParameters("a fox", seed=5, **SMALL))
    wanted = alone(tmp_path / "alone.png", prompt="a fox", seed=5, guidance_scale=5.0, **SMALL)
    assert job.state == "done"
    assert job.tasks[0].picture.path.read_bytes() == wanted


def test_what_is_left_out_is_the_models_own(service):
    (job,) = finish(service(), GenerationParameters("a fox"))
    request = job.tasks[0].request
    assert (request.width, request.height, request.num_inference_steps, request.guidance_scale) == (128, 128, 4, 5.0)
    assert job.tasks[0].text_tokens > 0


def test_together_they_differ_from_alone_by_at_most_two_levels(service, alone, tmp_path):
    server = service(started=False)
    parameter_sets = [
        GenerationParameters(prompt, seed=seed, **SMALL) for seed, prompt in enumerate(("a", "a longer one", "third"))
    ]
    parameter_sets.append(GenerationParameters("with words to keep away from", negative_prompt="rain", seed=9, **SMALL))
    jobs = [server.prepare(parameters, f"owner {index}", "test") for index, parameters in enumerate(parameter_sets)]
    ended = threading.Event()
    for job in jobs:
        job.listen(lambda event: ended.set() if all(one.is_final for one in jobs) else None)
        server.start(job)
    server.open()  # only now: all are waiting, so all share the first batch
    assert ended.wait(120)
    assert "leanlens_batches_total 1.0\n" in server.metrics.page()
    for job in jobs:
        request = job.tasks[0].request.model_dump()
        alone(tmp_path / "alone.png", **request)
        with Image.open(tmp_path / "alone.png") as picture:
            assert np.abs(np.asarray(picture, dtype=int) - pixels(job.tasks[0])).max() <= 2


def test_batching_can_be_turned_off(service):
    server = service(started=False, max_batch=1)
    job = server.prepare(GenerationParameters("a", count=3, seed=1, **SMALL), "a", "test")
    server.start(job)
    ended = threading.Event()
    job.listen(lambda event: ended.set() if job.is_final else None)
    server.open()
    assert ended.wait(120)
    assert "leanlens_batches_total 3.0\n" in server.metrics.page()
    assert [task.request.seed for task in job.tasks] == [1, 2, 3]


def test_previews_come_and_look_like_the_picture(service):
    server, previews = service(), []
    job = server.prepare(
        GenerationParameters("a fox", seed=5, width=128, height=128, num_inference_steps=6), "a", "test"
    )
    ended = threading.Event()

    def listen(event):
        if event.preview is not None:
            previews.append((event.preview.step, event.preview.to_image()))
        if job.is_final:
            ended.set()

    job.listen(listen)
    server.start(job)
    assert ended.wait(120)
    assert [step for step, _ in previews] == [2, 3, 4, 5, 6]
    assert previews[-1][1].size == (16, 16)
    with Image.open(job.tasks[0].picture.path) as picture:
        small = np.asarray(picture.resize((16, 16), Image.Resampling.BOX), dtype=float).ravel()
    likeness = np.corrcoef(small, np.asarray(previews[-1][1], dtype=float).ravel())[0, 1]
    assert likeness > 0.1  # random weights are far from linear; chance alone has a deviation of 0.036


def test_a_straight_path_is_seen_to_its_end():
    clean, noise = torch.randn(2, 3, 16, 128, generator=torch.Generator().manual_seed(0))
    seen = []

    class Colours(LatentColours):
        def picture(self, latents, grid):
            seen.append(latents)

    at = [(1 - level) * clean + level * noise for level in (0.9, 0.6)]
    LatentPreview(1, at[0], at[1], (0.9, 0.6), 2, (4, 4), Colours(torch.zeros(129, 12))).to_image()
    torch.testing.assert_close(seen[0], clean[2], atol=1e-5, rtol=0)


def test_a_cancelled_picture_stops_at_its_next_step_and_a_waiting_one_at_once(service):
    server = service(max_batch=1)
    long = server.prepare(GenerationParameters("a", num_inference_steps=100, width=64, height=64), "a", "test")
    waiting = server.prepare(GenerationParameters("b", **SMALL), "a", "test")
    begun = threading.Event()
    long.listen(lambda event: begun.set() if event.kind == "step" else None)
    server.start(long)
    server.start(waiting)
    assert begun.wait(120)
    server.cancel(waiting)
    server.cancel(long)
    assert (long.state, waiting.state, len(server.queue)) == ("cancelled", "cancelled", 0)
    assert long.tasks[0].step < 100
    (after,) = finish(server, GenerationParameters("c", **SMALL))
    assert after.state == "done"
    assert not server.running()


def test_out_of_memory_answers_one_request_and_the_worker_goes_on(service, monkeypatch):
    plain = engine_module.draw_together

    def short_of_memory(opened, requests, *rest):
        if len(requests) > 1 or requests[0].prompt == "huge":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")
        return plain(opened, requests, *rest)

    monkeypatch.setattr(engine_module, "draw_together", short_of_memory)
    server = service(started=False)
    jobs = [
        server.prepare(GenerationParameters(prompt, seed=1, **SMALL), "a", "test") for prompt in ("one", "huge", "two")
    ]
    ended = threading.Event()
    for job in jobs:
        job.listen(lambda event: ended.set() if all(one.is_final for one in jobs) else None)
        server.start(job)
    server.open()
    assert ended.wait(120)
    assert [job.state for job in jobs] == ["done", "failed", "done"]
    error = jobs[1].tasks[0].error
    assert (error.kind, error.info.status) == ("memory", 400)
    assert "64x64 does not fit" in error.message
    assert "try 32x32" in error.message


def test_an_unforeseen_error_is_logged_and_told_and_the_worker_goes_on(service, monkeypatch, caplog):
    plain = engine_module.draw_together

    def broken(opened, requests, *rest):
        if requests[0].prompt == "broken":
            raise KeyError("secret detail")
        return plain(opened, requests, *rest)

    monkeypatch.setattr(engine_module, "draw_together", broken)
    server = service()
    (bad,) = finish(server, GenerationParameters("broken", **SMALL))
    (good,) = finish(server, GenerationParameters("good", **SMALL))
    assert (bad.state, good.state) == ("failed", "done")
    assert bad.tasks[0].error.kind == "failed"
    assert "secret" not in bad.tasks[0].error.message
    assert "secret detail" in caplog.text


def test_a_full_disk_fails_one_picture_and_a_lost_listener_keeps_nobody_waiting(service, monkeypatch):
    server = service()
    store = server.archive.store

    def full(task, drawn):
        if task.request.prompt == "full":
            raise OSError(28, "No space left on device")
        return store(task, drawn)

    def lost(event):
        raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(server.archive, "store", full)
    (bad,) = finish(server, GenerationParameters("full", **SMALL))
    assert (bad.state, bad.tasks[0].error.message) == ("failed", "the picture cannot be written: OSError")
    job = server.prepare(GenerationParameters("good", **SMALL), "a", "test")
    ended = threading.Event()
    job.listen(lost)
    job.listen(lambda event: ended.set() if job.is_final else None)
    server.start(job)
    assert ended.wait(60)
    assert job.state == "done"
    monkeypatch.setattr(server.workers[0], "deliver", lost)
    (undelivered,) = finish(server, GenerationParameters("undelivered", **SMALL))
    assert (undelivered.state, undelivered.tasks[0].error.kind) == ("failed", "failed")
    assert server.workers[0].is_alive
    assert not server.running()


def test_prompts_are_encoded_once_and_kept_within_a_bound(service, monkeypatch):
    calls = []
    plain = LensPipeline.encode_prompt
    monkeypatch.setattr(
        LensPipeline,
        "encode_prompt",
        lambda self, prompt, *rest, **options: calls.append(prompt) or plain(self, prompt, *rest, **options),
    )
    server = service()
    finish(server, GenerationParameters("a", count=2, **SMALL))
    finish(server, GenerationParameters("b", **SMALL))
    finish(server, GenerationParameters("a", **SMALL))
    assert calls == ["a", "b"]
    tight = service(prompt_cache=0, output=server.settings.output.with_name("other"))
    for prompt in ("c", "d", "c"):
        finish(tight, GenerationParameters(prompt, **SMALL))
    assert calls[2:] == ["c", "d", "c"]


def lora_file(folder: Path, name: str = "bright", rank: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    from leanlens.pipeline.toy import toy_pipeline

    layer = toy_pipeline().transformer.transformer_blocks[0].attn.img_qkv
    save_file(
        {
            "diffusion_model.transformer_blocks.0.attn.img_qkv.lora_A.weight": torch.randn(
                rank, layer.in_features, generator=generator
            ),
            "diffusion_model.transformer_blocks.0.attn.img_qkv.lora_B.weight": torch.randn(
                layer.out_features, rank, generator=generator
            ),
        },
        folder / f"{name}.safetensors",
    )
    return folder / f"{name}.safetensors"


def test_a_lora_by_name_acts_for_one_request_and_is_out_for_the_next(service, alone, tmp_path):
    file = lora_file(tmp_path / "loras")
    save_file({"diffusion_model.nothing.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "loras" / "bad.safetensors")
    server = service(lora_folders=(tmp_path / "loras",))
    (plain,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    (bright,) = finish(server, GenerationParameters("a", seed=1, loras=[("bright", 0.8)], **SMALL))
    (bad,) = finish(server, GenerationParameters("a", seed=1, loras=[("bright", 1.0), ("bad", 1.0)], **SMALL))
    (again,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    assert bright.state == "done"
    assert (pixels(plain.tasks[0]) != pixels(bright.tasks[0])).any()
    assert (bad.state, bad.tasks[0].error.kind) == ("failed", "invalid")
    assert plain.tasks[0].picture.path.read_bytes() == again.tasks[0].picture.path.read_bytes()
    wanted = alone(
        tmp_path / "x.png", prompt="a", seed=1, guidance_scale=5.0, loras=[{"path": str(file), "scale": 0.8}], **SMALL
    )
    assert bright.tasks[0].picture.path.read_bytes() == wanted
    for name in ("../loras/bright", str(file), "other", ""):
        with pytest.raises(APIError, match="is not offered; choose among: bad, bright"):
            server.prepare(GenerationParameters("a", loras=[(name, 1.0)]), "a", "test")


@pytest.fixture(scope="module")
def saved_toy(tmp_path_factory):
    from leanlens.pipeline.toy import toy_pipeline

    folder = tmp_path_factory.mktemp("models") / "second"
    toy_pipeline(seed=7).save_pretrained(folder)
    return folder


def test_another_model_by_request_and_let_go_when_idle(service, saved_toy):
    server = service(model_folders=(saved_toy.parent,), idle_unload=0.3)
    (first,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    (second,) = finish(server, GenerationParameters("a", seed=1, model="second", **SMALL))
    assert second.tasks[0].picture.record["model"]["name"] == str(saved_toy)
    assert (pixels(first.tasks[0]) != pixels(second.tasks[0])).any()
    with pytest.raises(APIError, match="model '/etc' is not offered; choose among: toy, second"):
        server.prepare(GenerationParameters("a", model="/etc"), "a", "test")
    deadline = time.monotonic() + 20
    while server.workers[0].model is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.workers[0].model is None
    (third,) = finish(server, GenerationParameters("a", seed=1, **SMALL))
    assert third.tasks[0].picture.path.read_bytes() == first.tasks[0].picture.path.read_bytes()


def test_a_model_that_cannot_be_opened_is_said_and_the_others_draw(service, tmp_path):
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "model_index.json").write_text("{}")
    server = service(model_folders=(tmp_path / "models",))
    (broken,) = finish(server, GenerationParameters("a", model="broken", **SMALL))
    (good,) = finish(server, GenerationParameters("a", **SMALL))
    assert (broken.state, broken.tasks[0].error.kind) == ("failed", "unavailable")
    assert "model broken cannot be opened" in broken.tasks[0].error.message
    assert good.state == "done"
