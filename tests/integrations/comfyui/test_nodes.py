"""The node pack, driven through its schema: in process, and at a real server of the toy model."""

import json
import sys
import time
import tomllib

import numpy as np
import pytest
import torch
from PIL import Image

from leanlens.pipeline.metadata import read_record, xmp_packet
from leanlens.pipeline.request import ImageRequest
from leanlens.reason import reason_request, reasoner_of_model
from leanlens.resolution import BUCKETS, sizes_at
from tests.integrations.comfyui import fake
from tests.integrations.comfyui.fake import call
from tests.reasoning import FakeReasoner


@pytest.fixture(scope="module")
def comfy(tmp_path_factory):
    """ComfyUI as far as the pack sees it, with the pack's nodes in `nodes`."""
    one = fake.Comfy(tmp_path_factory.mktemp("comfy"))
    before = set(sys.modules)
    sys.modules.update(one.modules())
    one.nodes = one.load()
    yield one
    for name in set(sys.modules) - before:
        if name.startswith(("comfy", "folder_paths", str(fake.PACK).replace(".", "_x_"))):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def fresh(comfy):
    comfy.seen.clear()
    comfy.interrupt_after = None


@pytest.fixture(scope="module")
def model(comfy):
    (opened,) = call(comfy.nodes["LeanLensOpenModel"], model="toy", dtype="float32")
    return opened


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("LEANLENS_API_KEY", "sesame")


def pixels(images: torch.Tensor) -> np.ndarray:
    return (images.numpy() * 255).round().astype(np.uint8)


def test_schemas(comfy):
    assert len(comfy.nodes) == 9
    for name, node in comfy.nodes.items():
        schema = node.define_schema()
        assert name.startswith("LeanLens")
        assert (schema.category, bool(schema.description), bool(schema.display_name)) == ("leanlens", True, True)


def test_the_pack_says_what_comfyui_needs():
    project = tomllib.loads((fake.PACK / "pyproject.toml").read_text(encoding="utf-8"))
    assert "ComfyUI" not in project["project"]["name"]
    assert project["project"]["dependencies"] == []
    assert project["tool"]["comfy"]["requires-comfyui"].startswith(">=0.")
    lines = (fake.PACK / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("base", [256, 512, 768, 1024, 1440])
def test_sizes_are_the_librarys(comfy, base):
    for aspect in BUCKETS[1024]:
        assert call(comfy.nodes["LeanLensShape"], base=str(base), aspect=aspect) == sizes_at(base)[aspect][::-1]


def test_drawing_here_is_what_the_command_line_draws(comfy, model):
    from leanlens.pipeline.draw import draw
    from leanlens.pipeline.request import ImageRequest

    assert comfy.freed == 1
    images, records = call(comfy.nodes["LeanLensDrawHere"], model=model, prompt="a fox", seed=7, count=2)
    assert images.shape == (2, 128, 128, 3)
    request = ImageRequest.checked(
        prompt="a fox", seed=8, width=128, height=128, num_inference_steps=4, guidance_scale=5.0
    )
    plain = draw(model, request)
    assert (pixels(images[1]) == np.asarray(plain.image)).all()
    assert records[1] == plain.record
    values = [value for value, _ in comfy.seen]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, 1000)
    previews = [preview for _, preview in comfy.seen if preview]
    assert len(previews) == 2 * 3  # a look needs two steps
    assert previews[0][1].size == (16, 16)


def test_stop_ends_the_drawing(comfy, model):
    comfy.interrupt_after = 2
    with pytest.raises(fake.Interrupted):
        call(comfy.nodes["LeanLensDrawHere"], model=model, prompt="a fox", steps=50)
    assert len(comfy.seen) == 2


def test_from_a_picture_with_a_mask(comfy, model):
    image = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 64, 96)
    mask[:, :, 48:] = 1
    images, (record,) = call(
        comfy.nodes["LeanLensDrawHere"], model=model, prompt="a fox", image=image, mask=mask, strength=1.0
    )
    assert images.shape == (1, 64, 96, 3)
    assert record["request"]["strength"] == 1.0
    changed = np.abs(pixels(images).astype(int) - pixels(image).astype(int)).max(axis=(0, 1, 3))
    assert changed[:48].max() <= 1
    assert changed[48:].max() > 20


