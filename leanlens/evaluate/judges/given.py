"""Judges questions by the answers that a scorer in a process of its own gives."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from leanlens.endpoint import Answer
from leanlens.evaluate.judges.questions import CRITERION, AskedQuestion, judge_answers, read_questions
from leanlens.evaluate.suite import Item, Judge, Judgement
from leanlens.score.protocol import Failed


class GivenAnswersJudge:
    """The score and the `raw` of `QuestionJudge`, from answers in place of an endpoint.

    Args:
        scorer: a judge whose `raw` has `answers`: id of a question -> the answer, a word or several.
    """

    criteria: tuple[str, ...] = (CRITERION,)

    def __init__(self, scorer: Judge):
        self.name, self.scorer = scorer.name, scorer

    def identity(self) -> dict[str, Any]:
        """See `Judge`."""
        return {"kind": "given answers", "format": 1, "scorer": self.scorer.identity()}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        """See `Judge`; an item has the questions that `read_questions` reads."""
        asked = [read_questions(item) for item in items]
        return [_judge(one, given) for one, given in zip(asked, self.scorer(images, items), strict=True)]

    def close(self) -> None:
        """End the process of the scorer, where it has one."""
        close = getattr(self.scorer, "close", None)
        if close is not None:
            close()


def _judge(asked: Sequence[AskedQuestion], given: Judgement) -> Judgement:
    reason = next((value.reason for value in given.score.values() if isinstance(value, Failed)), "it gave no answer")
    told = given.raw.get("answers") if isinstance(given.raw, dict) else None
    told = told if isinstance(told, dict) else {}
    answers = [
        Answer(text=told[one.id], value=told[one.id].strip().casefold())
        if isinstance(told.get(one.id), str)
        else Answer(failure="no answer", detail=reason)
        for one in asked
    ]
    own = {
        one.id: None if answer.failure else float(answer.value in one.expected)
        for one, answer in zip(asked, answers, strict=True)
    }
    return judge_answers(asked, answers, own)
