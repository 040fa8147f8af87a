"""Adds up judgements of pairs: win rates, how often a judge contradicts itself, and how far judges agree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from leanlens.evaluate.judges.pairs import PairJudgement
from leanlens.evaluate.metric import Metric, mean_metric
from leanlens.score.protocol import Failed

Results = Sequence[float | Failed | None]
"""Of one judge, pair by pair: 1, 0.5 or 0; `Failed`; or None where it does not count."""


def win_metric(name: str, judged: Sequence[Sequence[PairJudgement]]) -> Metric:
    """The share of pairs that the first model wins, with ties as half; only results that count.

    Args:
        judged: for each prompt, the judgements of its pairs.
    """
    return mean_metric(name, [[one.result for one in row] for row in judged])


def flip_metric(name: str, judged: Sequence[Sequence[PairJudgement]]) -> Metric:
    """The share of pairs in which the judge contradicts itself when the images change places."""
    flips = [
        [one.result if isinstance(one.result, Failed) else float(one.result is None) for one in row] for row in judged
    ]
    return mean_metric(name, flips)


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree.

    Attributes:
        kappa: Cohen's, over win, tie and loss: 1 for full agreement, 0 for that of chance; nan where both always say
            the same one thing, or nothing was judged by both.
        share: of the pairs in which both say the same.
        num: pairs in which both have a result that counts.
    """

    kappa: float
    share: float
    num: int


def agreement(first: Results, second: Results) -> Agreement:
    """How far two judges of the same pairs agree, over those where both results count.

    Source: Cohen, A coefficient of agreement for nominal scales, 1960.

    Raises:
        ValueError: they differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"second has {len(second)} results for {len(first)} of the first: expected the same pairs")
    both = [(_verdict(a), _verdict(b)) for a, b in zip(first, second, strict=True) if _counts(a) and _counts(b)]
    if not both:
        return Agreement(math.nan, math.nan, 0)
    share = sum(a == b for a, b in both) / len(both)
    firsts, seconds = ([pair[side] for pair in both] for side in (0, 1))
    chance = sum(firsts.count(word) * seconds.count(word) for word in set(firsts)) / len(both) ** 2
    kappa = (share - chance) / (1 - chance) if chance < 1 else math.nan
    return Agreement(kappa, share, len(both))


def agreements(results: Mapping[str, Results]) -> dict[tuple[str, str], Agreement]:
    """The agreement of every two judges, people among them, by their names."""
    return {(one, other): agreement(results[one], results[other]) for one, other in combinations(results, 2)}


def majority(votes: Sequence[float]) -> float | None:
    """What most of some people say of a pair: 1, 0, or 0.5 for as many on either side; None without a vote."""
    return _verdict(sum(votes) / len(votes)) if votes else None


def _counts(value: float | Failed | None) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _verdict(value: float | Failed | None) -> float:
    """A result, which may be a mean of several, as a win, a tie or a loss."""
    if not isinstance(value, int | float):
        raise TypeError
    return 0.5 if value == 0.5 else float(value > 0.5)
