"""Goldens as tensors and networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from transformers import GptOssConfig

from leanlens import LensGptOssEncoder, LensPipeline, LensTransformer2DModel

GOLDENS = Path(__file__).parent / "goldens"

OFFICIAL_SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "time_shift_type": "exponential",
}


def relative_l2(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.fixture(scope="session")
def golden_io():
    def read(name: str) -> dict[str, torch.Tensor]:
        with np.load(GOLDENS / f"{name}_io.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays}

    return read


@pytest.fixture(scope="session")
def transformer() -> LensTransformer2DModel:
    model = LensTransformer2DModel.from_config(json.loads((GOLDENS / "transformer_config.json").read_text()))
    model.load_state_dict(load_file(GOLDENS / "transformer.safetensors"))
    return model.eval()


@pytest.fixture(scope="session")
def text_encoder() -> LensGptOssEncoder:
    encoder = LensGptOssEncoder(GptOssConfig(**json.loads((GOLDENS / "text_encoder_config.json").read_text())))
    encoder.load_state_dict(load_file(GOLDENS / "text_encoder.safetensors"))
    return encoder.eval()


@pytest.fixture
def golden_pipeline(transformer) -> LensPipeline:
    pipeline = LensPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**OFFICIAL_SCHEDULER),
        vae=AutoencoderKLFlux2.from_pretrained(GOLDENS / "vae"),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def golden_call(golden_io):
    """Keyword arguments of the call whose answers `pipeline_io.npz` holds."""
    io = golden_io("pipeline")
    height, width = (int(value) for value in io["height_width"])
    return {
        "prompt_embeds": [io[f"prompt_layer{index}"] for index in range(4)],
        "negative_prompt_embeds": [io[f"negative_layer{index}"] for index in range(4)],
        "latents": io["initial_latents"],
        "height": height,
        "width": width,
    }
