import math

import numpy as np
import pytest

from leanlens.evaluate.draw import draw_items
from leanlens.evaluate.judge import forget_judgements, judge_images, read_judgement
from leanlens.evaluate.suite import Judgement
from leanlens.score.protocol import Failed
from leanlens.store import Store
from tests.evaluate.stub import Brightness, Painter, stub_suite


@pytest.fixture
def kept(tmp_path):
    suite = stub_suite(3)
    images = draw_items(Painter(fails={"prompt 2"}), suite.items, 2, 0, tmp_path / "images")
    return suite.items, images, Store(tmp_path / "judgements")


def test_an_image_is_judged_once(kept):
    judge = Brightness()
    first = judge_images(judge, *kept)
    assert judge.judged == 4
    assert judge_images(judge, *kept) == first
    assert judge.judged == 4
    assert first[2][0].score == {"bright": Failed("not drawn: the prompt was refused")} | {
        "even": Failed("not drawn: the prompt was refused")
    }
    assert first[0][0].raw["mean"] > 0


def test_a_failed_judgement_is_made_again_when_asked(kept):
    judge = Brightness()
    judge.fails = {"00001"}
    assert judge_images(judge, *kept)[1][0].score["bright"] == Failed("no answer")
    judge.fails = set()
    assert judge_images(judge, *kept, retry=False)[1][0].score["bright"] == Failed("no answer")
    assert isinstance(judge_images(judge, *kept)[1][0].score["bright"], float)
    assert judge.judged == 4 + 2


def test_one_item_can_be_judged_anew(kept):
    judge = Brightness()
    items, images, store = kept
    judge_images(judge, *kept)
    assert forget_judgements([judge], items[0], images[0], store) == 2
    judge_images(judge, *kept)
    assert judge.judged == 6
    assert forget_judgements([judge], items[2], images[2], store) == 0  # nothing was drawn


def test_another_judge_version_or_question_is_another_judgement(kept, monkeypatch):
    judge = Brightness()
    judge_images(judge, *kept)
    monkeypatch.setattr(judge, "identity", lambda: {"version": 2})
    judge_images(judge, *kept)
    assert judge.judged == 8


@pytest.mark.parametrize(
    "value",
    [3, {}, {"score": [1], "raw": None}, {"score": {}, "raw": None}, {"score": {"bright": "x", "even": 1}, "raw": None},
     {"score": {"bright": {}, "even": 1}, "raw": None},
     {"score": {"bright": 1, "even": 1}, "raw": {"num": "x", "failed": 3}}],
)  # fmt: skip
def test_a_damaged_judgement_is_made_again(tmp_path, value):
    store, judge = Store(tmp_path), Brightness()
    store.save_json("ab", value)
    assert read_judgement(store, "ab", judge.criteria) is None


def test_a_score_that_is_no_number_failed(kept, monkeypatch):
    items, images, store = kept
    judge = Brightness()
    monkeypatch.setattr(judge, "_judge", lambda image, item: Judgement({"bright": math.nan, "even": np.float32(1)}))
    for _ in range(2):  # made, then kept
        (judgement, *_), *_ = judge_images(judge, items, images, store, retry=False)
        assert judgement.score == {"bright": Failed("the score is nan"), "even": 1.0}
