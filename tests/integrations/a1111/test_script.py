"""The web UI's script, run by a fake of the web UI against a real server of the toy model."""

import ast
import importlib.util
import io
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from leanlens.resolution import BUCKETS
from tests.integrations.a1111 import fake
from tests.integrations.a1111.fake import picture_processing, processing
from tests.reasoning import FakeReasoner

OWN, TAB = "The model's own", "As in the tab"


@pytest.fixture
def webui(monkeypatch, server):
    """The loaded script in a web UI whose settings name the server."""
    saved: list = []
    made = fake.modules(saved)
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
        if name.startswith("modules."):
            setattr(made["modules"], name.removeprefix("modules."), module)
    monkeypatch.syspath_prepend(str(fake.EXTENSION))
    spec = importlib.util.spec_from_file_location("leanlens.py", fake.EXTENSION / "scripts" / "leanlens.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys.modules["leanlens_client"], "POLL", 0.02)
    module.shared.opts.data |= {"leanlens_address": server, "leanlens_key": "sesame"}
    module.saved = saved
    yield module
    for name in ("leanlens_client", "leanlens_sizes"):
        sys.modules.pop(name, None)


def press(webui, p, model="", steps=OWN, size=OWN):
    """Generate, with the script's fields as its `ui` orders them."""
    script = webui.Script()
    assert len(script.ui(hasattr(p, "init_images"))) == 3
    return script.run(p, model, steps, size)


def test_nothing_but_the_standard_library_is_imported():
    allowed = sys.stdlib_module_names | {"PIL", "gradio", "modules", "backend", "leanlens_client", "leanlens_sizes"}
    for path in fake.EXTENSION.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_what_the_web_ui_asks_first(webui):
    script = webui.Script()
    assert (script.title(), script.show(False), script.show(True)) == ("Lens (leanlens)", True, True)
    (add_settings,) = sys.modules["modules.script_callbacks"].all
    add_settings()
    templates = webui.shared.opts.templates
    assert sorted(templates) == [
        "leanlens_address", "leanlens_free_memory", "leanlens_key", "leanlens_reason", "leanlens_size",
        "leanlens_timeout",
    ]  # fmt: skip
    assert {info.section for info in templates.values()} == {("leanlens", "leanlens")}


def test_text_to_image(webui):
    p = processing(prompt="a fox, (red:1.2)", negative_prompt="blur", seed=7, n_iter=2, batch_size=2)
    result = press(webui, p)
    assert [image.size for image in result.images] == [(128, 128)] * 4
    assert result.all_seeds == [7, 8, 9, 10]
    assert (result.seed, result.steps, result.cfg_scale, result.sampler_name) == (7, 4, 5.0, "Euler")
    assert (result.width, result.height, result.sd_model_name) == (128, 128, "toy")
    for seed, text in zip(result.all_seeds, result.infotexts, strict=True):
        lines = text.splitlines()
        assert lines[:2] == ["a fox, (red:1.2)", "Negative prompt: blur"]
        assert lines[2].startswith("Steps: 4, Sampler: Euler")
        assert f"Seed: {seed}, Size: 128x128, Model hash: " in lines[2]
    assert "weights such as (red:1.2) are taken literally" in result.comments
    assert [one["seed"] for one in webui.saved] == result.all_seeds
    assert [one["info"] for one in webui.saved] == result.infotexts
    assert (webui.shared.state.job_count, webui.shared.state.job_no) == (2, 2)


def test_prompts_are_rewritten_at_the_server_unless_the_settings_say_no(webui, monkeypatch):
    monkeypatch.setattr("leanlens.serve.reasoning.Reasoning.reasoner", fresh_reasoner)
    captions = [f"This flat picture shows two cats. Choice {seed}." for seed in (7, 8)]
    result = press(webui, processing(prompt="two cats", seed=7, batch_size=2))
    assert result.all_prompts == captions
    assert all('Original prompt: "two cats", Reasoner: fake 1' in text for text in result.infotexts)
    webui.shared.opts.data["leanlens_reason"] = "off"
    plain = press(webui, processing(prompt="two cats", seed=7))
    assert plain.all_prompts == ["two cats"]
    assert "Original prompt" not in plain.infotexts[0]


def fresh_reasoner(reasoning, model, word=None):
    """As the server's own, without what it remembers of other tests."""
    return None if word == "off" else FakeReasoner()


def test_the_picture_is_the_command_lines(webui):
    from leanlens.pipeline.draw import draw
    from leanlens.pipeline.open import open_model
    from leanlens.pipeline.request import ImageRequest

    p = processing(prompt="a fox", seed=3, steps=6, cfg_scale=2.0, width=96, height=64)
    result = press(webui, p, model="toy", steps=TAB, size=TAB)
    request = ImageRequest.checked(
        prompt="a fox", seed=3, width=96, height=64, num_inference_steps=6, guidance_scale=2.0
    )
    plain = draw(open_model("toy", "cpu", "float32"), request).image
    assert (np.asarray(result.images[0]) == np.asarray(plain)).all()


def test_a_random_seed_and_styles(webui):
    first = press(webui, processing(styles=["in ink"]))
    second = press(webui, processing())
    assert first.all_prompts == ["a fox, in ink"]
    assert first.seed != second.seed
    assert first.seed >= 0


def test_image_to_image_with_a_mask(webui):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    mask = Image.new("L", (96, 64), 255)
    mask.paste(0, (48, 0, 96, 64))
    p = picture_processing(
        Image.fromarray(noise), mask, seed=1, width=96, height=64, inpainting_mask_invert=1, denoising_strength=1.0,
        inpaint_full_res=1,
    )  # fmt: skip
    result = press(webui, p, size=TAB)
    changed = np.abs(np.asarray(result.images[0]).astype(int) - noise).max(axis=(0, 2))
    assert changed[:48].max() <= 1
    assert changed[48:].max() > 20
    assert "Denoising strength: 1.0" in result.infotexts[0]
    assert "only masked is not done by Lens" in result.comments


def test_transparency_is_read_as_the_web_ui_reads_it(webui):
    picture = Image.new("RGBA", (32, 16), (0, 0, 0, 0))
    picture.paste((10, 20, 30, 255), (0, 0, 16, 16))
    assert webui.flat(picture).getpixel((20, 5)) == (255, 255, 255)
    webui.shared.opts.img2img_background_color = "#0000ff"
    assert (webui.flat(picture).getpixel((20, 5)), webui.flat(picture).getpixel((2, 5))) == ((0, 0, 255), (10, 20, 30))
    assert np.asarray(webui.grey(picture)).mean(0).tolist() == [255.0] * 16 + [0.0] * 16
    opaque = Image.new("RGBA", (2, 1), "white")
    opaque.putpixel((0, 0), (0, 0, 0, 255))
    assert list(np.asarray(webui.grey(opaque))[0]) == [0, 255]


def test_progress_and_preview(webui):
    press(webui, processing(steps=100, cfg_scale=5.0), steps=TAB)
    state = webui.shared.state
    assert state.sampling_steps in (0, 100)
    assert max(state.steps_seen) > 0
    assert state.previews


def test_interrupt_stops_the_server_and_the_loop(webui):
    state = webui.shared.state

    def stop():
        while not any(state.steps_seen):
            time.sleep(0.01)
        state.interrupted = True

    threading.Thread(target=stop, daemon=True).start()
    result = press(webui, processing(steps=100, n_iter=50), steps=TAB)
    assert len(result.images) < 3
    assert state.job_no < 3
    assert webui.Server(webui.shared.opts.data["leanlens_address"], "sesame").ask("progress")["state"]["job_count"] == 0


def test_skip_goes_on_with_the_next(webui):
    state = webui.shared.state

    def skip():
        while not any(state.steps_seen):
            time.sleep(0.01)
        state.skipped = True

    threading.Thread(target=skip, daemon=True).start()
    result = press(webui, processing(steps=100, n_iter=2), steps=TAB)
    assert len(result.images) == 1
    assert state.job_no == 2


@pytest.mark.parametrize("base", [1024, 1440])
def test_sizes_are_the_librarys(webui, base):
    sizes = sys.modules["leanlens_sizes"]
    assert {(height, width) for width, height in sizes.SHAPES[base]} == set(BUCKETS[base].values())
    choice = sizes.NEAREST_1440 if base == 1440 else sizes.NEAREST_1024
    for height, width in BUCKETS[base].values():
        assert sizes.size_for(choice, width, height) == (width, height)
    assert sizes.size_for(choice, 512, 768) == BUCKETS[base]["2:3"][::-1]
    assert sizes.size_for(sizes.OWN, 500, 500) is None
    with pytest.raises(ValueError, match="invalid size 500 x 512: expected multiples of 16; nearest: 496 x 512"):
        sizes.size_for(sizes.TAB, 500, 512)


def test_what_the_server_refuses_is_told(webui):
    with pytest.raises(webui.ServerError, match="404: sd_model_checkpoint 'rl' is not offered"):
        press(webui, processing(), model="rl")
    webui.shared.opts.data["leanlens_key"] = "wrong"
    with pytest.raises(webui.ServerError, match="the server answered 401"):
        press(webui, processing())
    webui.shared.opts.data["leanlens_address"] = "http://127.0.0.1:9"
    with pytest.raises(webui.ServerError, match="no server answers at"):
        press(webui, processing())
    webui.shared.opts.data["leanlens_address"] = "ftp://127.0.0.1:9"
    with pytest.raises(webui.ServerError, match="invalid address 'ftp://127\\.0\\.0\\.1:9'"):
        press(webui, processing())


@pytest.mark.parametrize(
    "written",
    ["{}", "http://{}/", " http://{} ", "http://{}/v1", "{}/v1/", "http://{}/sdapi/v1/", "HTTP://{}"],
)
def test_an_address_is_understood_as_people_write_it(webui, written):
    start = webui.shared.opts.data["leanlens_address"].removeprefix("http://")
    server = webui.Server(written.format(start), "sesame")
    assert server.address.lower() == f"http://{start}"
    assert server.ask("progress")["state"]["job_count"] == 0


def test_memory_is_freed_where_the_settings_ask(webui):
    webui.shared.opts.data["leanlens_free_memory"] = True
    press(webui, processing(do_not_save_samples=True))
    assert webui.saved == ["unloaded"]


def test_pictures_carry_what_the_server_wrote(webui):
    image = press(webui, processing(seed=5)).images[0]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert "Seed: 5" in image.info["parameters"]
