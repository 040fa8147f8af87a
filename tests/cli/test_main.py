"""The command itself: fast, quiet about torch, and honest about what this machine can do."""

import json
import os
import subprocess
import sys
from pathlib import Path

from leanlens import __version__ as VERSION


def test_version(leanlens):
    assert leanlens("--version").out == f"leanlens {VERSION}\n"


def test_help_is_instant_and_without_torch():
    """Under 0.4 s of processor time, which on a quiet machine is the time one waits."""
    code = (
        "import sys; sys.argv=['leanlens','--help']\nfrom leanlens.cli.main import run\n"
        "try: run()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    assert min(_processor_seconds(["-c", code]) for _ in range(3)) < 0.4


def test_a_log_gets_no_bars(tmp_path):
    """Where the errors go into a file, libraries draw no bars over one another in it."""
    words = ["generate", "a", "--model", "nano", "--size", "96x96", "--steps", "1", "-o", str(tmp_path / "a.png")]
    run = subprocess.run([sys.executable, "-m", "leanlens", *words], check=True, capture_output=True, text=True)
    assert "nano on " in run.stderr
    assert "it/s" not in run.stderr
    assert "Loading" not in run.stderr


def test_doctor(leanlens):
    run = leanlens("doctor", "--json")
    report = json.loads(run.out)
    assert run.code == 0
    assert report["versions"]["leanlens"] == VERSION
    assert {"generate", "replay", "weights"} <= set(report["commands"])
    assert "processor" in leanlens("doctor").out


def test_doctor_covers_every_command_and_names_what_is_missing(leanlens, monkeypatch):
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "uvicorn" else find(name, *more))
    Path("leanlens.toml").write_text('[serve]\nport = 81\napi-key = "hidden"\n', encoding="utf-8")
    monkeypatch.setenv("LEANLENS_SERVE_PORT", "82")
    report = json.loads(leanlens("doctor", "--json").out)
    commands = report["commands"]
    assert {"serve", "mcp", "train", "evaluate", "plan", "scenes", "export"} <= set(commands)
    assert commands["serve"].startswith("no: uvicorn missing; pip install ")
    assert commands["serve"].endswith('[serve]"') or "[serve] @" in commands["serve"]
    assert report["defaults"]["serve --port"] == "82, from LEANLENS_SERVE_PORT"
    assert report["defaults"]["serve --api-key"] == "(set), from leanlens.toml"
    assert "hidden" not in json.dumps(report)


def test_alone_it_prints_its_help_and_no_error(leanlens):
    for words in ([], ["weights"], ["scenes"]):
        run = leanlens(*words)
        assert run.code == 2
        assert "Usage" in run.out
        assert run.err == ""


def test_train_lists_recipes_and_takes_their_names(leanlens):
    assert "  examples/smoke  " in leanlens("train").out
    run = leanlens("train", "smok")
    assert run.code == 2
    assert "the nearest name is 'smoke'" in run.err


def test_every_command_has_help(leanlens):
    for words in (["generate"], ["replay"], ["doctor"], ["weights"], ["weights", "inspect"], ["weights", "fetch"]):
        assert leanlens(*words, "--help").code == 0


def _processor_seconds(words: list[str]) -> float:
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def test_the_end_is_not_spent_on_looking_for_garbage():
    code = (
        "import sys, gc, atexit; sys.argv=['leanlens','--version']\nfrom leanlens.cli.main import run\n"
        "def last(): print(gc.get_freeze_count() > 1000, gc.get_threshold()[0])\n"
        "atexit.register(last)\n"
        "try: run()\nexcept SystemExit: pass"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split()[-2:] == ["True", "50000"]
