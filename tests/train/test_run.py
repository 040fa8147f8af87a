"""One run in a folder at a time, signals that save, and what the output says."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leanlens.train import run as keeping
from leanlens.train.run import ProgressLine, StopRequest, held, require_folder, require_free, this_command

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def holder(folder):
    """A process that holds the folder until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from leanlens.train.run import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(120)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_two_runs_in_one_folder(tmp_path):
    """The second is refused in a sentence that names the first; a killed one blocks nobody."""
    process = holder(tmp_path)
    try:
        who = (
            rf"process {process.pid} on {re.escape(socket.gethostname())}, which has been training there since \d{{4}}-"
        )
        with pytest.raises(ValueError, match=rf"run\.dir {tmp_path} is in use by {who}"), held(tmp_path):
            pass
        with pytest.raises(ValueError, match=who):
            require_free(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (tmp_path / ".owner.json").is_file()  # what the kill left behind
    require_free(tmp_path)
    with held(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"), held(tmp_path):
        pass
    with held(tmp_path):  # one after the other, in one process
        pass
    assert not (tmp_path / ".owner.json").exists()


def test_a_lock_without_a_name(tmp_path):
    with held(tmp_path):
        (tmp_path / ".owner.json").write_text("{")
        with pytest.raises(ValueError, match="is in use by another process; wait until it ends"):
            require_free(tmp_path)


def test_looking_at_a_free_folder_makes_nothing(tmp_path):
    require_free(tmp_path / "run")
    require_folder(tmp_path / "run" / "below")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["/proc/run", "/sys/run/below"])
def test_a_folder_that_takes_no_files(folder):
    if not Path(folder).parents[-2].is_dir():
        pytest.skip("no such file system")
    with pytest.raises(ValueError, match=rf"run\.dir {folder} is not accepted: .* cannot be written to"):
        require_folder(Path(folder))


def test_a_second_signal(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(keeping.time, "monotonic", lambda: clock[0])
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
    monkeypatch.setattr(keeping.time, "monotonic", lambda: clock[0])
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
    with pytest.raises(keeping.Interrupted):
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


def test_lines_in_a_pipe_say_what_is_left(monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(keeping.time, "monotonic", lambda: clock[0])
    line = ProgressLine(100, 40)
    with caplog.at_level(logging.INFO):
        for step in range(41, 61):
            clock[0] += 6
            line.tell(step, f"loss {step}")
    line.close()
    said = [record.message for record in caplog.records]
    assert said[0] == "step 41 of 100: loss 41, 0:05:54 left"  # 59 steps of 6 seconds
    assert [text.split(":")[0] for text in said] == [f"step {step} of 100" for step in (41, 47, 53, 59)]
    assert said[-1].endswith("loss 59, 0:04:06 left")


def test_minutes_end_a_run_sooner(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(keeping.time, "monotonic", lambda: clock[0])
    line = ProgressLine(1000, 0, minutes=1, silent=True)
    clock[0] = 10.0
    line.tell(1, "")
    assert line.seconds_left() == 50


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    line = ProgressLine(4, 1)
    time.sleep(0.2)  # a bar is not drawn anew more often
    line.tell(2, "loss 0.5")
    line.close()
    said = capsys.readouterr().err
    assert "2/4" in said
    assert "loss 0.5" in said


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
    path = Path(__file__).parents[2] / "recipes" / f"{recipe}.toml"
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
    assert f"to go on: python -m leanlens train {words[1]}" in said
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
    assert "to go on: torchrun --nproc-per-node 2 -m leanlens train" in said
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    assert f"step-{done:08d}" in [path.name for path in (folder / "checkpoints").iterdir()]
