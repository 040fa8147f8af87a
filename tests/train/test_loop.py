"""The loop: metrics, checkpoints, going on, going back, ending."""

import json
import logging
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from leanlens.dist import Group
from leanlens.train.checkpoint import latest_checkpoint, whole_checkpoints
from leanlens.train.denoiser import train_denoiser
from leanlens.train.run_weights import run_weights
from tests.train.tiny import CPU, differing, state_of, tiny_data, tiny_recipe


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def run(folder, **tables):
    recipe = tiny_recipe(folder, **tables)
    return train_denoiser(recipe, CPU, tiny_data(recipe))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_writes_a_line_for_each_step_and_a_checkpoint_at_the_end(tmp_path):
    progress = run(tmp_path, train={"steps": 5})
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
    assert found[-1]["images"] == progress.samples == 5 * 2 * 2
    assert found[-1]["flops"] > found[0]["flops"] > 0
    assert {"loss", "loss_64", "grad_norm", "lr", "images_per_s", "tokens_per_s", "memory_gb"} <= found[0].keys()
    assert [path.name for path in whole_checkpoints(tmp_path / "checkpoints")] == ["step-00000004", "step-00000005"]
    assert (tmp_path / "export" / "model_index.json").is_file()


@pytest.mark.parametrize("matrices", ["adamw", pytest.param("muon", marks=pytest.mark.long)])
def test_stop_and_resume_is_no_stop_bit_for_bit(tmp_path, matrices):
    optim = {"matrices": matrices, "schedule": "cosine", "length": 20}
    save = {"every": 5}
    run(tmp_path / "straight", train={"steps": 10}, optim=optim, save=save)
    run(tmp_path / "broken", train={"steps": 5}, optim=optim, save=save)
    run(tmp_path / "broken", train={"steps": 10}, optim=optim, save=save)
    left, right = state_of(tmp_path / "straight"), state_of(tmp_path / "broken")
    assert any("averages.0.05." in name for name in left)
    assert any("exp_avg_sq" in name for name in left)
    assert differing(left, right) == []
    assert [line["loss"] for line in lines(tmp_path / "straight")] == [
        line["loss"] for line in lines(tmp_path / "broken")
    ]


def test_what_is_not_finite_restores_the_last_checkpoint_and_says_so(tmp_path, caplog):
    recipe = tiny_recipe(tmp_path, train={"steps": 6})
    with caplog.at_level(logging.WARNING):
        progress = train_denoiser(recipe, CPU, tiny_data(recipe, broken=(7,)))  # micro-batches 6 and 7 are step 4
    assert "step 4: loss nan" in caplog.text
    assert "restored the state after step 2" in caplog.text
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert progress.samples == 6 * 4
    assert all(value.isfinite().all() for value in run_weights(tmp_path, 0).values())


def test_a_spike_counts_as_broken(tmp_path, caplog):
    recipe = tiny_recipe(
        tmp_path, train={"steps": 6}, guard={"window": 2, "spike": 1.0001, "restores": 2}, optim={"lr": 1.0}
    )
    with caplog.at_level(logging.WARNING), pytest.raises(FloatingPointError, match=r"the run stopped, .*step-0"):
        train_denoiser(recipe, CPU, tiny_data(recipe))
    assert "times the recent median" in caplog.text


def test_another_recipe_is_shown_and_refused(tmp_path):
    run(tmp_path, train={"steps": 2})
    with pytest.raises(ValueError, match=r"optim.lr: 0.001 there, 0.002 here\); only where it stops"):
        run(tmp_path, train={"steps": 4}, optim={"lr": 2e-3})
    assert run(tmp_path, train={"steps": 4}).step == 4


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, caplog):
    recipe = tiny_recipe(tmp_path, train={"steps": 5})
    data = tiny_data(recipe)
    whole = data.encode

    def terminated(batch):
        if int(batch.keys[0]) == 8:  # in step 3
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(batch)

    data.encode = terminated
    with caplog.at_level(logging.INFO):
        assert train_denoiser(recipe, CPU, data).step < 5
    assert "stopped by SIGTERM after step" in caplog.text
    assert run(tmp_path, train={"steps": 5}).step == 5
    run(tmp_path / "straight", train={"steps": 5})
    torch.testing.assert_close(run_weights(tmp_path), run_weights(tmp_path / "straight"), rtol=0, atol=0)


def test_a_full_disk_leaves_the_old_checkpoint_and_training_goes_on_until_the_end(tmp_path, monkeypatch, caplog):
    run(tmp_path, train={"steps": 3})
    before = latest_checkpoint(tmp_path / "checkpoints")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"needs 0\.\d+ GB and the disk has 0.00 GB free; the run can be continued from"):
        run(tmp_path, train={"steps": 6})
    assert "training continues" in caplog.text  # after step 4
    assert latest_checkpoint(tmp_path / "checkpoints") == before


