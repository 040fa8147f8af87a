"""Checkpoints whose files are no longer what was written."""

import json

import pytest

from leanlens.train.checkpoint import whole_checkpoints
from leanlens.train.denoiser import train_denoiser
from leanlens.train.run_weights import run_weights
from tests.train.tiny import CPU, tiny_data, tiny_recipe


def run(folder, **tables):
    recipe = tiny_recipe(folder, **tables)
    return train_denoiser(recipe, CPU, tiny_data(recipe))


def flip(path):
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tensors_of(checkpoint):
    return next(path for path in checkpoint.iterdir() if path.suffix == ".distcp")


def test_a_damaged_checkpoint_is_passed_over_and_kept(tmp_path, caplog):
    run(tmp_path)
    older, newest = whole_checkpoints(tmp_path / "checkpoints")
    expected = run_weights(tmp_path)
    flip(tensors_of(newest))
    assert run_weights(tmp_path).keys() == expected.keys()  # an export reads the older one and moves nothing
    assert newest.is_dir()
    caplog.clear()
    assert run(tmp_path).step == 4  # trained again from the older one
    assert f"checkpoint {newest} is damaged: {tensors_of(newest).name} is not what was written" in caplog.text
    assert f"the run continues from {older}" in caplog.text
    assert (tmp_path / "checkpoints" / f"{newest.name}.damaged").is_dir()
    assert all(weight.equal(expected[name]) for name, weight in run_weights(tmp_path).items())


@pytest.mark.parametrize("name", ["facts.json", "sums.json", ".metadata"])
def test_every_file_counts_and_is_named(tmp_path, caplog, name):
    run(tmp_path, train={"steps": 2})
    _, newest = whole_checkpoints(tmp_path / "checkpoints")
    (newest / name).write_bytes((newest / name).read_bytes()[:-5])
    run(tmp_path, train={"steps": 2})
    assert f"{newest} is damaged: " in caplog.text
    assert name in caplog.text


def test_no_intact_checkpoint_is_an_error(tmp_path):
    run(tmp_path, train={"steps": 2})
    for checkpoint in whole_checkpoints(tmp_path / "checkpoints"):
        flip(tensors_of(checkpoint))
    before = sorted((tmp_path / "checkpoints").iterdir())
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        run(tmp_path, train={"steps": 4})
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


def test_one_without_sums_is_taken_with_a_warning_and_broken_facts_are_named(tmp_path, caplog):
    run(tmp_path, train={"steps": 2})
    for checkpoint in whole_checkpoints(tmp_path / "checkpoints"):
        sums = json.loads((checkpoint / "sums.json").read_text())
        assert sums.keys() == {path.name for path in checkpoint.iterdir()} - {"sums.json"}
        (checkpoint / "sums.json").unlink()
    assert run(tmp_path, train={"steps": 3}).step == 3
    assert "has no sums.json" in caplog.text
