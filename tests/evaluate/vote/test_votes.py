import csv
import json
import os

import pytest

from leanlens.evaluate.vote.plan import Picture, Task
from leanlens.evaluate.vote.votes import VoteFile, export_votes, read_votes


def task(name="t1", kind="pair"):
    return Task(name, kind, "prompt", "00001", "a dog", Picture("alpha", "images/a.png", 0),
                Picture("beta", "images/b.png", 0))  # fmt: skip


@pytest.fixture
def votes(tmp_path):
    opened = VoteFile(tmp_path)
    yield opened
    opened.close()


def reopened(votes):
    """What the next process finds, without this one having closed anything."""
    return [(one.vote, one.choice) for one in read_votes(votes.path.parent)]


def test_a_vote_is_in_the_file_at_once_with_all_it_says(votes):
    assert votes.cast(task(), "Ann", "left", 3.14159)
    (line,) = votes.path.read_text().splitlines()
    row = json.loads(line)
    assert row.pop("time").endswith("+00:00")
    assert row == {
        "vote": "t1", "voter": "Ann", "question": "prompt", "kind": "pair", "item": "00001", "left": "alpha",
        "right": "beta", "left_image": "images/a.png", "right_image": "images/b.png", "choice": "left", "answer": "",
        "seconds": 3.14,
    }  # fmt: skip


def test_it_is_on_the_disk_before_the_call_returns(votes, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    votes.cast(task(), "Ann", "left", 1)
    assert synced == [votes.path.stat().st_size]


def test_a_second_vote_on_a_pair_does_not_count(votes):
    assert votes.cast(task(), "Ann", "left", 1)
    assert not votes.cast(task(), "Ann", "right", 1)
    assert reopened(votes) == [("t1", "left")]


def test_the_last_vote_of_a_voter_can_be_undone_and_cast_again(votes):
    for name, voter in (("t1", "Ann"), ("t2", "Ann"), ("t3", "Bob")):
        votes.cast(task(name), voter, "left", 1)
    assert votes.undo("Ann").vote == "t2"
    assert votes.undo("Eve") is None
    assert reopened(votes) == [("t1", "left"), ("t3", "left")]
    assert votes.cast(task("t2"), "Ann", "tie", 1)
    assert reopened(votes) == [("t1", "left"), ("t3", "left"), ("t2", "tie")]


def test_a_torn_last_line_is_left_out_and_overwritten(votes, tmp_path):
    votes.cast(task(), "Ann", "left", 1)
    whole = votes.path.read_bytes()
    votes.close()
    for cut in (1, 20, len(whole) - 1):
        votes.path.write_bytes(whole + whole[:cut])
        assert [one.vote for one in read_votes(tmp_path)] == ["t1"]
        again = VoteFile(tmp_path)
        again.cast(task("t2"), "Ann", "right", 1)
        again.close()
        assert [one.vote for one in read_votes(tmp_path)] == ["t1", "t2"]
    votes._handle = os.open(votes.path, os.O_RDONLY)


def test_a_vote_that_cannot_be_written_does_not_count(votes, monkeypatch):
    votes.cast(task(), "Ann", "left", 1)
    before, write = votes.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:10]))
    with pytest.raises(OSError, match="the disk is full"):
        votes.cast(task("t2"), "Ann", "left", 1)
    assert votes.path.read_bytes() == before
    monkeypatch.undo()
    assert votes.cast(task("t2"), "Ann", "right", 1)


def test_one_process_at_a_time(votes, tmp_path):
    with pytest.raises(ValueError, match="already being voted on by another process"):
        VoteFile(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "line 2 is not a vote: expected an object"),
        ('{"vote": "t2"}', "line 2 is not a vote: invalid voter None"),
        ("{not json", "line 2 is not valid JSON"),
    ],
)
def test_a_wrong_line_is_named(votes, line, message):
    votes.cast(task(), "Ann", "left", 1)
    with open(votes.path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_votes(votes.path.parent)


def test_a_word_that_is_not_known_is_named(votes):
    votes.cast(task(), "Ann", "left", 1)
    votes.path.write_text(votes.path.read_text().replace('"choice": "left"', '"choice": "middle"'))
    with pytest.raises(ValueError, match="invalid choice 'middle'; expected left, right, tie, bad"):
        read_votes(votes.path.parent)


def test_votes_are_exported(votes, tmp_path):
    votes.cast(task("t1"), "Ann", "left", 1)
    votes.cast(task("t2"), "Ann", "bad", 2)
    votes.undo("Ann")
    kept = read_votes(tmp_path)
    export_votes(kept, tmp_path / "v.csv")
    with open(tmp_path / "v.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    export_votes(kept, tmp_path / "v.jsonl")
    assert {name: str(value) for name, value in json.loads((tmp_path / "v.jsonl").read_text()).items()} == row
    assert row["vote"] == "t1"
    with pytest.raises(ValueError, match=r"ends in \.csv or \.jsonl"):
        export_votes(kept, tmp_path / "v.xlsx")


def test_a_folder_without_votes_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no votes yet"):
        read_votes(tmp_path)
