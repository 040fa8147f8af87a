"""Decides what each voter is asked: which pairs of images, in which order and on which side.

Everything follows from a secret key and the voter's name, so that a server that is started again asks the same.
"""

import hashlib
import hmac
import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

QUESTIONS = {
    "prompt": "Which image follows the prompt better?",
    "looks": "Which image looks better?",
    "text": "In which image is the text more correct?",
}
REPEATS, GOLD = 0.10, 0.05  # of the pairs
_GAP = 5  # a repeat comes as many pairs later, or more
_TRIES = 200  # to find two prompts for a gold pair
_QUOTED = re.compile(r'"[^"]+"|“[^“”]+”|«[^«»]+»|‘[^‘’]+’')
KEY_FILE = "votes.key"


@dataclass(frozen=True)
class Picture:
    """An image of a model: its file within the folder, and its seed."""

    model: str
    file: str
    seed: int


@dataclass(frozen=True)
class Task:
    """Two images and the question about them.

    Attributes:
        id: tells nothing about what is shown.
        kind: "pair"; "repeat", the same pair once more with sides swapped; "gold", an image against one of another
            prompt by the same model.
        item: id of the prompt.
        answer: of a gold pair, the side of the image that was drawn for the prompt; otherwise empty.
    """

    id: str
    kind: str
    question: str
    item: str
    prompt: str
    left: Picture
    right: Picture
    answer: str = ""

    def picture(self, side: str) -> Picture:
        """The image on a side, "left" or "right"."""
        return self.left if side == "left" else self.right


@dataclass(frozen=True)
class _Pair:
    """A prompt with two images, the first of which goes to the left unless `swapped`."""

    item: Mapping[str, Any]
    first: Picture
    second: Picture
    kind: str = "pair"
    swapped: bool = False

    @property
    def prompt(self) -> str:
        return self.item["prompt"]

    @property
    def name(self) -> str:
        """What tells it from every other pair."""
        return "\0".join([self.kind, self.item["id"], self.first.model, self.first.file, self.second.model,
                          self.second.file])  # fmt: skip


def plan_of(
    results: Mapping[str, Any], folder: Path, key: bytes, voter: str, questions: Sequence[str], num: int | None = None
) -> list[Task]:
    """What a voter is asked, in order.

    Every prompt comes up once before one does a second time, and none twice in a row where there are two. A tenth of
    the pairs are shown once more; a twentieth more are gold pairs, which ask whether an image follows the prompt or has
    its text.

    Args:
        results: `results.json` of the folder, in format 2.
        questions: keys of QUESTIONS; each pair is asked all that apply to it, one after the other. The text is asked
            for where a prompt quotes one.
        num: number of different pairs; all without it.

    Raises:
        ValueError: no two models have images of a prompt, or no question applies.
    """
    lot = Random(_digest(key, "order", voter))
    pairs = _in_rounds([one for one in _pairs(results, folder) if _asked(one, questions)], lot)[:num]
    if not pairs:
        raise ValueError(
            f"{folder} has nothing to vote on: expected images of two models, and prompts that quote a text for "
            "the question text"
        )
    sided = [replace(one, swapped=bool(_digest(key, "side", voter, one.name) & 1)) for one in pairs]
    sequence = _with_gold(_with_repeats(sided, lot), questions, lot)
    return [_task(one, question, key, voter) for one in sequence for question in _asked(one, questions)]


def _pairs(results: Mapping[str, Any], folder: Path) -> list[_Pair]:
    """All pairs of different images that two models have drawn of a prompt, the first with the first and so on."""
    return [
        _Pair(item, _picture(first, one), _picture(second, other))
        for item, (first, one), (second, other) in _drawn(results)
        if one.get("file") != other.get("file") and all(_is_there(folder, row) for row in (one, other))
    ]


def count_missing(results: Mapping[str, Any], folder: Path) -> int:
    """How many pairs cannot be shown, because an image could not be drawn or its file is gone."""
    return sum(not all(_is_there(folder, row) for _, row in shown) for _, *shown in _drawn(results))


def _drawn(results: Mapping[str, Any]) -> Iterator[tuple[Mapping, tuple[str, Mapping], tuple[str, Mapping]]]:
    """Each prompt with the rows of each two models."""
    models = [name for name, one in results["models"].items() if one.get("role", "model") == "model"]
    for item in results["items"]:
        for first, second in combinations(models, 2):
            rows = (item["images"].get(model, ()) for model in (first, second))
            for one, other in zip(*rows, strict=False):
                yield item, (first, one), (second, other)


def _is_there(folder: Path, row: Mapping[str, Any]) -> bool:
    return bool(row.get("file")) and (folder / row["file"]).is_file()