def test_a_write_that_fails_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, train={"steps": 3})
    before = latest_checkpoint(tmp_path / "checkpoints")

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.FileSystemWriter.write_data", refuse)
    with pytest.raises(OSError, match=r"could not be written: .*No space left.*can be continued from"):
        run(tmp_path, train={"steps": 4})
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1] == before.name
    assert run(tmp_path, train={"steps": 4}).step == 4


def test_what_a_kill_left_behind_is_cleaned_up(tmp_path):
    run(tmp_path, train={"steps": 3})
    (tmp_path / "checkpoints" / ".step-00000004").mkdir()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    run(tmp_path, train={"steps": 4})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_the_best_checkpoint_stays(tmp_path):
    progress = run(tmp_path, train={"steps": 4}, validate={"every": 1}, save={"every": 1, "keep": 1})
    assert progress.step == 4
    scores = {line["step"]: line["validation_loss"] for line in lines(tmp_path)}
    best = min(scores, key=scores.get)
    kept = {int(path.name.removeprefix("step-")) for path in whole_checkpoints(tmp_path / "checkpoints")}
    assert kept == {best, 4}
    assert "validation_loss_64" in lines(tmp_path)[0]


def test_samples_are_drawn_and_training_is_not_disturbed(tmp_path):
    sample = {"every": 2, "prompts": ["a dog", "a cat", "a cow"], "steps": 2}
    run(tmp_path / "with", sample=sample, validate={"every": 1})
    run(tmp_path / "without")
    with Image.open(tmp_path / "with" / "samples" / "step-00000004.png") as grid:
        assert grid.size == (128, 128)
    torch.testing.assert_close(run_weights(tmp_path / "with"), run_weights(tmp_path / "without"), rtol=0, atol=0)


def test_stage_two_starts_from_stage_one(tmp_path):
    run(tmp_path / "one")
    run(tmp_path / "two", init={"from": str(tmp_path / "one")}, train={"steps": 1}, optim={"lr": 1e-12, "warmup": 0})
    torch.testing.assert_close(run_weights(tmp_path / "two", 0), run_weights(tmp_path / "one", 0.05))
    run(tmp_path / "three", init={"from": str(tmp_path / "one/export")}, train={"steps": 1}, optim={"lr": 1e-12})
    torch.testing.assert_close(run_weights(tmp_path / "three", 0), run_weights(tmp_path / "one", 0.05))
    with pytest.raises(ValueError, match=r"has other sizes than"):
        run(tmp_path / "four", init={"from": str(tmp_path / "one")}, model={"num_layers": 1})


def test_wrong_recipes_are_refused_before_a_step(tmp_path):
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(ValueError, match=r"invalid train.micro_batches 2 for 3 processes"):
        train_denoiser(recipe, Group(0, 3, torch.device("cpu")), tiny_data(recipe))
    with pytest.raises(ValueError, match=r"model.enc_hidden_dim 64 does not fit the parts 'toy'; they have 48"):
        run(tmp_path / "a", model={"enc_hidden_dim": 64})
    huge = {"buckets": [{"base": 4096, "batch": 5000, "sizes": [[4096, 4096]]}]}
    with pytest.raises(ValueError, match=r"a micro-batch of 5000 at base 4096 needs about .* the largest that fits is"):
        run(tmp_path / "b", data=huge)


def test_a_full_disk_costs_snapshots_and_grids_and_not_the_run(tmp_path, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leanlens.train.snapshots.save_file", refuse)
    monkeypatch.setattr("PIL.Image.Image.save", full)
    run(tmp_path, ema={"every": 2}, sample={"every": 4, "prompts": ["a dog"], "steps": 1})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert not [path for name in ("ema", "samples") for path in (tmp_path / name).iterdir()]
    for name in ("ema/step-00000002-0.05.safetensors", "ema/step-00000004-0.1.safetensors", "samples/step-00000004"):
        assert name in caplog.text
    assert "No space left on device (os error 28); training continues" in caplog.text


def test_the_output_alone_tells_how_far_a_run_is(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "leanlens"):
        run(tmp_path)
        assert "step 1 of 4: loss " in caplog.text
        assert "step 4 of 4: loss " in caplog.text
        assert "step 2 of 4" not in caplog.text  # half a minute has not passed
        assert f"saved {tmp_path / 'checkpoints' / 'step-00000004'}" in caplog.text
        run(tmp_path, train={"steps": 2})
    assert "the run has done 4 steps already, train.steps is 2" in caplog.text
