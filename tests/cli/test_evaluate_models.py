"""Columns of every kind in one comparison by the command: LoRAs, pipelines, endpoints, folders, devices, parts."""

import base64
import io
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("scipy")

from leanlens.cli.evaluate_models import folders_of, require_own_names
from leanlens.plugins import SCORERS
from tests.cli.test_evaluate import SCORER, shelf  # noqa: F401
from tests.evaluate.image_models import tiny_pipelines
from tests.evaluate.stub import stub_suite
from tests.mock_endpoint import Reply, mock_endpoint
from tests.plugin_package import install


@pytest.fixture
def command(leanlens, shelf, tmp_path, monkeypatch):  # noqa: F811
    """Runs `leanlens evaluate scenes` with a scorer of another package; two prompts of 64 pixels."""
    install(monkeypatch, tmp_path, SCORER, {SCORERS: {"mine": "added:Constant"}})

    def run(*words, out="out"):
        common = ["--num", 2, "--steps", 1, "--size", 64, "--sources", shelf, "--dtype", "float32", "--scorer", "mine"]
        device = [] if "--device" in words else ["--device", "cpu"]
        return leanlens("evaluate", "scenes", *common, *device, "--out", tmp_path / out, *words)

    return run


def teal(body, count):
    """An image of the size that is asked for."""
    buffer = io.BytesIO()
    Image.new("RGB", tuple(map(int, body["size"].split("x"))), "teal").save(buffer, "PNG")
    image = {"b64_json": base64.b64encode(buffer.getvalue()).decode()}
    return Reply(body=json.dumps({"data": [image]}).encode())


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.long
def test_columns_of_every_kind_in_one_comparison(command, tmp_path, leanlens):
    torch.manual_seed(0)
    name = "transformer.transformer_blocks.0.attn.to_out.0"
    save_file({f"{name}.lora_A.weight": torch.randn(4, 128), f"{name}.lora_B.weight": torch.randn(128, 4)},
              tmp_path / "my.safetensors")  # fmt: skip
    flux = tiny_pipelines.save(tiny_pipelines.flux, tmp_path / "tiny-flux")
    (tmp_path / "elsewhere").mkdir()
    for index in range(2):
        Image.new("RGB", (64, 64), "navy").save(tmp_path / "elsewhere" / f"{index:05d}_0.png")
    with mock_endpoint(teal) as server:
        done = command(
            "--model", "toy", "--model", f"toy+{tmp_path}/my.safetensors:3", "--model", f"{flux},cfg=2",
            "--model", f"theirs={server.url}#flux,workers=2", "--images", tmp_path / "elsewhere",
        )  # fmt: skip
    assert done.code == 0, done.err
    found = results(tmp_path / "out")
    models = [name for name, one in found["models"].items() if one["role"] == "model"]
    assert models == ["toy", "toy+my:3", "tiny-flux", "theirs", "elsewhere"]
    assert {name: one["reasons"] for name, one in found["failures"].items() if one["failed"]} == {}
    files = [image["file"] for item in found["items"] for name in models for image in item["images"][name]]
    assert len(set(files)) == len(files) == 10
    costs = {name: found["models"][name]["costs"] for name in models}
    assert all(costs[name]["flop"] > 0 for name in ("toy", "toy+my:3", "tiny-flux"))
    assert found["models"]["tiny-flux"]["identity"]["settings"]["guidance_scale"] == 2


@pytest.mark.long
def test_two_devices_and_two_machines_give_what_one_gives(command, tmp_path):
    assert command("--model", "toy", out="one").code == 0
    done = command("--model", "toy", "--device", "cpu", "--device", "cpu", out="two")
    assert done.code == 0
    assert "device 2: toy: image 1 of 1" in done.err
    assert results(tmp_path / "two") == results(tmp_path / "one")
    for part in ("1/2", "2/2"):
        assert "drew part" in command("--model", "toy", "--shard", part, out=f"part-{part[0]}").out
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "part-1", whole)
    shutil.copytree(tmp_path / "part-2" / "images", whole / "images", dirs_exist_ok=True)
    assert "all 2 images are here" in command("--model", "toy", out="whole").err
    assert results(whole) == results(tmp_path / "one")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "toy,step=3"], "there is no key 'step'; the nearest is 'steps'"),
        (["--model", "toy", "--shard", "3/2"], "invalid shard '3/2'"),
        (["--images", "gone"], "invalid images 'gone'"),
        (["--model", "http://127.0.0.1:9/v1#x", "--reason", "default"], "it has no reasoner; expected off"),
    ],
)
def test_wrong_words_end_with_one_sentence(command, words, message):
    done = command(*words)
    assert done.code == 2
    assert message in done.err


def test_names_and_folders_are_checked_before_anything_is_opened(tmp_path):
    with pytest.raises(ValueError, match="two models are named 'nano'"):
        require_own_names(["nano", "other", "nano"])
    with pytest.raises(ValueError, match="invalid name 'x, control'"):
        require_own_names(["x", "x, control"])
    with pytest.raises(ValueError, match="has no image for these prompts"):
        folders_of([str(tmp_path)], stub_suite(), 1, 0)


def test_a_language_model_is_a_column_beside_the_prompts_as_written():
    from leanlens.cli.evaluate_models import columns_of
    from leanlens.evaluate.image_models.spec import parse_models

    toy = parse_models(["toy"])
    address = "http://localhost:1/v1#org/writer"
    assert [name for name, _, _ in columns_of(toy, ["off", address], "lens")] == ["off", "writer"]
    assert [word for _, _, word in columns_of(toy, [address])] == [address]
    with pytest.raises(ValueError, match="is for a language model"):
        columns_of(toy, ["off"], "lens")
    with pytest.raises(ValueError, match="expected lens, geneval, text or a text file"):
        columns_of(toy, [address], "nil")
    with pytest.raises(ValueError, match="has no reasoner; expected off"):
        columns_of(parse_models(["http://localhost:1/v1#flux"]), [address])
