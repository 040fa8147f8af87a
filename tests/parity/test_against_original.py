"""Equal to the original implementation, at the tolerances stated beside the goldens."""

import json

import numpy as np
import pytest
import torch

from leanlens import LensPipeline
from leanlens.flow.schedule import empirical_mu, inference_sigmas
from tests.parity.conftest import GOLDENS, relative_l2


def test_transformer_velocity(transformer, golden_io):
    io = golden_io("transformer")
    with torch.no_grad():
        velocity = transformer(
            io["hidden_states"], list(io["text_features"].unbind(1)), io["text_mask"], io["timestep"],
            [(1, *io["grid"].tolist())],
        )  # fmt: skip
    assert relative_l2(velocity, io["velocity"]) < 1e-5


def test_each_row_alone_and_unmasked_equals_its_row_in_the_padded_batch(transformer, golden_io):
    io = golden_io("transformer")
    for row, mask in enumerate(io["text_mask"]):
        features = [layer[row : row + 1, : int(mask.sum())] for layer in io["text_features"].unbind(1)]
        with torch.no_grad():
            velocity = transformer(
                io["hidden_states"][row : row + 1], features, None, io["timestep"][row : row + 1],
                [(1, *io["grid"].tolist())],
            )  # fmt: skip
        assert relative_l2(velocity, io["velocity"][row : row + 1]) < 1e-5


def test_text_encoder_layers(text_encoder, golden_io):
    io = golden_io("text_encoder")
    with torch.no_grad():
        features = text_encoder(io["input_ids"], io["attention_mask"])
    real = io["attention_mask"].bool()
    for index, feature in enumerate(features):
        assert relative_l2(feature[real], io[f"layer{index}"][real]) < 1e-5


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("guidance", "steps"), [(5.0, 4), (1.0, 4), (5.0, 6)])
def test_pipeline_latents_and_sigmas(golden_pipeline, golden_call, golden_io, guidance, steps, exact):
    io = golden_io("pipeline")
    output = golden_pipeline(
        **golden_call, guidance_scale=guidance, num_inference_steps=steps, output_type="latent", exact=exact
    )
    assert relative_l2(output.images, io[f"latents_cfg{guidance}_steps{steps}"]) < 1e-4
    assert (golden_pipeline.scheduler.sigmas - io[f"sigmas_steps{steps}"]).abs().max() < 1e-6
    tokens = golden_call["latents"].shape[1]
    assert np.abs(np.array(inference_sigmas(tokens, steps)) - io[f"sigmas_steps{steps}"].numpy()).max() < 1e-6


def test_pipeline_image(golden_pipeline, golden_call, golden_io):
    expected = golden_io("pipeline")["image_cfg5.0_steps4"].squeeze(0).numpy().astype(int)
    picture = golden_pipeline(**golden_call, guidance_scale=5.0, num_inference_steps=4).images[0]
    assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 1


def test_empirical_mu():
    for key, expected in json.loads((GOLDENS / "empirical_mu.json").read_text()).items():
        tokens, steps = map(int, key.split("x"))
        assert abs(empirical_mu(tokens, steps) - expected) < 1e-6


def test_saved_and_reloaded_pipeline_repeats_itself_bit_for_bit(golden_pipeline, golden_call, tmp_path):
    options = {**golden_call, "guidance_scale": 5.0, "num_inference_steps": 4, "output_type": "latent"}
    before = golden_pipeline(**options).images
    golden_pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LensPipeline"
    assert index["transformer"] == ["diffusers", "LensTransformer2DModel"]
    reopened = LensPipeline.from_pretrained(tmp_path)
    reopened.set_progress_bar_config(disable=True)
    assert torch.equal(reopened(**options).images, before)