def _picture(model: str, row: Mapping[str, Any]) -> Picture:
    return Picture(model, row["file"], row["seed"])


def _in_rounds(pairs: Sequence[_Pair], lot: Random) -> list[_Pair]:
    """Each round has every prompt that is left once, in an order of its own."""
    by_prompt: dict[str, list[_Pair]] = {}
    for one in pairs:
        by_prompt.setdefault(one.prompt, []).append(one)
    for rows in by_prompt.values():
        lot.shuffle(rows)
    found: list[_Pair] = []
    while turn := [rows.pop() for rows in by_prompt.values() if rows]:
        lot.shuffle(turn)
        if found and len(turn) > 1 and turn[0].prompt == found[-1].prompt:
            turn[0], turn[-1] = turn[-1], turn[0]
        found += turn
    return found


def _with_repeats(pairs: Sequence[_Pair], lot: Random) -> list[_Pair]:
    """The pairs, a tenth of them once more with sides swapped, spread evenly."""
    sequence, left = list(pairs), list(range(len(pairs)))
    count = _share_of(len(pairs), REPEATS)
    for number in reversed(range(count)):  # from the end, so that earlier places stay where they are
        place = max(_GAP + 1, int((number + 0.5 + lot.random() / 2) * len(pairs) / count))
        chosen = lot.choice(left[: bisect_left(left, place - _GAP)] or left[:1])
        left.remove(chosen)
        again = replace(pairs[chosen], kind="repeat", swapped=not pairs[chosen].swapped)
        first = next(at for at, one in enumerate(sequence) if one is pairs[chosen])
        _insert(sequence, place, again, first + _GAP)
    return sequence


def _with_gold(sequence: list[_Pair], questions: Sequence[str], lot: Random) -> list[_Pair]:
    """The same with gold pairs, spread evenly: an image for its prompt, and one that the model drew for another."""
    drawn = [(one.item, picture) for one in sequence if one.kind == "pair" for picture in (one.first, one.second)]
    count, found, names = _share_of(len(drawn) // 2, GOLD), list(sequence), set()
    for number in reversed(range(count)):
        for _ in range(_TRIES):
            (item, picture), (other_item, other) = lot.choice(drawn), lot.choice(drawn)
            gold = _Pair(item, picture, other, "gold", lot.random() < 0.5)
            is_fair = item["prompt"] != other_item["prompt"] and picture.model == other.model
            if is_fair and gold.name not in names and _asked(gold, questions):
                names.add(gold.name)
                _insert(found, int((number + lot.random()) * len(sequence) / count), gold, 0)
                break
    return found


def _share_of(num: int, share: float) -> int:
    """The share of a number of pairs, at least one of ten pairs."""
    return max(round(share * num), 1 if num >= 10 else 0)


def _insert(sequence: list[_Pair], place: int, pair: _Pair, first: int) -> None:
    """Insert a pair as near to a place as its neighbours have other prompts, from `first` on; or not at all."""
    for distance in range(len(sequence) + 1):
        for at in (place + distance, place - distance):
            near = sequence[max(0, at - 1) : at + 1]
            if first <= at <= len(sequence) and all(one.prompt != pair.prompt for one in near):
                sequence.insert(at, pair)
                return


def _asked(pair: _Pair, questions: Sequence[str]) -> list[str]:
    """The questions that apply to a pair; of two images of one model none looks better for certain."""
    quotes = bool(pair.item.get("truth", {}).get("texts")) or _QUOTED.search(pair.prompt) is not None
    apply = {"prompt": True, "looks": pair.kind != "gold", "text": quotes}
    return [one for one in questions if apply[one]]


def _task(pair: _Pair, question: str, key: bytes, voter: str) -> Task:
    left, right = (pair.second, pair.first) if pair.swapped else (pair.first, pair.second)
    answer = ("right" if pair.swapped else "left") if pair.kind == "gold" else ""
    identity = f"{_digest(key, 'task', voter, question, pair.name):064x}"[:32]
    return Task(identity, pair.kind, question, pair.item["id"], pair.prompt, left, right, answer)


def _digest(key: bytes, *words: str) -> int:
    return int.from_bytes(hmac.digest(key, "\0".join(words).encode(), hashlib.sha256))


def read_key(folder: Path) -> bytes:
    """The secret key of a folder's votes, which is made where there is none.

    Raises:
        ValueError: the file of the key is not one.
    """
    path = folder / KEY_FILE
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise ValueError(f"{path} is not a key of 64 hexadecimal digits; remove it and votes.jsonl") from None
        return bytes.fromhex(text)
    key = os.urandom(32)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key
