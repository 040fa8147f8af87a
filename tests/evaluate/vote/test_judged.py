import pytest

from leanlens.evaluate.vote.judged import agreement_with_people, describe_agreement
from leanlens.evaluate.vote.votes import Vote


def vote(item, choice, swapped=False, kind="pair", question="prompt", voter="v"):
    files = [f"images/{item}-{name}.png" for name in ("a", "b")]
    models = ["a", "b"]
    if swapped:
        files, models = files[::-1], models[::-1]
    return Vote("t", voter, question, kind, item, *models, *files, choice, "", 1.0, "now")


def results(*given):
    """Results in which one judge compares the images of a and b, item by item."""
    items = [
        {
            "id": str(at),
            "images": {name: [{"file": f"images/{at}-{name}.png"}] for name in ("a", "b")},
            "pairs": [{"judge": "mock", "first": "a", "second": "b", "image": 0, "result": result}],
        }
        for at, result in enumerate(given)
    ]
    return {"items": items}


def test_a_judge_is_compared_with_the_majority():
    votes = [
        vote("0", "left"),
        vote("1", "left", swapped=True),  # b
        vote("1", "right"),  # b
        vote("1", "left"),  # a
        vote("2", "bad"),
        vote("3", "left"),
        vote("4", "left"),
        vote("0", "right", kind="repeat"),
        vote("0", "right", question="looks"),
    ]
    found = agreement_with_people(results(1.0, 0.0, 0.5, 0.0, None, {"failed": "late"}), votes)
    assert (found["mock"].num, found["mock"].share) == (4, 0.75)
    assert found["mock"].kappa == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    text = describe_agreement(results(1.0, 0.0, 0.5, 0.0), votes)
    assert text == "mock and people: the same in 75% of 4 pairs, Cohen’s kappa 0.64.\n"


def test_without_pairs_or_votes_there_is_nothing_to_tell():
    assert describe_agreement(results(1.0), []) == ""
    assert describe_agreement({"items": [{"id": "0", "images": {}}]}, [vote("0", "left")]) == ""
