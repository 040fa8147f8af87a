"""`leanlens doctor --share`: one line to paste, measured, that names nobody."""

import contextlib
import getpass
import json
import platform
from pathlib import Path

from leanlens.cli import share

FOUND = {
    "leanlens": "0.1.0", "system": "Linux x86_64", "python": "3.11.2", "torch": "2.13.0", "processor": "AMD EPYC",
    "cores": 2, "model": "nano", "size": "256x256", "alone_s": 1.604, "others": 0.04, "busy_s": 3.2,
    "planned_s": 1.75, "gpu": None, "gpu_s": None,
}  # fmt: skip


def test_the_line_holds_what_was_measured():
    assert share.as_line(FOUND) == (
        "leanlens 0.1.0 on Linux x86_64, Python 3.11.2, torch 2.13.0; AMD EPYC, 2 cores; nano 256x256: 1.60 s alone "
        "(0.0 cores busy with others), 3.20 s beside a busy loop, planned 1.8 s; no GPU"
    )
    with_gpu = FOUND | {"gpu": "RTX 4090", "gpu_s": 0.25, "planned_s": None}
    assert share.as_line(with_gpu).endswith("3.20 s beside a busy loop, not planned; RTX 4090 0.25 s")


def test_a_toy_is_measured():
    found = share.measure("toy", "64x64", 1)
    assert 0 < found["alone_s"] < 60
    assert 0 < found["busy_s"] < 60
    assert 0 <= found["others"] <= 1024
    line = share.as_line(found)
    assert "\n" not in line
    assert getpass.getuser() not in line.split()
    assert str(Path.home()) not in line
    assert platform.node() not in line


def test_the_planner_is_asked_for_the_processor():
    assert 0 < share._planned("nano", "256x256", 20) < 60


def test_the_busy_loop_ends_with_its_block(monkeypatch):
    started = []
    popen = share.subprocess.Popen

    def keep(*words, **options):
        started.append(popen(*words, **options))
        return started[-1]

    monkeypatch.setattr(share.subprocess, "Popen", keep)
    with contextlib.suppress(ValueError), share.busy_loop():
        assert started[0].poll() is None
        raise ValueError
    assert started[0].poll() is not None


def test_the_command_prints_the_line_or_json(leanlens, monkeypatch):
    monkeypatch.setattr(share, "measure", lambda: FOUND)
    assert leanlens("doctor", "--share").out == share.as_line(FOUND) + "\n"
    assert json.loads(leanlens("doctor", "--share", "--json").out) == FOUND
