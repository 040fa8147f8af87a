"""A server whose models are offloaded or quantised."""

from dataclasses import replace

import pytest
import torch

from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.options import LoadOptions
from leanlens.serve.engine import LocalEngine
from leanlens.serve.memory import sizes_of
from tests.serve.conftest import FLOAT32

REQUEST = ImageRequest.checked(
    prompt="a", width=64, height=64, num_inference_steps=2, guidance_scale=2.0, seed=3
)  # fmt: skip


class Toy:
    """A library of one."""

    def source(self, model):
        return "toy"

    def sizes(self, model):
        return None


def test_the_words_reach_the_model(settings, tmp_path):
    options = LoadOptions("auto", "encoder", "disk", True, dtype="float32")
    lower = settings(load=options, features=tmp_path / "kept")
    engine = LocalEngine("cpu", lower, Toy())
    engine.open("toy")
    drawn = engine.draw("toy", [REQUEST], lambda *_: None)
    held = engine._opened
    assert held.options == replace(options, device="cpu", compile=False)
    assert (held.pipeline.text_encoder, held.pipeline.encoder_loader.openings) == (None, 1)
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 1
    plain = draw(open_model("toy", "cpu", "float32", options=LoadOptions(tile_vae=True)), REQUEST)
    assert drawn[0].picture.image.tobytes() == plain.image.tobytes()
    engine.close()


def test_one_model_may_be_held_otherwise(settings):
    chosen = settings(load_by_model={"toy": LoadOptions("int8")})
    assert (chosen.load_options("toy"), chosen.load_options("nano")) == (LoadOptions("int8"), FLOAT32)


def test_sizes_are_known_while_the_encoder_is_away():
    away = sizes_of(open_model("toy", "cpu", "float32", options=LoadOptions(offload="encoder")))
    here = sizes_of(open_model("toy", "cpu", "float32"))
    assert (away.denoiser, away.encoder.width, away.encoder.heads) == (here.denoiser, 48, 4)
    assert torch.tensor(away.encoder.layers) == here.encoder.layers


def test_words_that_are_not_known(settings):
    with pytest.raises(ValueError, match="invalid offload 'tape'"):
        settings(load={"offload": "tape"})
