"""The embedded model: small enough, whole, and it draws the same picture for the same request."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import leanlens
from leanlens import LensPipeline
from leanlens.hub import locate
from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.presets import PRESETS

NANO = Path(leanlens.__file__).parent / "nano"
PROMPT = "a red apple on a white background"


@pytest.fixture(scope="module")
def opened():
    return open_model("nano", "cpu", "float32")


def ask(opened, **fields):
    wanted = {"prompt": PROMPT, "width": 128, "height": 128, "num_inference_steps": 4, "guidance_scale": 5.0, "seed": 3}
    return draw(opened, ImageRequest.checked(**{**wanted, **fields})).image


def test_it_is_small_and_says_whose_it_is():
    sizes = {path: path.stat().st_size for path in NANO.rglob("*") if path.is_file()}
    assert locate("nano") == NANO
    assert sum(sizes.values()) <= 64e6
    assert max(sizes.values()) <= 16e6
    assert "Apache-2.0" in (NANO / "ATTRIBUTION.md").read_text(encoding="utf-8")
    # The card is the page, but for its links and images, which lead to the documentation from where the card lies.
    page = re.sub(r"\]\((\w+\.md)", r"](../../docs/\1", Path("docs/nano.md").read_text(encoding="utf-8"))
    page = page.replace('src="images/', 'src="../../docs/images/')
    assert (NANO / "README.md").read_text(encoding="utf-8") == page


def test_it_has_the_classes_of_the_large_model():
    pipeline = LensPipeline.from_pretrained("nano")
    assert type(pipeline.transformer).__name__ == "LensTransformer2DModel"
    assert type(pipeline.vae).__name__ == "AutoencoderKLFlux2"
    assert pipeline.vae.config.sample_size == PRESETS["nano"].base_resolution
    assert json.loads((NANO / "model_index.json").read_text())["_class_name"] == "LensPipeline"
    assert all(torch.isfinite(weight).all() for weight in pipeline.transformer.parameters())


def test_the_same_request_is_the_same_picture_and_another_seed_is_not(opened):
    first, again, other = ask(opened), ask(opened), ask(opened, seed=4)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("size", [(192, 96), (96, 192), (176, 96)])
def test_other_shapes(opened, size):
    assert ask(opened, width=size[0], height=size[1], num_inference_steps=1).size == size


def test_what_is_asked_for_decides_the_picture(opened):
    """The mean colour of the ground follows the prompt, with few steps even."""
    colors = {"navy blue": (24, 36, 86), "white": (252, 252, 252), "mint green": (190, 236, 208)}
    corners = {}
    for name in colors:
        image = ask(opened, prompt=f"A star in flat style against a plain {name} background", num_inference_steps=8)
        corners[name] = corner(image)
    for name, found in corners.items():
        nearest = min(colors, key=lambda other: float(np.abs(found - np.array(colors[other])).sum()))
        assert nearest == name, (name, found)


def corner(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image, dtype=float)
    return np.median(np.concatenate([pixels[:12].reshape(-1, 3), pixels[-12:].reshape(-1, 3)]), axis=0)
