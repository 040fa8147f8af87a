"""Crops of scenes that lie in memory: busy ones, the same again, and the scenes that a recipe asks for."""

from itertools import islice

import pytest
import torch

from leanlens.config import checked
from leanlens.scenes.draw import draw_chunk
from leanlens.scenes.layout import PATTERNS
from leanlens.train import scene_crops
from leanlens.train.autoencoder import train_autoencoder
from leanlens.train.autoencoder_config import AutoencoderRecipe, CropScenes
from leanlens.train.scene_crops import SceneCrops, draw_scenes
from tests.train.tiny import CPU


def recipe(folder, crops, **tables):
    values = {
        "run": {"dir": str(folder)},
        "autoencoder": {"latent_channels": 2, "block_out_channels": [4, 4, 4, 4]},
        "crops": crops,
        "train": {"steps": 2, "precision": "float32"},
        "losses": {"perceptual": 0, "semantic": 0},
        **tables,
    }
    return checked(AutoencoderRecipe, values)


@pytest.fixture
def drawn(tmp_path_factory, monkeypatch):
    """Scenes of 64 pixels, drawn here; what was asked for."""
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("LEANLENS_SCENES", str(tmp_path_factory.getbasetemp() / "crops-library"))
    asked = []

    def drawn_chunks(folder, num, seed, canvas, backgrounds):
        asked.append((num, backgrounds))
        yield draw_chunk(str(folder), 0, min(num, 40), seed, canvas, backgrounds=backgrounds)

    monkeypatch.setattr(scene_crops, "drawn_chunks", drawn_chunks)
    monkeypatch.setattr(scene_crops, "SIDE", 64)
    return asked


def test_crops_are_busy_ones_and_the_same_again(tmp_path):
    pixels = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    pixels[:, ::2, 32:] = 255  # busy on the right
    pictures = SceneCrops(pixels, recipe(tmp_path, {"side": 32, "pictures": 40, "crops": 1})).pictures
    first, second = islice(pictures.batches(0), 2)
    assert first.shape == (40, 3, 32, 32)
    assert first.min() == -1
    assert first.max() == 1
    assert torch.equal(next(pictures.batches(1)), second)
    assert not torch.equal(first, second)
    busy = (first.flatten(1).std(1) > 0.5).float().mean()
    assert busy > 0.7  # one of three random places would be in half of the cases
    assert [tuple(one.shape) for one in pictures.whole()] == [(1, 3, 64, 64)] * 3


def test_a_share_of_scenes_has_patterns_behind(drawn):
    scenes = CropScenes(num=8, patterns=0.25, sources="sample")
    assert draw_scenes(scenes, torch.device("cpu")).shape == (8, 64, 64, 3)
    assert drawn == [(6, ()), (20, PATTERNS)]


def test_an_autoencoder_trains_on_scenes(tmp_path, drawn):
    crops = {"side": 32, "pictures": 2, "scenes": {"num": 6, "sources": "sample"}}
    progress = train_autoencoder(recipe(tmp_path / "run", crops), CPU)
    assert (progress.step, progress.samples) == (2, 8)
    assert (tmp_path / "run" / "export" / "config.json").is_file()
    stopped = recipe(tmp_path / "stopped", crops, train={"steps": 1, "precision": "float32"})
    train_autoencoder(stopped, CPU)
    train_autoencoder(recipe(tmp_path / "stopped", crops), CPU)
    one, other = (
        (tmp_path / name / "export" / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("run", "stopped")
    )
    assert one == other


def test_one_kind_of_pictures_is_wanted(tmp_path):
    with pytest.raises(ValueError, match=r"crops\.sources and crops\.scenes: give one of them"):
        recipe(tmp_path, {"sources": ["a"], "scenes": {"num": 1}})
