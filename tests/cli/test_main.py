"""The command itself: fast, quiet about torch, and honest about what this machine can do."""

import json
import subprocess
import sys
import time

from leanlens import __version__ as VERSION


def test_version(leanlens):
    assert leanlens("--version").out == f"leanlens {VERSION}\n"


def test_help_is_instant_and_without_torch():
    """Under 0.4 s on a quiet machine; a busy one is measured against how long the bare interpreter takes."""
    code = (
        "import sys; sys.argv=['leanlens','--help']\nfrom leanlens.cli.main import run\n"
        "try: run()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    bare, ours = (min(_seconds(words) for _ in range(3)) for words in (["-c", "pass"], ["-c", code]))
    assert ours < max(0.4, 12 * bare)


def test_doctor(leanlens):
    run = leanlens("doctor", "--json")
    report = json.loads(run.out)
    assert run.code == 0
    assert report["versions"]["leanlens"] == VERSION
    assert {"generate", "replay", "weights"} <= set(report["commands"])
    assert "processor" in leanlens("doctor").out


def test_every_command_has_help(leanlens):
    for words in (["generate"], ["replay"], ["doctor"], ["weights"], ["weights", "inspect"], ["weights", "fetch"]):
        assert leanlens(*words, "--help").code == 0


def _seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - started
