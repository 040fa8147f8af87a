import numpy as np
import pytest

pytest.importorskip("scipy")

from leanlens.evaluate.vote.summary import describe_votes, without_failing
from tests.evaluate.vote.test_raters import checks, vote


def test_the_summary_names_the_better_model_and_who_fails():
    lot = np.random.default_rng(0)
    votes = [
        vote("left" if lot.random() < 0.8 else "right", f"good{at % 9}", f"p{at}", swapped=False) for at in range(200)
    ]
    votes += [vote("left", "eve", "p0"), vote("bad", "eve", "p1"), vote("tie", "eve", "p2", question="looks")]
    votes += [one for at in range(9) for one in checks(f"good{at}", [True] * 3, [True] * 3)]
    votes += checks("clicker", [False] * 3, [False] * 3)
    text = describe_votes(votes)
    assert "Which image follows the prompt better?" in text
    assert "Which image looks better?" in text
    assert "1 both bad, counted as ties" in text
    assert "votes of 11 voters on" in text
    assert "Agreement: " in text
    assert "Gold pairs: 27 of 30 right. Repeats: 27 of 30 answered as the first time." in text
    assert "clicker fails the checks: 0 of 3 gold pairs right, 0 of 3 repeats the same, 9 votes" in text
    kept = without_failing(votes)
    assert {one.voter for one in votes} - {one.voter for one in kept} == {"clicker"}


def test_no_votes_are_an_error():
    with pytest.raises(ValueError, match="there are no votes"):
        describe_votes([])
