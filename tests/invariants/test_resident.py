"""Pictures in memory: ranks and resuming change no batch, a stopped run is an unstopped one, two processes are one."""

import json
import random
from itertools import islice

import numpy as np
import pytest
import torch

from leanlens.batches.resident import ResidentStream
from leanlens.pipeline.toy import toy_pipeline
from leanlens.scenes import icons
from leanlens.scenes.draw import draw_chunk
from leanlens.train import scenes
from leanlens.train.denoiser import train_denoiser
from leanlens.train.export import run_weights
from tests.batches.test_resident import BATCHES, pictures
from tests.invariants.test_training import assert_same_run, on_processes
from tests.train.tiny import CPU, tiny_recipe

MICRO_BATCHES = 40  # four epochs and a half


def make_stream(**place):
    return ResidentStream(pictures({(64, 64): 21, (96, 64): 9}), BATCHES, 5, 0.5, 0.3, **place)


def assert_equal(one, two):
    assert (one.index, one.bucket) == (two.index, two.bucket)
    assert np.array_equal(one.rows, two.rows)
    assert np.array_equal(one.captions, two.captions)


@pytest.fixture(scope="module")
def sequence():
    return list(islice(make_stream(), MICRO_BATCHES))


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_the_sequence(sequence, world_size):
    ranks = [iter(make_stream(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for number, batch in enumerate(sequence):
        assert_equal(next(ranks[number % world_size]), batch)


def test_resuming_anywhere_on_any_number_of_ranks_changes_nothing(sequence):
    for steps in random.Random(0).sample(range(1, 9), 4):
        ranks = [make_stream(rank=rank, world_size=3) for rank in range(3)]
        for rank in ranks:
            list(islice(rank, steps))
        states = [json.loads(json.dumps(rank.state_dict())) for rank in ranks]
        assert states[0] == states[1] == states[2]
        for world_size in (1, 2):
            again = [make_stream(rank=rank, world_size=world_size) for rank in range(world_size)]
            for stream in again:
                stream.load_state_dict(states[0])
            for rank, stream in enumerate(again):
                for wanted, batch in zip(sequence[3 * steps + rank :: world_size][:4], stream, strict=False):
                    assert_equal(batch, wanted)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A folder of encoded scenes; starting processes takes longer than drawing these few."""
    pytest.importorskip("resvg_py")
    root = tmp_path_factory.mktemp("resident")

    def drawn_chunks(folder, num, seed, canvas, rules, first=0, processes=None):
        yield draw_chunk(str(folder), first, num - first, seed, canvas, rules)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str(root / "library"))
        patch.setattr(scenes, "drawn_chunks", drawn_chunks)
        recipe = tiny_recipe(root, **tables(root, sources=str(icons.library("sample").folder)))
        scenes.encode_scenes(recipe, toy_pipeline(0), root / "parts")
    return root / "parts"


def tables(encoded, sources=None, **changes):
    data = {
        "scenes": {"num": 20, "seed": 3, "size": 64, "canvas": "buckets", "sources": sources},
        "buckets": [
            {"base": 64, "batch": 2, "sizes": [[64, 64]]},
            {"base": 96, "batch": 1, "sizes": [[96, 64]]},
        ],
        "caption": "mix",
        "text_multiple": 8,
        "resident": True,
        "encoded": [str(encoded)],
    }
    return {"data": data, **changes}


def trained(folder, encoded, **changes):
    train_denoiser(tiny_recipe(folder, **tables(encoded, **changes)), CPU)
    return folder


def test_a_stopped_run_is_an_unstopped_one(tmp_path, encoded):
    """To the last bit, through epochs in which features were kept and a start at which none are."""
    steps = {"train": {"steps": 14, "micro_batches": 2}}
    whole = trained(tmp_path / "whole", encoded, **steps)
    for stop in (3, 9):
        trained(tmp_path / "stopped", encoded, train={"steps": stop, "micro_batches": 2})
    stopped = trained(tmp_path / "stopped", encoded, **steps)
    for std in (0, 0.05):
        one, other = run_weights(whole, std), run_weights(stopped, std)
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_packed_is_unpacked(tmp_path, encoded):
    changes = {"steps": 4, "micro_batches": 4}
    left = trained(tmp_path / "plain", encoded, train=changes)
    assert_same_run(left, trained(tmp_path / "packed", encoded, train={**changes, "pack": True}))


@pytest.mark.long
def test_two_processes_are_one(tmp_path, encoded):
    train_table = {"train": {"steps": 4, "micro_batches": 4}}
    on_processes(2, [{"folder": str(tmp_path / "two"), "tables": tables(encoded, **train_table)}])
    assert_same_run(trained(tmp_path / "one", encoded, **train_table), tmp_path / "two")
