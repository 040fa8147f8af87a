"""A run that was stopped, however and however often, ends with the same bits as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from leanlens.config import checked
from leanlens.train.autoencoder import AUTOENCODER
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.config import TrainRecipe
from leanlens.train.denoiser import DENOISER
from leanlens.train.language import LANGUAGE
from leanlens.train.language_config import LanguageRecipe
from leanlens.train.loop import train
from tests.train.tiny import CPU, differing, state_of

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KINDS = ["denoiser", "autoencoder", "language"]
TASKS = {"denoiser": DENOISER, "autoencoder": AUTOENCODER, "language": LANGUAGE}
RECIPES = {"denoiser": TrainRecipe, "autoencoder": AutoencoderRecipe, "language": LanguageRecipe}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eight captioned pictures of 64 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(8):
        colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(f"picture number {seed} of some")
    return folder


def tables_of(kind, folder, pictures, steps):
    """The smallest recipe of a kind with everything that a checkpoint holds."""
    sources = [str(pictures)]
    common = {"run": {"dir": str(folder), "device": "cpu"}, "save": {"every": 3}}
    train = {"steps": steps, "precision": "float32"}
    if kind == "denoiser":
        sizes = {
            "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": [4, 6, 6],
            "enc_hidden_dim": 48, "selected_layer_index": [0, 1, 2, 3],
        }  # fmt: skip
        data = {"sources": sources, "caption": "brief", "buckets": [{"base": 64, "batch": 2, "sizes": [[64, 64]]}]}
        return {**common, "model": sizes, "data": data, "train": train, "ema": {"every": 4}}
    if kind == "autoencoder":
        return {
            **common, "train": train, "autoencoder": {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4},
            "crops": {"sources": sources, "validation": sources, "side": 32, "pictures": 2, "crops": 1},
            "losses": {"perceptual": 0, "semantic": 0}, "ema": {"export": 0.1},
        }  # fmt: skip
    sizes = {
        "vocabulary": 600, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "experts": 2,
        "experts_per_token": 1, "expert_width": 32, "features": [0, 1],
    }  # fmt: skip
    return {**common, "train": train, "language": sizes, "captions": {"sources": sources, "batch": 4}}


def trained(kind, folder, pictures, steps=7):
    return train(TASKS[kind], checked(RECIPES[kind], tables_of(kind, folder, pictures, steps)), CPU)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(left, right):
    assert differing(state_of(left), state_of(right)) == []
    assert [line["loss"] for line in lines(left)] == [line["loss"] for line in lines(right)]
    files = [path.relative_to(left) for path in sorted((left / "export").rglob("*.safetensors"))]
    assert files
    assert [name for name in files if (left / name).read_bytes() != (right / name).read_bytes()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_between_saves_loses_no_step(tmp_path, pictures, kind, monkeypatch):
    """SIGTERM in step 5, where the last checkpoint is of step 3."""
    trained(kind, tmp_path / "straight", pictures)
    real = torch.optim.AdamW.step
    calls = []

    def terminated(self, *words):
        calls.append(1)
        if len(calls) == 6:  # the first is the step that makes the moments
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *words)

    monkeypatch.setattr(torch.optim.AdamW, "step", terminated)
    progress = trained(kind, tmp_path / "stopped", pictures)
    monkeypatch.undo()
    assert (progress.step, progress.stopped) == (5, True)
    assert not (tmp_path / "stopped" / "export").exists()
    assert trained(kind, tmp_path / "stopped", pictures).step == 7
    assert_same_bits(tmp_path / "straight", tmp_path / "stopped")


def toml(tables):
    """Nested tables as TOML: values are JSON, tables within are inline."""

    def value(item):
        if isinstance(item, dict):
            return "{" + ", ".join(f"{key} = {value(inner)}" for key, inner in item.items()) + "}"
        return "[" + ", ".join(map(value, item)) + "]" if isinstance(item, list) else json.dumps(item)

    return "".join(f"{name} = {value(table)}\n" for name, table in tables.items())


def started(path):
    words = [sys.executable, "-m", "leanlens", "train", str(path)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def until_steps(folder, process, count):
    """Wait until so many lines of metrics are written, or the process has ended."""
    path = folder / "metrics.jsonl"
    while process.poll() is None and not (path.is_file() and path.read_text().count("\n") >= count):
        time.sleep(0.005)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_ten_kills_and_a_signal_lose_nothing(tmp_path, pictures, kind):
    """Each kill comes at a random moment after a step that no process before it has made."""
    steps, chance = 90, random.Random(0)
    for name in ("straight", "killed"):
        (tmp_path / f"{name}.toml").write_text(toml(tables_of(kind, tmp_path / name, pictures, steps)))
    made = 0
    for turn in range(11):
        number = signal.SIGKILL if turn != 5 else signal.SIGTERM
        process = started(tmp_path / "killed.toml")
        until_steps(tmp_path / "killed", process, made + chance.randint(1, 6))
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL), said
        made = (tmp_path / "killed" / "metrics.jsonl").read_text().count("\n")
    assert made < steps
    for name in ("straight", "killed"):
        process = started(tmp_path / f"{name}.toml")
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert [line["step"] for line in lines(tmp_path / "killed")] == list(range(1, steps + 1))
    assert_same_bits(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_autoencoder_is_the_eager_one(tmp_path, pictures):
    """Whether the trial step lets the compiler act or not."""
    eager, compiled = (
        checked(AutoencoderRecipe, tables_of("autoencoder", tmp_path / name, pictures, 4) | {"train": table})
        for name, table in (
            ("eager", {"steps": 4, "precision": "float32"}),
            ("compiled", {"steps": 4, "precision": "float32", "compile": True}),
        )
    )
    for recipe in (eager, compiled):
        train(AUTOENCODER, recipe, CPU)
    one, other = (
        {name: value for name, value in state_of(recipe.run.dir).items() if isinstance(value, torch.Tensor)}
        for recipe in (eager, compiled)
    )
    assert len(one) > 10
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