def test_saved_and_drawn_again(comfy, model):
    images, records = call(comfy.nodes["LeanLensDrawHere"], model=model, prompt="a fox", seed=3, count=2)
    save = comfy.nodes["LeanLensSave"]
    save.hidden.prompt, save.hidden.extra_pnginfo = {"1": {"class_type": "x"}}, {"workflow": {"version": 0.4}}
    (shown,) = call(save, images=images, settings=records)
    files = [comfy.root / "output" / one["filename"] for one in shown["images"]]
    assert [read_record(file) for file in files] == records
    with Image.open(files[1]) as picture:
        assert json.loads(picture.info["workflow"]) == {"version": 0.4}
        assert json.loads(picture.info["prompt"]) == {"1": {"class_type": "x"}}
        assert "Seed: 4" in picture.info["parameters"]
        assert picture.info["XML:com.adobe.xmp"] == xmp_packet("trainedAlgorithmicMedia")
    del records[1]["marking"]
    (shown,) = call(save, images=images[1:], settings=records[1:])
    with Image.open(comfy.root / "output" / shown["images"][0]["filename"]) as picture:
        assert "XML:com.adobe.xmp" not in picture.info
    records[1]["marking"] = "trainedAlgorithmicMedia"
    call(save, images=images, settings=records)
    (comfy.root / "input" / "fox.png").write_bytes(files[1].read_bytes())
    replay = comfy.nodes["LeanLensReplay"]
    assert replay.validate_inputs("fox.png") is True
    assert "there is no picture" in replay.validate_inputs("cat.png")
    settings, prompt, _, seed, width, height, steps, guidance, name = call(replay, picture="fox.png")
    assert (prompt, seed, width, height, steps, guidance, name) == ("a fox", 4, 128, 128, 4, 5.0, "toy")
    again, _ = call(comfy.nodes["LeanLensDrawHere"], model=model, prompt="not read", settings=settings)
    assert (again[0] == images[1]).all()
    settings[0]["model"]["fingerprint"] = "0" * 64
    with pytest.raises(ValueError, match="another model"):
        call(comfy.nodes["LeanLensDrawHere"], model=model, prompt="", settings=settings)


def test_a_picture_without_settings(comfy):
    Image.new("RGB", (16, 16)).save(comfy.root / "input" / "plain.png")
    with pytest.raises(ValueError, match=r"plain\.png has no leanlens settings"):
        call(comfy.nodes["LeanLensReplay"], picture="plain.png")


def test_wrong_inputs_are_told(comfy, model):
    draw = comfy.nodes["LeanLensDrawHere"]
    with pytest.raises(ValueError, match="width 64 and height 0: give both"):
        call(draw, model=model, prompt="x", width=64)
    with pytest.raises(ValueError, match="mask needs an image"):
        call(draw, model=model, prompt="x", mask=torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match="image has 2 pictures"):
        call(draw, model=model, prompt="x", image=torch.ones(2, 16, 16, 3))
    (loras,) = call(comfy.nodes["LeanLensLora"], file="x", name_at_server="ink")
    with pytest.raises(ValueError, match="LoRA 'ink' is on a server"):
        call(draw, model=model, prompt="x", loras=loras)
    for address in ("ftp://x", "", "http://", "a b", "http://x:port"):
        with pytest.raises(ValueError, match=f"invalid address '{address}'"):
            call(comfy.nodes["LeanLensDrawAtServer"], prompt="x", address=address)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" http://127.0.0.1:8000/ ", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("localhost:8000/v1/", "http://localhost:8000"),
        ("https://pictures.example.org/lens/v1", "https://pictures.example.org/lens"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("HTTP://host", "HTTP://host"),
    ],
)
def test_an_address_is_understood_as_people_write_it(comfy, written, read):
    client = sys.modules[comfy.nodes["LeanLensDrawAtServer"].__module__.replace(".nodes", ".server")]
    assert client.Server(written).address == read


