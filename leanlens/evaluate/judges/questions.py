"""Asks a vision model binary questions about images, with dependencies between the questions as DPG-Bench has them.

Source: `compute_dpg_bench.py` of DPG-Bench (dependencies), `evaluation.py` of GenEval 2 (probabilities of answers).
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.endpoint import Answer, Endpoint, Question, Totals, add_up, ask_all
from leanlens.evaluate.judges.blind import blind_png
from leanlens.evaluate.suite import Item, Judgement
from leanlens.score.protocol import Failed

FORMAT = 1  # of the request and of how its answer is read
CRITERION = "questions"
CHOICES = ("yes", "no")
SYSTEM = "Answer each question about the picture with one word: yes or no."
MET = 0.5  # probability from which a question counts as met
MOST_LOGPROBS = 20  # that the interface tells
BYTES_AT_ONCE = 64 * 2**20  # of encoded images in the requests of one call
PARENT = "parent"  # why a question failed whose parent did


@dataclass(frozen=True)
class AskedQuestion:
    """One question about an image.

    Attributes:
        parents: ids of the questions that must be met for this one to count.
        expected: answers that meet it, such as ("yes",), or the spellings ("two", "2").
    """

    id: str
    question: str
    parents: tuple[str, ...]
    expected: tuple[str, ...]
    category: str


def read_questions(item: Item) -> list[AskedQuestion]:
    """The questions of an item, from `truth["questions"]`.

    Each is `{"id", "question"}`, and where needed `"parents"` (ids; "0" stands for none, as in DPG-Bench), `"expected"`
    (an answer or several spellings of it; "yes" without it) and `"category"`.

    Raises:
        ValueError: another form, an id that occurs twice, or a parent that is no question of the item.
    """
    rows = item.truth.get("questions")
    try:
        found = [_read_question(row) for row in rows or ()]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"invalid questions of item {item.id}: {error!r}; expected id and question in each") from None
    names = [one.id for one in found]
    if rows is None or len(set(names)) < len(names):
        raise ValueError(f"invalid questions of item {item.id}: expected truth['questions'] with ids that differ")
    for one in found:
        if missing := set(one.parents) - set(names):
            raise ValueError(f"invalid parents {sorted(missing)} of question {one.id} of item {item.id}: no such id")
    return found


def _read_question(row: dict[str, Any]) -> AskedQuestion:
    parents = tuple(str(one) for one in row.get("parents", ()) if str(one) != "0")
    expected = row.get("expected", CHOICES[0])
    expected = (expected,) if isinstance(expected, str) else tuple(str(one) for one in expected)
    return AskedQuestion(str(row["id"]), str(row["question"]), parents, expected, str(row.get("category", "")))


class QuestionJudge:
    """A vision model that answers the questions of `read_questions` about each image.

    The score is the share of questions that are met. Only answered questions count: one that got no usable answer, and
    one that depends on such a question, is left out of the share and counted as failed (`question_failures`). The score
    itself is `Failed` only where not a single question could be judged, and None where there are no questions.

    `Judgement.raw` has `answers` (id -> the answer, or {"failed": reason}), `values` (id -> what the question adds to
    the share, from 0 to 1, after dependencies), `met` (id -> whether it is met, after dependencies), `failed` (id ->
    kind of failure, "parent" where the question depends on one that failed), and `num`, the number of questions. With
    `probability` it also has `unseen`: id -> the least probability that was told, for a question whose expected answers
    were not told at all; none of them is more probable than that.

    Args:
        answers: folder where answers are kept as they come; nothing is kept without it.
        zero_dependents: a question counts as not met where a parent is not met. As in the official script, questions
            are gone through in their order, so a parent that is itself zeroed zeroes the ones that depend on it.
        suffix: put after each question with a space between.
        probability: the value of a question is the probability of its expected answers at the first token: the sum over
            the 20 most probable tokens that read as one of them, regardless of case. It counts as met from 0.5.
        system: the system message; without it, SYSTEM, or none with `probability`.
        max_tokens: of an answer; a model that reasons first needs more.
        extra: further fields of the request, as in `leanlens.endpoint.Question`.
    """

    criteria: tuple[str, ...] = (CRITERION,)

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        answers: str | Path | None = None,
        *,
        zero_dependents: bool = True,
        suffix: str = "",
        probability: bool = False,
        system: str | None = None,
        max_tokens: int = 16,
        extra: dict[str, Any] | None = None,
    ):
        self.name, self.endpoint, self.answers = name, endpoint, answers
        self.zero_dependents, self.suffix, self.probability = zero_dependents, suffix, probability
        self.system = ("" if probability else SYSTEM) if system is None else system
        self.max_tokens, self.extra = max_tokens, dict(extra or {})
        self.totals: Totals = add_up([])

    def identity(self) -> dict[str, Any]:
        """Everything that decides a judgement besides image and item, as JSON values."""
        return {
            "kind": "questions",
            "format": FORMAT,
            "url": self.endpoint.url,
            "model": self.endpoint.model,
            "zero_dependents": self.zero_dependents,
            "suffix": self.suffix,
            "probability": self.probability,
            "system": self.system,
            "max_tokens": self.max_tokens,
            "extra": self.extra,
        }

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        """A judgement for each image, which was drawn for the item at its place.

        Raises:
            ValueError: the lists differ in length, an item has no questions in the form of `read_questions`, or the
                environment variable of the endpoint's key is not set.
        """
        if len(images) != len(items):
            raise ValueError(f"items has {len(items)} entries for {len(images)} images: expected one per image")
        asked = [read_questions(item) for item in items]
        if not self.probability:
            _require_choices(items, asked)
        judged: list[Judgement] = []
        for part in _parts(images, asked):
            requests = [self._request(png, one) for png, questions in part for one in questions]
            given = iter(ask_all(self.endpoint, requests, self.answers))
            rows = [[next(given) for _ in questions] for _, questions in part]
            self.totals = added(self.totals, add_up(answer for row in rows for answer in row))
            judged += [self._judge(questions, row) for (_, questions), row in zip(part, rows, strict=True)]
        return judged

    def _request(self, png: bytes, asked: AskedQuestion) -> Question:
        return Question(
            f"{asked.question} {self.suffix}".strip(),
            system=self.system,
            images=(png,),
            choices=() if self.probability else CHOICES,
            max_tokens=self.max_tokens,
            logprobs=MOST_LOGPROBS if self.probability else 0,
            extra=self.extra,
        )

    def _judge(self, questions: Sequence[AskedQuestion], answers: Sequence[Answer]) -> Judgement:
        own = {
            asked.id: None if answer.failure else self._value(asked, answer)
            for asked, answer in zip(questions, answers, strict=True)
        }
        judged = judge_answers(questions, answers, own, self.zero_dependents)
        if self.probability:
            judged.raw["unseen"] = {
                asked.id: float(f"{math.exp(min(value for _, value in answer.logprobs[0])):.6g}")
                for asked, answer in zip(questions, answers, strict=True)
                if not answer.failure and not _told_probabilities(asked, answer)
            }
        return judged

    def _value(self, asked: AskedQuestion, answer: Answer) -> float:
        """What an answer is worth by itself: 1 or 0, or the probability of what is expected."""
        if not self.probability:
            return float(_plain(answer.value) in {_plain(word) for word in asked.expected})
        return min(1.0, sum(_told_probabilities(asked, answer)))


def judge_answers(
    questions: Sequence[AskedQuestion],
    answers: Sequence[Answer],
    own: dict[str, float | None],
    zero_dependents: bool = True,
) -> Judgement:
    """The judgement of an image, in the form of `QuestionJudge`.

    Args:
        own: id of a question -> what its answer is worth by itself, None where it failed.
    """
    values = _zero_dependents(questions, own) if zero_dependents else own
    failed = {
        asked.id: answer.failure or PARENT
        for asked, answer in zip(questions, answers, strict=True)
        if values[asked.id] is None
    }
    judged = {name: value for name, value in values.items() if value is not None}
    raw = {
        "answers": {asked.id: _told(answer) for asked, answer in zip(questions, answers, strict=True)},
        "values": {name: float(f"{value:.6g}") for name, value in judged.items()},
        "met": {name: value >= MET for name, value in judged.items()},
        "failed": failed,
        "num": len(questions),
    }
    return Judgement({CRITERION: _share(judged, failed)}, raw)


def _told_probabilities(asked: AskedQuestion, answer: Answer) -> list[float]:
    """Of the first token: those of the tokens that read as an expected answer."""
    expected = {_plain(word) for word in asked.expected}
    return [math.exp(value) for token, value in answer.logprobs[0] if _plain(token) in expected]


def _plain(word: str) -> str:
    """A word or token without space and punctuation around, in lower case."""
    return word.strip(" \n\t\r.,!;:'\"`*()[]Ġ▁").casefold()


def _told(answer: Answer) -> str | dict[str, str]:
    """An answer for `raw`."""
    if answer.failure:
        return {"failed": f"{answer.failure}: {answer.detail}"}
    return str(answer.value if answer.value is not None else answer.text.strip())


def _zero_dependents(questions: Sequence[AskedQuestion], own: dict[str, float | None]) -> dict[str, float | None]:
    """Values after dependencies; None where the question, or one that it depends on, failed.

    A question with a failed parent fails even where another parent is not met: counted as 0 there, and left out where
    the other parent is met, it would lower the share.
    """
    values = dict(own)
    for asked in questions:
        parents = [values[name] for name in asked.parents]
        if any(value is None for value in parents):
            values[asked.id] = None
        elif values[asked.id] is not None and any(value is not None and value < MET for value in parents):
            values[asked.id] = 0.0
    return values


def _share(judged: dict[str, float], failed: dict[str, str]) -> float | Failed | None:
    if judged:
        return math.fsum(judged.values()) / len(judged)
    if not failed:
        return None
    kind, _ = Counter(failed.values()).most_common(1)[0]
    return Failed(f"no question was answered: {kind}")


def _require_choices(items: Sequence[Item], asked: Sequence[Sequence[AskedQuestion]]) -> None:
    for item, questions in zip(items, asked, strict=True):
        for one in questions:
            if not {_plain(word) for word in one.expected} <= set(CHOICES):
                raise ValueError(
                    f"invalid expected {list(one.expected)} of question {one.id} of item {item.id}: expected yes or no"
                )


def _parts(
    images: Sequence[Image.Image], asked: Sequence[list[AskedQuestion]]
) -> Iterator[list[tuple[bytes, list[AskedQuestion]]]]:
    """Encoded images with their questions, as many as BYTES_AT_ONCE allows, at least one."""
    part: list[tuple[bytes, list[AskedQuestion]]] = []
    size = 0
    for image, questions in zip(images, asked, strict=True):
        png = blind_png(image) if questions else b""
        weight = len(png) * len(questions) * 4 // 3
        if part and size + weight > BYTES_AT_ONCE:
            yield part
            part, size = [], 0
        part.append((png, questions))
        size += weight
    if part:
        yield part


def added(one: Totals, other: Totals) -> Totals:
    """The totals of the answers of both."""
    kinds = Counter(one.failed) + Counter(other.failed)
    return Totals(
        one.answered + other.answered,
        dict(kinds),
        one.cached + other.cached,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cost + other.cost,
    )
