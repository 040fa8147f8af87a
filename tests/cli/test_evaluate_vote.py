"""`leanlens evaluate vote` as a shell calls it: the page, its file of votes after `kill -9`, ranking and export."""

import json
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("fastapi")

from leanlens.cli.evaluate_vote import vote
from tests.evaluate.vote.folder import write_folder
from tests.evaluate.vote.running import COMMAND, Running


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "out", 20)


def cast(folder, *choices, voter="Ann"):
    """Write votes as the file's format is described."""
    with open(folder / "votes.jsonl", "a") as file:
        for at, choice in enumerate(choices):
            row = {
                "vote": f"{voter}{at}", "voter": voter, "question": "prompt", "kind": "pair", "item": f"{at:05d}",
                "left": "alpha", "right": "beta", "left_image": f"images/alpha-{at}-0.png",
                "right_image": f"images/beta-{at}-0.png", "choice": choice, "answer": "", "seconds": 1.5,
                "time": "2026-01-01T00:00:00+00:00",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


@pytest.mark.long
def test_nothing_is_lost_or_doubled_when_the_server_is_killed(folder):
    running = Running(folder)
    state, answered = running.ask("start", {"name": "Ann"}), []
    for round_ in range(3):
        for _ in range(3):
            answered.append(state["task"]["id"])
            state = running.ask("vote", {"task": state["task"]["id"], "choice": "left"})
        cookie = running.cookie
        running.end(signal.SIGKILL)
        with open(folder / "votes.jsonl", "a") as file:
            file.write('{"vote": "torn'[: 3 * round_])
        running = Running(folder)
        running.cookie = cookie
        assert running.ask("state") == state
    assert running.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    rows = [json.loads(line) for line in (folder / "votes.jsonl").read_text().splitlines()]
    assert [row["vote"] for row in rows] == answered


def test_the_ranking_is_printed(folder, capsys):
    pytest.importorskip("scipy")
    cast(folder, *["left"] * 15, "right", "tie", "bad")
    vote(folder, results=True)
    text = capsys.readouterr().out
    assert "Which image follows the prompt better?" in text
    assert text.index("| alpha |") < text.index("| beta |")
    assert "18 votes of 1 voter on 18 prompts; 1 both bad, counted as ties." in text


def test_votes_are_exported(folder, tmp_path, capsys):
    cast(folder, "left", "tie")
    vote(folder, export=tmp_path / "votes.csv")
    assert len((tmp_path / "votes.csv").read_text().splitlines()) == 3
    vote(folder, export=tmp_path / "kept.jsonl", exclude_failing=True)
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 2
    assert "0 of 2 votes are of voters who fail the checks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"question": ["beauty"]}, "invalid question beauty: expected prompt, looks, text, each once"),
        ({"question": ["looks", "looks"]}, "each once"),
        ({"host": "0.0.0.0"}, "host 0.0.0.0 can be reached from other machines: give a --token"),
        ({"token": "short"}, "invalid token: expected 8 characters or more"),
        ({"exclude_failing": True}, "--exclude-failing belongs to --results and --export"),
        ({"results": True}, "has no votes yet"),
    ],
)
def test_invalid_options_are_named(folder, given, message):
    with pytest.raises(ValueError, match=message):
        vote(folder, **{"port": 0, **given})


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected one that `leanlens evaluate` wrote, with results\.json"):
        vote(tmp_path, port=0)


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        ValueError, match=r"the voting page needs the package uvicorn; install it with: pip install .*serve"
    ):
        vote(folder)


def test_the_shell_gets_one_sentence(folder):
    done = subprocess.run([*COMMAND, str(folder), "--host", "0.0.0.0"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert done.stderr.startswith("error: host 0.0.0.0 can be reached")
