"""A request on an opened model."""

import numpy as np
import pytest
import torch
from PIL import Image

from leanlens.pipeline import open as opening
from leanlens.pipeline.device import resolve_device, resolve_dtype
from leanlens.pipeline.draw import draw, draw_together
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.threads import WINDOW, Load

GOOD = {"prompt": "a", "width": 64, "height": 64, "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 3}


@pytest.fixture(scope="module")
def opened():
    return open_model("toy", device="cpu", dtype="float32")


def test_same_request_same_picture_and_a_record_that_says_so(opened):
    request = ImageRequest.checked(**GOOD)
    first, second = draw(opened, request), draw(opened, request)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.record == second.record
    assert ImageRequest.checked(**first.record["request"]) == request
    assert first.record["run"]["dtype"] == "float32"
    assert first.record["request"]["template_date"] == "2026-05-23"


def test_prompts_are_encoded_once_for_several_seeds(opened, monkeypatch):
    calls = []
    encode = opened.pipeline.encode_prompt
    monkeypatch.setattr(
        opened.pipeline, "encode_prompt", lambda *args, **options: calls.append(args) or encode(*args, **options)
    )
    pictures = [draw(opened, ImageRequest.checked(**{**GOOD, "prompt": "new", "seed": seed})) for seed in range(3)]
    assert len(calls) == 1
    assert len({picture.image.tobytes() for picture in pictures}) == 3


def test_steps_are_reported(opened, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    steps = []
    draw(opened, ImageRequest.checked(**GOOD), on_step=steps.append)
    start = {"image": str(tmp_path / "a.png"), "strength": 0.5}
    draw(opened, ImageRequest.checked(**GOOD, **start), on_step=steps.append)
    assert steps == [1, 2, 1]


class Busy(Load):
    """Others that take all cores but one, seen once `WINDOW` has passed."""

    age = WINDOW

    def measure(self) -> float:
        return 1000.0


def test_threads_are_recorded_and_a_plan_is_repeated(opened, monkeypatch):
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        request, seen = ImageRequest.checked(**GOOD), []
        quiet = draw(opened, request)
        assert quiet.record["run"]["threads"] == 2
        assert "step_threads" not in quiet.record["run"]
        monkeypatch.setattr(opened, "load", Busy())
        hook = opened.pipeline.transformer.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        busy = draw(opened, request)
        again = draw(opened, request, thread_plan=busy.record["run"]["step_threads"])
        hook.remove()
        assert busy.record["run"]["step_threads"] == again.record["run"]["step_threads"] == [[0, 1]]
        assert busy.record["run"]["threads"] == 2  # of everything but the steps
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        assert again.image.tobytes() == busy.image.tobytes()
    finally:
        torch.set_num_threads(usual)


def test_threads_are_chosen_for_small_models_only(monkeypatch):
    monkeypatch.setattr(opening, "can_be_chosen", lambda threads: True)
    assert open_model("toy", device="cpu").load is not None
    monkeypatch.setattr(opening, "SMALL", 10)
    assert open_model("toy", device="cpu").load is None
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert open_model("toy", device="cpu").load is None


def test_input_files_are_recorded_by_checksum_and_named_when_missing(opened, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "m.png")
    request = ImageRequest.checked(**GOOD, image=str(tmp_path / "a.png"), mask=str(tmp_path / "m.png"), strength=1.0)
    inputs = draw(opened, request).record["inputs"]
    assert len(inputs["image"]) == len(inputs["mask"]) == 64
    with pytest.raises(ValueError, match=r"image .*gone.png cannot be read"):
        draw(opened, ImageRequest.checked(**GOOD, image=str(tmp_path / "gone.png"), strength=1.0))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text.png cannot be opened: it is not an image file"):
        draw(opened, ImageRequest.checked(**GOOD, image=str(tmp_path / "text.png"), strength=1.0))


def test_devices_and_dtypes():
    cpu = torch.device("cpu")
    assert resolve_dtype("bf16", cpu) is torch.bfloat16
    assert resolve_dtype("auto", torch.device("cuda")) is torch.bfloat16
    with pytest.raises(ValueError, match="invalid dtype 'int8': expected one of auto, bfloat16"):
        resolve_dtype("int8", cpu)
    with pytest.raises(ValueError, match="device 'tpu:0' cannot be used here"):
        resolve_device("tpu:0")


def test_without_a_compiler_the_model_stays_eager_and_says_so_once(monkeypatch, caplog):
    from leanlens.log import warn_once
    from leanlens.pipeline import speed

    warn_once.cache_clear()
    monkeypatch.setattr(speed.shutil, "which", lambda name: None)
    for _ in range(2):
        assert not open_model("toy", device="cpu", dtype="float32", compile=True).compiled
    assert caplog.text.count("No C++ compiler was found") == 1


@pytest.mark.long
def test_compiled_draws_nearly_the_same(opened):
    compiled = open_model("toy", device="cpu", dtype="float32", compile=True)
    assert compiled.compiled
    request = ImageRequest.checked(**GOOD)
    a, b = draw(opened, request), draw(compiled, request)
    difference = max(abs(x - y) for x, y in zip(a.image.tobytes(), b.image.tobytes(), strict=True))
    assert difference <= 2
    assert b.record["run"]["compiled"]


def test_an_ended_drawing_shows_what_was_expected_and_is_drawn_again_to_the_byte(opened):
    request = ImageRequest.checked(**{**GOOD, "num_inference_steps": 6})
    whole = draw(opened, request)
    ended = draw_together(opened, [request], lambda step, _: step == 3)[0]
    assert (ended.record["stopped_after"], "stopped_after" in whole.record) == (3, False)
    assert ended.image.tobytes() != whole.image.tobytes()
    again = draw(opened, request, stop_after=3)
    assert (again.image.tobytes(), again.record) == (ended.image.tobytes(), ended.record)
    first = draw_together(opened, [request], lambda step, _: True)[0]  # before the second step nothing is expected
    assert first.record["stopped_after"] == 2
    last = draw_together(opened, [request], lambda step, _: step == 6)[0]
    assert (last.image.tobytes(), last.record) == (whole.image.tobytes(), whole.record)


def test_an_ended_drawing_is_the_end_of_a_straight_path(opened, monkeypatch):
    """With a velocity that does not change, every step expects the same end, which is the finished picture."""
    steady = torch.randn(1, 16, opened.pipeline.transformer.config.in_channels, generator=torch.manual_seed(0))
    monkeypatch.setattr(
        "leanlens.pipeline.denoise._plain_branches", lambda *_: lambda latents, step: steady.to(latents)
    )
    request = ImageRequest.checked(**{**GOOD, "num_inference_steps": 5})
    whole, ended = draw(opened, request), draw(opened, request, stop_after=2)
    difference = np.abs(np.asarray(whole.image, dtype=int) - np.asarray(ended.image, dtype=int))
    assert difference.max() <= 1


def test_a_picture_is_enlarged_between_its_latents(opened, tmp_path):
    Image.linear_gradient("L").convert("RGB").resize((32, 32)).save(tmp_path / "a.png")
    start = {**GOOD, "image": str(tmp_path / "a.png"), "strength": 0.01}
    plain = draw(opened, ImageRequest.checked(**start))
    latent = draw(opened, ImageRequest.checked(**start, latent_resize="nearest-exact"))
    assert latent.image.size == (64, 64)
    assert latent.image.tobytes() != plain.image.tobytes()
    assert "latent_resize" not in plain.record["request"]
    assert latent.record["request"]["latent_resize"] == "nearest-exact"
    assert ImageRequest.checked(**latent.record["request"]).latent_resize == "nearest-exact"
    for wrong in ({"latent_resize": "bilinear"}, {**start, "mask": "m.png", "latent_resize": "bilinear"}):
        with pytest.raises(ValueError, match="latent_resize needs an image"):
            ImageRequest.checked(**{**GOOD, **wrong})
    with pytest.raises(ValueError, match="invalid latent_resize 'cubic'"):
        ImageRequest.checked(**start, latent_resize="cubic")
