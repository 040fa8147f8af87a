from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("scipy")

from leanlens.evaluate.bradley_terry import OUTCOMES, Ballot, fit, rank

STRENGTHS = {"good": 0.6, "fair": 0.1, "poor": -0.7}


def odds(left, right, bias=0.0, tie=-0.5):
    """By the formulas of Davidson and Beaver 1977, in their multiplicative form."""
    first, second, preference = np.exp(left), np.exp(right), np.exp(bias)
    shares = np.array(
        [np.sqrt(preference) * first, second / np.sqrt(preference), np.exp(tie) * np.sqrt(first * second)]
    )
    return shares / shares.sum()


def votes(num, lot, voters=40, prompts=50, bias=0.0, spread=0.0):
    """Votes of the model; each prompt shifts each model's strength by a normal number."""
    names = list(STRENGTHS)
    shift = lot.normal(0, spread, (prompts, len(names)))
    found = []
    for _ in range(num):
        left, right = lot.choice(len(names), 2, replace=False)
        prompt = int(lot.integers(prompts))
        shares = odds(*(STRENGTHS[names[at]] + shift[prompt, at] for at in (left, right)), bias)
        outcome = OUTCOMES[lot.choice(3, p=shares)]
        found.append(Ballot(f"v{lot.integers(voters)}", f"p{prompt}", names[left], names[right], outcome))
    return found


def test_strengths_bias_and_ties_are_recovered():
    counts = np.zeros((3, 3, 3))
    true = list(STRENGTHS.values())
    for left in range(3):
        for right in range(3):
            counts[left, right] = 0 if left == right else 1e6 * odds(true[left], true[right], bias=0.3)
    found = fit(counts.ravel(), 3)
    assert found == pytest.approx([*true, 0.3, -0.5], abs=1e-4)
    many = fit(np.stack([counts.ravel(), counts[::-1, ::-1].ravel()]), 3)
    assert many == pytest.approx(np.array([[*true, 0.3, -0.5], [*true[::-1], 0.3, -0.5]]), abs=1e-4)


def test_the_models_are_ranked_with_intervals():
    found = rank(votes(3000, np.random.default_rng(1), bias=0.4), resamples=200)
    assert [one.model for one in found.standings] == ["good", "fair", "poor"]
    assert [(one.best, one.worst) for one in found.standings] == [(1, 1), (2, 2), (3, 3)]
    assert all(one.low < one.strength < one.high for one in found.standings)
    assert all(one.win_low < one.win_rate < one.win_high for one in found.standings)
    assert found.left_low < 1 / (1 + np.exp(-0.4)) < found.left_high
    assert found.tie_share == pytest.approx(np.exp(-0.5) / (2 + np.exp(-0.5)), abs=0.03)
    assert sum(one.win_rate for one in found.standings) == pytest.approx(1.5)
    assert (found.num, found.voters, found.prompts) == (3000, 40, 50)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_most_intervals_hold_the_truth(spread):
    found = [rank(votes(600, np.random.default_rng(seed), spread=spread), resamples=60) for seed in range(12)]
    held = [one.low < STRENGTHS[one.model] < one.high for ranking in found for one in ranking.standings]
    assert np.mean(held) > 0.85
    assert np.mean([one.high - one.low for ranking in found for one in ranking.standings]) < 0.7


def test_few_votes_settle_no_order():
    found = rank(votes(12, np.random.default_rng(0)), resamples=100)
    assert all((one.best, one.worst) == (1, 3) for one in found.standings)


def test_votes_on_one_prompt_count_as_dependent():
    """The same number of votes on fewer prompts that differ says less."""
    widths = []
    for prompts in (6, 300):
        found = rank(votes(1500, np.random.default_rng(3), prompts=prompts, spread=1.0), resamples=200)
        widths.append(found.standings[0].high - found.standings[0].low)
    assert widths[0] > 2 * widths[1]


def test_repeating_every_voter_does_not_narrow_the_interval():
    """Ten times the same voter, who has seen the same prompts, says nothing new."""
    base = votes(200, np.random.default_rng(5), voters=20)
    once, tenfold = (rank(base * times, resamples=200).standings[0] for times in (1, 10))
    assert tenfold.high - tenfold.low > 0.8 * (once.high - once.low)


def test_a_model_that_wins_every_vote_has_a_finite_strength():
    every = [Ballot("v", f"p{at}", "a", "b", "left") for at in range(20)]
    found = rank(every, resamples=50)
    assert found.standings[0].model == "a"
    assert np.isfinite([found.standings[0].strength, found.standings[0].high, found.left_share]).all()


def test_the_same_votes_give_the_same_ranking():
    ballots = votes(100, np.random.default_rng(0))
    assert rank(ballots, 3, 50) == rank(ballots, 3, 50)


def test_invalid_votes_are_named():
    one = Ballot("v", "p", "a", "b", "left")
    with pytest.raises(ValueError, match="there are no votes"):
        rank([])
    with pytest.raises(ValueError, match="invalid outcome 'both bad': expected left, right, tie"):
        rank([replace(one, outcome="both bad")])
    with pytest.raises(ValueError, match="compares 'a' with itself"):
        rank([replace(one, right="a")])
