"""Keeps votes in a file: each is on the disk before it is answered for, and none is counted twice."""

import csv
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from leanlens.evaluate.vote.plan import QUESTIONS, Task
from leanlens.files import parse_json, sync, whole_file

VOTES_FILE = "votes.jsonl"
CHOICES = ("left", "right", "tie", "bad")
_KINDS = ("pair", "repeat", "gold")
_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Vote:
    """What a voter said, as a line of the file.

    Attributes:
        vote: id of the task.
        item: id of the prompt.
        left, right: the models; of a gold pair, both are the same.
        left_image, right_image: files within the folder.
        choice: one of CHOICES; "bad" is both bad.
        answer: of a gold pair, the side that is right; otherwise empty.
        seconds: from when both images were shown.
    """

    vote: str
    voter: str
    question: str
    kind: str
    item: str
    left: str
    right: str
    left_image: str
    right_image: str
    choice: str
    answer: str
    seconds: float
    time: str


_FIELDS = {field.name: float if field.name == "seconds" else str for field in fields(Vote)}
_WORDS = {"choice": CHOICES, "kind": _KINDS, "question": tuple(QUESTIONS)}


class VoteFile:
    """The votes of a folder, to which one process at a time may add.

    Attributes:
        standing: task id -> vote, in the order of voting, without those that were undone.

    Raises:
        ValueError: another process has the file, or a line of it is not a vote.
    """

    def __init__(self, folder: Path):
        self.path = folder / VOTES_FILE
        self._guard = threading.Lock()
        self._lock = FileLock(folder / f".{VOTES_FILE}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{folder} is already being voted on by another process; stop that one first") from None
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            self.standing = _standing(content, self.path)
            self._handle = os.open(self.path, _APPENDING, 0o644)
            # A line that is torn was never answered for.
            os.ftruncate(self._handle, content.rfind(b"\n") + 1)
            sync(folder)
        except BaseException:
            self._lock.release()
            raise

    def cast(self, task: Task, voter: str, choice: str, seconds: float) -> bool:
        """Keep a vote; False if one on this task stands already, whatever it says.

        Raises:
            OSError: it cannot be written, and does not count.
        """
        with self._guard:
            if task.id in self.standing:
                return False
            vote = Vote(
                task.id, voter, task.question, task.kind, task.item, task.left.model, task.right.model, task.left.file,
                task.right.file, choice, task.answer, round(seconds, 2), _now(),
            )  # fmt: skip
            self._append(asdict(vote))
            self.standing[task.id] = vote
            return True

    def undo(self, voter: str) -> Vote | None:
        """Take back the last vote of a voter that stands; None if there is none.

        Raises:
            OSError: it cannot be written; the vote stands.
        """
        with self._guard:
            last = next((one for one in reversed(self.standing.values()) if one.voter == voter), None)
            if last is not None:
                self._append({"undo": last.vote, "voter": voter, "time": _now()})
                del self.standing[last.vote]
            return last

    def _append(self, line: Mapping[str, Any]) -> None:
        """Add a line, all of it or nothing."""
        before = os.fstat(self._handle).st_size
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        try:
            if os.write(self._handle, data) != len(data):
                raise OSError(f"{self.path} cannot be written: the disk is full")
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, before)
            raise

    def close(self) -> None:
        """Let other processes add votes."""
        os.close(self._handle)
        self._lock.release()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_votes(folder: Path) -> list[Vote]:
    """The votes of a folder that stand; a torn last line is left out.

    Raises:
        ValueError: there are none, or a line is not a vote.
    """
    path = folder / VOTES_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no votes yet; `leanlens evaluate vote {folder}` collects them")
    return list(_standing(path.read_bytes(), path).values())


def _standing(content: bytes, path: Path) -> dict[str, Vote]:
    found: dict[str, Vote] = {}
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        what = f"{path} line {number}"
        row = parse_json(line, what)
        if not isinstance(row, dict):
            raise ValueError(f"{what} is not a vote: expected an object")
        if "undo" in row:
            found.pop(str(row["undo"]), None)
        else:
            found.setdefault(str(row.get("vote")), _vote(row, what))
    return found


def _vote(row: Mapping[str, Any], what: str) -> Vote:
    for name, kind in _FIELDS.items():
        if not isinstance(row.get(name), (int, float) if kind is float else str):
            raise ValueError(f"{what} is not a vote: invalid {name} {row.get(name)!r}")
    for name, words in _WORDS.items():
        if row[name] not in words:
            raise ValueError(f"{what} is not a vote: invalid {name} {row[name]!r}; expected {', '.join(words)}")
    return Vote(**{name: row[name] for name in _FIELDS})


def export_votes(votes: Sequence[Vote], path: Path) -> None:
    """Write votes as a table (.csv) or one JSON object a line (.jsonl).

    Raises:
        ValueError: another ending.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"invalid file {path} for votes: expected a name that ends in .csv or .jsonl")
    rows = [asdict(one) for one in votes]
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            table = csv.DictWriter(file, list(_FIELDS))
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
