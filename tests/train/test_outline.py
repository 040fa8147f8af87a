"""A dry run refuses what the run refuses."""

import json

import pytest

from leanlens.pipeline.toy import toy_pipeline
from leanlens.train.outline import TOY_PARTS, outline
from tests.train.tiny import tiny_recipe


def test_sizes_of_the_toy_parts_are_those_stated():
    pipeline = toy_pipeline()
    text = pipeline.text_encoder.config
    assert (pipeline.vae.config.latent_channels, text.hidden_size, text.num_hidden_layers) == TOY_PARTS


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"enc_hidden_dim": 64}, r"model.enc_hidden_dim 64 does not fit the parts 'toy'; they have 48"),
        ({"out_channels": 16}, r"model.out_channels 16 does not fit the parts 'toy'; they have 32"),
        ({"selected_layer_index": [4]}, r"selected_layer_index \[4\] does not fit the parts 'toy'; .* layers 0 to 3"),
        ({"axes_dims_rope": [4, 6, 8]}, r"axes_dims_rope \[4, 6, 8\] is not accepted; .*attention_head_dim 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        outline(tiny_recipe(tmp_path, model=model))


def test_sizes_of_a_folder_are_read_from_its_files(tmp_path):
    (tmp_path / "parts" / "text_encoder").mkdir(parents=True)
    (tmp_path / "parts" / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": 96}))
    with pytest.raises(ValueError, match=r"enc_hidden_dim 48 does not fit .*; they have 96"):
        outline(tiny_recipe(tmp_path / "run", model={"parts": str(tmp_path / "parts")}))
    assert "denoiser" in outline(tiny_recipe(tmp_path / "run", model={"parts": "someone/elsewhere"}))


def test_one_is_not_several(tmp_path):
    assert "1 micro-batch over 1 process," in outline(tiny_recipe(tmp_path, train={"micro_batches": 1}))


def test_a_run_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"run.dir .* is not accepted: .*file is a file"):
            outline(tiny_recipe(folder))
