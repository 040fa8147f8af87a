"""What leaves a run: pipeline folders that open, with averages of any width."""

import json
import shutil

import pytest
import torch

from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.toy import toy_pipeline
from leanlens.reason import reasoner_for
from leanlens.train.config import Scenes
from leanlens.train.denoiser import train_denoiser
from leanlens.train.export import export_run, write_pipeline
from leanlens.train.run_weights import run_recipe, run_weights
from tests.train.tiny import CPU, state_of, tiny_data, tiny_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Eight steps from parts in a folder of their own, with snapshots."""
    folder = tmp_path_factory.mktemp("run")
    toy_pipeline(seed=5).save_pretrained(folder / "parts")
    recipe = tiny_recipe(
        folder / "run",
        model={"parts": str(folder / "parts")},
        train={"steps": 8},
        ema={"every": 2},
    )
    train_denoiser(recipe, CPU, tiny_data(recipe))
    return folder / "run"


def test_a_finished_run_has_exported_its_averaged_weights(run):
    pipeline = LensPipeline.from_pretrained(run / "export")
    torch.testing.assert_close(pipeline.transformer.state_dict(), run_weights(run, 0.05), rtol=0, atol=0)
    picture = pipeline("a dog", num_inference_steps=2, output_type="pt").images
    assert picture.shape == (1, 3, 64, 64)  # the size it was trained at


def test_the_parts_go_over_byte_for_byte_and_stay_as_they_were(run):
    parts = run.parent / "parts"
    for name in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "model_index.json"):
        assert (run / "export" / name).read_bytes() == (parts / name).read_bytes()
    sizes = [json.loads((folder / "vae/config.json").read_text())["sample_size"] for folder in (parts, run / "export")]
    assert sizes == [128, 64]


def test_the_folder_states_the_captions_that_it_learnt_from(run, tmp_path):
    recipe = run_recipe(run)
    style = {}
    for sources in ("common", "sample", None):
        scenes = None if sources is None else Scenes(num=8, sources=sources)
        one = recipe.model_copy(update={"data": recipe.data.model_copy(update={"scenes": scenes})})
        write_pipeline(one, LensPipeline.from_pretrained(run / "export").transformer, tmp_path / str(sources))
        style[sources] = json.loads((tmp_path / str(sources) / "model_index.json").read_text()).get("caption_style")
    assert style == {"common": "scenes/common", "sample": None, None: None}
    reasoner = reasoner_for(tmp_path / "common")
    assert reasoner is not None
    opened = LensPipeline.from_pretrained(tmp_path / "common")
    opened.save_pretrained(tmp_path / "again")
    assert reasoner_for(tmp_path / "again") is not None
    # A model that goes on from there with captions of its own no longer has them.
    onward = recipe.model_copy(update={"model": recipe.model.model_copy(update={"parts": str(tmp_path / "common")})})
    write_pipeline(onward, opened.transformer, tmp_path / "onward")
    assert reasoner_for(tmp_path / "onward") is None


def test_widths_that_were_not_tracked_are_rebuilt(run, tmp_path):
    rebuilt, narrow, wide = (run_weights(run, std)["img_in.weight"] for std in (0.07, 0.05, 0.1))
    last = run_weights(run, 0)["img_in.weight"]
    assert not torch.equal(narrow, wide)
    # a width in between lies about in between, and nearer to the last weights than the wider one
    assert (rebuilt - last).norm() < (wide - last).norm()
    assert (rebuilt - (narrow + wide) / 2).norm() < (narrow - wide).norm()
    export_run(run, tmp_path / "out", std=0.07)
    opened = LensPipeline.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(opened.transformer.img_in.weight.data, rebuilt, rtol=0, atol=0)


def test_refusals(run, tmp_path):
    with pytest.raises(ValueError, match="is not the folder of a run"):
        export_run(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="exists already"):
        export_run(run, run / "export")


@pytest.mark.parametrize("std", [0.9, -1, 0.289, float("nan")])
def test_a_width_that_no_average_has_is_refused(run, tmp_path, std):
    with pytest.raises(ValueError, match=r"invalid std \S+: expected a width from 0 .* to below 0.289"):
        export_run(run, tmp_path / "out", std)


def test_a_start_that_is_gone_leaves_only_what_no_output_depends_on_random(run, tmp_path, caplog):
    """Weights that are not trained are in no checkpoint: an export takes them from the start again."""
    unread = "transformer_blocks.1.attn.to_add_out.weight"
    first = tmp_path / "first"
    shutil.copytree(run, first)
    recipe = tiny_recipe(tmp_path / "second", run={"seed": 9}, init={"from": str(first)}, train={"steps": 1})
    train_denoiser(recipe, CPU, tiny_data(recipe))
    exported = LensPipeline.from_pretrained(tmp_path / "second" / "export").transformer.state_dict()
    assert exported[unread].equal(run_weights(run)[unread])
    assert [name for name in state_of(tmp_path / "second") if unread in name] == []
    shutil.rmtree(first)
    assert "weights that no output depends on" not in caplog.text
    export_run(tmp_path / "second", tmp_path / "again")
    assert "init.from: " in caplog.text
    assert "weights that no output depends on stay random" in caplog.text
    again = LensPipeline.from_pretrained(tmp_path / "again").transformer.state_dict()
    assert [
        name for name in exported if not exported[name].equal(again[name]) and "transformer_blocks.1" not in name
    ] == []


def test_the_run_of_another_kind_is_named(tmp_path):
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "recipe.json").write_text('{"autoencoder": {}}')
    with pytest.raises(ValueError, match=r"is the run of a recipe with \[autoencoder\], whose export is in .*export"):
        export_run(tmp_path, tmp_path / "out")
