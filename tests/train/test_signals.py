"""Signals that save and stop a run, its exit code, and the command that goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from leanlens.config import find_recipe
from leanlens.train import signals
from leanlens.train.signals import StopRequest, this_command

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_second_signal(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock[0])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    request = StopRequest()
    request.saves = True
    request.note(signal.SIGINT)
    assert request.signal == "SIGINT"
    clock[0] += 0.1
    request.note(signal.SIGINT)  # the same key press
    request.note(signal.SIGTERM)
    clock[0] += 1
    with pytest.raises(KeyboardInterrupt):
        request.note(signal.SIGINT)


def test_torchrun_sends_a_signal_on(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    request = StopRequest()
    request.saves = True
    request.note(signal.SIGINT)
    clock[0] += 2
    request.note(signal.SIGINT)
    clock[0] += 5
    with pytest.raises(KeyboardInterrupt):
        request.note(signal.SIGINT)


def test_a_signal_before_the_first_step():
    with pytest.raises(signals.Interrupted):
        StopRequest().note(signal.SIGTERM)


@pytest.mark.parametrize(
    ("argv", "torchrun", "said"),
    [
        (["/usr/bin/leanlens", "train", "a b.toml"], False, "leanlens train 'a b.toml'"),
        (["/x/leanlens/__main__.py", "train", "a.toml"], False, "python -m leanlens train a.toml"),
        (["/x/leanlens/__main__.py", "train", "a.toml"], True, "torchrun --nproc-per-node 2 -m leanlens train a.toml"),
        (["runs/t.py", "--set", "a=[1, 2]"], False, "python runs/t.py --set 'a=[1, 2]'"),
    ],
)  # fmt: skip
def test_the_command_that_goes_on(monkeypatch, argv, torchrun, said):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert this_command() == said


# ------------------------------------------------------------------------------------------------ as a shell sees it


SMALL = ["sample.every=1000", "validate.every=1000", "save.every=1000", "ema.every=1000"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixteen captioned pictures of 64 pixels."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for number in range(16):
        Image.new("RGB", (64, 64), (16 * number, 90, 20)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"colour number {number}")
    return folder


def train_words(folder, pictures, *changes, recipe="pictures"):
    path = find_recipe(recipe)
    settings = [
        f"run.dir={folder}", f"data.sources=['{pictures}']", "run.device=cpu",
        "data.buckets=[{base = 64, batch = 4, sizes = [[64, 64]]}]", *changes,
    ]  # fmt: skip
    return ["train", str(path), *(word for setting in settings for word in ("--set", setting))]


def started(words, launcher=()):
    command = [sys.executable, *launcher, "-m", "leanlens", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
    )


def until_step(folder, process, step=3):
    """Wait until a line of metrics says that `step` is made."""
    path = folder / "metrics.jsonl"
    for _ in range(1200):
        if path.is_file() and path.read_text().count("\n") >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no step was made in two minutes")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_saves_says_how_to_go_on_and_ends_with_75(tmp_path, pictures, number):
    words = train_words(tmp_path / "run", pictures, "train.steps=100000")
    process = started(words)
    until_step(tmp_path / "run", process)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert f"stopped by {number.name} after step" in said
    assert "Traceback" not in said
    assert f"to continue: python -m leanlens train {words[1]}" in said
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert f"step-{done:08d}" in [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    script = 'set -e; "$@"; echo not stopped >&2'
    again = [sys.executable, "-m", "leanlens", *train_words(tmp_path / "run", pictures, f"train.steps={done + 1}")]
    whole = subprocess.run(["bash", "-c", script, "x", *again], capture_output=True, text=True, env=ENVIRONMENT)
    assert (whole.returncode, "not stopped" in whole.stderr) == (0, True), whole.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, done + 2))


@pytest.mark.long
def test_a_script_under_set_e_ends_with_the_run(tmp_path, pictures):
    words = [sys.executable, "-m", "leanlens", *train_words(tmp_path / "run", pictures, "train.steps=100000")]
    script = subprocess.Popen(
        ["bash", "-c", 'set -e; "$@"; echo went on', "x", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    until_step(tmp_path / "run", script)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    out, said = script.communicate(timeout=120)
    assert script.returncode == 75, said
    assert "went on" not in out


TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "127.0.0.1:0",
)


@pytest.mark.long
def test_torchrun_says_one_error_and_saves_once(tmp_path, pictures):
    wrong = started(train_words(tmp_path / "run", pictures, "ema.export=0.2"), TORCHRUN)
    _, said = wrong.communicate(timeout=240)
    assert wrong.returncode != 0
    assert said.count("error: ema.export 0.2 is not one of") == 1, said
    folder = tmp_path / "run"
    process = started(train_words(folder, pictures, "train.steps=100000", "train.micro_batches=2"), TORCHRUN)
    until_step(folder, process)
    second = started(train_words(folder, pictures, "train.steps=100000", "train.micro_batches=2"), TORCHRUN)
    _, said = second.communicate(timeout=240)
    assert said.count("is in use by process") == 1, said
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert said.count("stopped by SIGINT after step") == 1, said
    assert "to continue: torchrun --nproc-per-node 2 -m leanlens train" in said
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    assert f"step-{done:08d}" in [path.name for path in (folder / "checkpoints").iterdir()]
