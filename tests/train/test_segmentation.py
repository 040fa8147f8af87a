"""Training the segmentation network: its scenes, what it asks of the network, and that it goes on."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("resvg_py")
pytest.importorskip("scipy")

from leanlens.scenes import icons
from leanlens.score.segmentation import STRIDE, SegmentationNetwork, group_pixels
from leanlens.train import segmentation
from leanlens.train.scene_crops import scaled


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str(tmp_path_factory.mktemp("scenes")))
        chunk = segmentation.draw_chunk(str(icons.library("sample").folder), 5, 12, "train")
    return {name: torch.from_numpy(rows) for name, rows in chunk.items()}


def test_what_is_wanted_of_the_network_gives_the_things_back(scenes):
    for name, rows in scenes.items():
        if not name.endswith("things"):
            continue
        present, distances, weights = segmentation.targets_of(rows)
        assert present.shape == weights.shape == (len(rows), rows.shape[1] // STRIDE, rows.shape[2] // STRIDE)
        for row, true in enumerate(rows[:, ::STRIDE, ::STRIDE].numpy()):
            masks = group_pixels(present[row].numpy(), distances[row].numpy())
            large = [number for number in np.unique(true) if number and (true == number).sum() > 60]
            assert len(masks) >= len(large)
            for number in large:
                assert max(segmentation._iou(true == number, mask > 0) for mask in masks) > 0.9


def test_the_loss_is_least_for_what_is_wanted(scenes):
    things = next(rows for name, rows in scenes.items() if name.endswith("things"))
    present, distances, weights = segmentation.targets_of(things)
    right, wrong = (10 * (2 * present - 1), distances), (10 * (2 * present - 1), distances * 1.5)
    assert segmentation.loss_of(*right, present, distances, weights) < 0.01
    assert segmentation.loss_of(*wrong, present, distances, weights) > 0.2


def test_worn_pictures_keep_their_things(scenes):
    name = next(name for name in scenes if name.endswith("pixels")).split(".")[0]
    pixels, things = scenes[f"{name}.pixels"], scenes[f"{name}.things"]
    x, bent = segmentation.augmented(pixels, things, np.random.default_rng(0))
    again, _ = segmentation.augmented(pixels, things, np.random.default_rng(0))
    assert torch.equal(x, again)
    assert x.shape == (len(pixels), 3, *things.shape[1:])
    assert x.abs().max() <= 1
    assert set(bent.unique().tolist()) <= set(things.unique().tolist())
    assert 0.4 < (bent > 0).float().mean() / (things > 0).float().mean() < 2.2


def test_steps_lower_the_loss(scenes):
    torch.manual_seed(0)
    name = next(name for name in scenes if name.endswith("pixels")).split(".")[0]
    x, wanted = scaled(scenes[f"{name}.pixels"][:2]), segmentation.targets_of(scenes[f"{name}.things"][:2])
    network = SegmentationNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = segmentation.loss_of(*network(x), *wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.long
def test_it_saves_and_goes_on(scenes, tmp_path):
    segmentation.learn(scenes, scenes, tmp_path, 2.0)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    segmentation.learn(scenes, scenes, tmp_path, first["seconds"] + 5.0)  # however slow the first step was
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] > first["step"] >= 1
    network = SegmentationNetwork()
    network.load_state_dict(segmentation.load_file(tmp_path / "segmentation.safetensors"))
