import pytest
from PIL import Image

from leanlens.evaluate.judges.given import GivenAnswersJudge
from leanlens.evaluate.suite import Item, Judgement
from leanlens.score.protocol import Failed

QUESTIONS = [{"id": "1", "question": "a?"}, {"id": "2", "question": "b?", "parents": ["1"]}]
IMAGE = Image.new("RGB", (4, 4))


class Answering:
    """A scorer that gives the same answer about every image."""

    name, criteria = "mplug", ("answered",)

    def __init__(self, score, raw):
        self.judgement, self.is_closed = Judgement(score, raw), False

    def identity(self):
        return {"version": "3"}

    def __call__(self, images, items):
        return [self.judgement] * len(images)

    def close(self):
        self.is_closed = True


def judged(raw, score=None):
    judge = GivenAnswersJudge(Answering(score or {"answered": 2.0}, raw))
    return judge([IMAGE], [Item("a", "a", truth={"questions": QUESTIONS})])[0]


def test_answers_are_judged_with_their_dependencies():
    assert judged({"answers": {"1": "yes", "2": "Yes "}}).score == {"questions": 1.0}
    zeroed = judged({"answers": {"1": "no", "2": "yes"}})
    assert zeroed.score == {"questions": 0.0}
    assert zeroed.raw["answers"] == {"1": "no", "2": "yes"}
    assert judged({"answers": {"1": "yes", "2": "two"}}).score == {"questions": 0.5}


@pytest.mark.parametrize("raw", [None, {}, {"answers": [1]}, {"answers": {"1": 3}}])
def test_what_is_not_answered_has_failed(raw):
    found = judged(raw, {"answered": Failed("out of memory")})
    assert isinstance(found.score["questions"], Failed)
    assert list(found.raw["failed"]) == ["1", "2"]
    assert found.raw["num"] == 2
    assert found.raw["answers"]["1"] == {"failed": "no answer: out of memory"}


def test_its_identity_is_that_of_the_scorer_and_it_is_closed_with_it():
    scorer = Answering({"answered": 2.0}, {})
    judge = GivenAnswersJudge(scorer)
    assert (judge.name, judge.identity()["scorer"]) == ("mplug", {"version": "3"})
    judge.close()
    assert scorer.is_closed
