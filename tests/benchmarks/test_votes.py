"""The simulation of voters in a short version: what it simulates has the properties that it states."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import votes

        yield votes
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_simulated_voters_click_and_prefer_the_left_as_stated(bench):
    votes, clickers = bench.simulate(bench.Study(voters=60, prompts=40, pairs=20), 0)
    assert len(clickers) == 6
    kinds = [one.kind for one in votes]
    assert (kinds.count("pair"), kinds.count("repeat"), kinds.count("gold")) == (1200, 120, 60)
    golds = [one for one in votes if one.kind == "gold" and one.voter not in clickers]
    right = [one.choice == one.answer for one in golds]
    assert 0.85 < sum(right) / len(right) < 1  # "left" whatever is shown, in a tenth
    assert all(one.choice in (one.answer, "left") for one in golds)
    clicks = [one.choice for one in votes if one.voter in clickers]
    assert 0.15 < clicks.count("bad") / len(clicks) < 0.35
    pairs = [one.choice for one in votes if one.kind == "pair" and one.voter not in clickers]
    assert 0.05 < (pairs.count("left") - pairs.count("right")) / len(pairs) < 0.15
    assert {one.left for one in votes} == set(bench.STRENGTHS)


def test_the_true_order_of_simulated_votes_lies_within_the_intervals(bench):
    found = bench.measure(bench.Study(voters=60, prompts=60), 3, 60, 0)
    assert found["true order within the intervals"]["share"] == 1.0
    assert found["left image on equal images"] > 0.5


def test_the_stored_result_is_what_is_claimed():
    stored = json.loads((ROOT / "benchmarks" / "results" / "votes.json").read_text())["votes"]
    found = stored["400 voters of 20 pairs"]
    assert found["true order within the intervals"]["share"] >= 0.95
    assert found["pairs of models told apart"] > 0.5  # the intervals are not wide enough to hold any order
