"""The commands, as processes: the smoke recipe from scenes to a picture, killed and continued on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leanlens.cli.main import app

SMOKE = Path(__file__).parents[2] / "recipes" / "examples" / "smoke.toml"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*words):
    return [sys.executable, "-m", "leanlens", *map(str, words)]


def leanlens(*words):
    return subprocess.run(command(*words), capture_output=True, text=True, env=ENVIRONMENT)


def smoke(folder, steps, *changes):
    settings = [f"run.dir={folder}", f"train.steps={steps}", *changes]
    return ["train", SMOKE, *(word for setting in settings for word in ("--set", setting))]


def steps_in(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_wrong_key_is_an_error_with_the_nearest_one(tmp_path):
    found = CliRunner().invoke(app, [str(word) for word in smoke(tmp_path, 2, "optim.lrr=1")])
    assert str(found.exception) == "unknown recipe key 'optim.lrr'; the nearest known key is 'optim.lr'"


def test_dry_run_prints_the_plan_and_makes_nothing(tmp_path):
    found = CliRunner().invoke(app, [str(word) for word in (*smoke(tmp_path / "run", 2), "--dry-run")])
    assert found.exit_code == 0
    assert "16 images" in found.stdout
    assert "64x64" in found.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_smoke_recipe_trains_exports_and_draws(tmp_path):
    done = leanlens(*smoke(tmp_path / "run", 20))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert {"step", "loss", "images", "flops"} <= lines[0].keys()
    assert sum(line["loss"] for line in lines[-5:]) < 0.8 * sum(line["loss"] for line in lines[:5])
    exported = leanlens("export", tmp_path / "run", "-o", tmp_path / "again", "--std", "0.08")
    assert exported.returncode == 0, exported.stderr
    for folder in (tmp_path / "run" / "export", tmp_path / "again"):
        drawn = leanlens("generate", "a red apple", "--model", folder, "--steps", 2, "-o", folder / "picture.png")
        assert drawn.returncode == 0, drawn.stderr
        assert (folder / "picture.png").stat().st_size > 1000


@pytest.mark.long
def test_kills_at_any_moment_lose_nothing(tmp_path):
    """Ten kills, each at a random moment; then the run ends as if there had been none."""
    steps, changes = 60, ("save.every=3", "sample.every=1000", "ema.every=4", "validate.every=7")
    chance = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(command(*smoke(tmp_path / "killed", steps, *changes)), env=ENVIRONMENT)
        time.sleep(chance.uniform(2, 16))
        process.send_signal(signal.SIGKILL)
        process.wait()
    for folder in ("killed", "straight"):
        done = leanlens(*smoke(tmp_path / folder, steps, *changes))
        assert done.returncode == 0, done.stderr
    assert steps_in(tmp_path / "killed") == list(range(1, steps + 1))
    from leanlens.train.run_weights import run_weights

    for std in (0, 0.05, 0.1):
        left, right = run_weights(tmp_path / "killed", std), run_weights(tmp_path / "straight", std)
        assert all(left[name].equal(right[name]) for name in left)