def test_a_seed_is_as_wide_as_comfyuis_own(comfy, model):
    inputs = {one.id: one for one in comfy.nodes["LeanLensDrawHere"].define_schema().inputs}
    assert inputs["seed"].given["max"] == 2**64 - 1


def test_the_plan_is_the_command_lines(comfy):
    plan = comfy.nodes["LeanLensPlan"]
    output = plan.execute(model="turbo", width=1024, height=1024, steps=0, gpu="RTX 3060 12GB")
    report, fits, seconds, device, dtype = output.args
    assert report.startswith("Fits: RTX 3060")
    assert "offload block" in report
    assert "GPU memory at the peak" in report
    assert (fits, device, dtype) == (True, "cuda", "bfloat16")
    assert seconds > 0
    assert output.ui == report
    with pytest.raises(ValueError, match=r"leanlens plan: .*nothing-like-it"):
        plan.execute(model="turbo", width=1024, height=1024, steps=0, gpu="nothing-like-it")


def test_a_lora_file_acts(comfy, model):
    from leanlens.weights.lora import Lora, LowRank, write_lora

    layer = model.pipeline.transformer.transformer_blocks[0].attn.img_qkv
    pair = LowRank(torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2), 2.0)
    write_lora(comfy.root / "loras" / "ink.safetensors", Lora({"transformer_blocks.0.attn.img_qkv": pair}, {}))
    (loras,) = call(comfy.nodes["LeanLensLora"], file="ink.safetensors", scale=0.5)
    draw = comfy.nodes["LeanLensDrawHere"]
    plain, _ = call(draw, model=model, prompt="a fox")
    with_lora, (record,) = call(draw, model=model, prompt="a fox", loras=loras)
    assert (plain - with_lora).abs().max() > 0.01
    assert record["request"]["loras"][0]["scale"] == 0.5


def test_the_reasoner_node_writes_what_the_command_line_draws(comfy):
    node = comfy.nodes["LeanLensPromptReasoner"]
    caption, record = call(node, prompt="two red cats", seed=5)
    told = json.loads(record)
    assert "two red cats" in caption
    assert (told["original"], told["prompt"]) == ("two red cats", caption)
    request = ImageRequest.checked(
        prompt="two red cats", seed=5, width=256, height=256, num_inference_steps=20, guidance_scale=2.0
    )
    assert reason_request(reasoner_of_model("nano"), request).prompt == caption
    assert call(node, prompt=caption, seed=6)[0] == caption
    changed, record = call(node, prompt="two red cats", seed=5, fixed="color 1=blue\n\nbackground = navy blue")
    assert "two blue cats" in changed
    assert json.loads(record)["fixed"] == {"color 1": "blue", "background": "navy blue"}
    assert call(node, prompt="two red cats", seed=5, model="toy") == ("two red cats", "null")
    for wrong, said in (({"fixed": "blue"}, "invalid fixed 'blue'"), ({"width": 64}, "give both"),
                        ({"model": "turbo-of-nobody"}, "is not on this machine")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call(node, prompt="a", seed=5, **wrong)


def test_draw_nodes_rewrite_unless_they_are_told_not_to(comfy, model, server, key, monkeypatch):
    fake_one = FakeReasoner()
    monkeypatch.setattr("leanlens.reason.reasoner_of_model", lambda name, word: None if word == "off" else fake_one)
    here = comfy.nodes["LeanLensDrawHere"]
    small = {"prompt": "two cats", "seed": 5, "width": 32, "height": 32, "steps": 2}
    images, records = call(here, model=model, count=2, **small)
    assert [one["request"]["prompt"] for one in records] == [
        f"This flat picture shows two cats. Choice {seed}." for seed in (5, 6)
    ]
    plain = call(here, model=model, reason="off", **small)[1]
    assert (plain[0]["request"]["prompt"], "reasoner" in plain[0]["request"]) == ("two cats", False)
    edited = call(here, model=model, image=images[:1], **small)[1]
    assert edited[0]["request"]["prompt"] == "two cats"
    again, told = call(here, model=model, settings=records)
    assert torch.equal(again, images)
    assert told == records
    at_server, told = call(comfy.nodes["LeanLensDrawAtServer"], address=server, settings=records)
    assert torch.equal(at_server, images)
    assert [one["request"] for one in told] == [one["request"] for one in records]
    assert len(fake_one.asks) == 2


def test_minus_one_is_a_random_seed_and_runs_again(comfy, model):
    draw = comfy.nodes["LeanLensDrawHere"]
    _, records = call(draw, model=model, prompt="a fox", seed=-1, steps=1, count=2)
    first, second = (record["request"]["seed"] for record in records)
    assert first >= 0
    assert second == first + 1
    told = [draw.fingerprint_inputs(seed=seed, prompt="a fox") for seed in (-1, 7, 7)]
    assert told[0] != told[0]  # never the same: ComfyUI runs the node again
    assert told[1] == told[2]


def test_a_server_draws_the_same(comfy, model, server, key):
    node = comfy.nodes["LeanLensDrawAtServer"]
    images, records = call(node, address=server, prompt="a fox", seed=7, count=2)
    here, _ = call(comfy.nodes["LeanLensDrawHere"], model=model, prompt="a fox", seed=7, count=2)
    assert [record["request"]["seed"] for record in records] == [7, 8]
    assert np.abs(pixels(images).astype(int) - pixels(here).astype(int)).max() <= 2
    alone, alone_records = call(node, address=server, prompt="a fox", seed=7)
    assert (alone == here[:1]).all()
    again, _ = call(node, address=server, prompt="not read", settings=alone_records)
    assert (again == alone).all()


def test_a_server_draws_from_a_picture(comfy, model, server, key):
    image = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 64, 96)
    mask[:, :, 48:] = 1
    inputs = {"prompt": "a fox", "image": image, "mask": mask, "strength": 0.8}
    there, (record,) = call(comfy.nodes["LeanLensDrawAtServer"], address=server, **inputs)
    here, _ = call(comfy.nodes["LeanLensDrawHere"], model=model, **inputs)
    assert record["request"]["strength"] == 0.8
    assert (there == here).all()
    with pytest.raises(ValueError, match="was drawn with image; link the same one"):
        call(comfy.nodes["LeanLensDrawAtServer"], address=server, prompt="", settings=[record])


def test_a_server_shows_looks_and_stops(comfy, server, key, monkeypatch):
    node = comfy.nodes["LeanLensDrawAtServer"]
    call(node, address=server, prompt="a fox", steps=40)
    assert [preview for _, preview in comfy.seen if preview]
    assert comfy.seen[-1][0] == 1000
    comfy.seen.clear()
    comfy.interrupt_after = 2
    with pytest.raises(fake.Interrupted):
        call(node, address=server, prompt="a fox", steps=100, count=4)
    client = sys.modules[node.__module__.replace(".nodes", ".server")].Server(server)
    deadline = time.monotonic() + 20
    while (state := client.ask("/v1/jobs")["data"][0]["state"]) not in ("cancelled", "failed"):
        assert time.monotonic() < deadline, state
        time.sleep(0.1)


def test_what_a_server_refuses_is_told(comfy, server, key, monkeypatch):
    node = comfy.nodes["LeanLensDrawAtServer"]
    with pytest.raises(RuntimeError, match="400: invalid height 40"):
        call(node, address=server, prompt="x", width=40, height=40)
    with pytest.raises(RuntimeError, match="404: model 'rl' is not offered"):
        call(node, address=server, prompt="x", model="rl")
    monkeypatch.delenv("LEANLENS_API_KEY")
    with pytest.raises(RuntimeError, match=r"401.*set the environment variable LEANLENS_API_KEY"):
        call(node, address=server, prompt="x")
    with pytest.raises(RuntimeError, match=r"no leanlens server answers at http://127\.0\.0\.1:9"):
        call(node, address="http://127.0.0.1:9", prompt="x")
