"""Checks voters by gold pairs and repeats, and measures how far they agree."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from leanlens.evaluate.bradley_terry import Ballot
from leanlens.evaluate.vote.votes import Vote

_CHANCE = 1 / 3  # how often a check is passed by clicking at random: between one of four buttons and one of two sides
_PRIOR = 0.1  # share of voters who click at random, before anything is known of them


@dataclass(frozen=True)
class Rater:
    """How a voter did on gold pairs and repeats.

    Attributes:
        num: votes, checks included.
        gold, golds: gold pairs answered right, and all of them.
        same, repeats: repeats answered as the first time, and all of them.
        failed: whether clicking at random explains these answers better than attention.
    """

    voter: str
    num: int
    gold: int
    golds: int
    same: int
    repeats: int
    failed: bool


def check_raters(votes: Sequence[Vote]) -> list[Rater]:
    """Every voter, in the order of their first votes.

    The probability that a voter clicks at random follows from the checks by Bayes' rule. An attentive voter passes them
    as often as all voters do; one who clicks passes a third, and a tenth of all are assumed to. More than a half fails.
    """
    by_voter: dict[str, list[Vote]] = defaultdict(list)
    for one in votes:
        by_voter[one.voter].append(one)
    checks = {voter: (_golds(rows), _repeats(rows)) for voter, rows in by_voter.items()}
    gold_rate, same_rate = (_rate(passed for one in checks.values() for passed in one[kind]) for kind in (0, 1))
    found = []
    for voter, (golds, repeats) in checks.items():
        odds = math.log((1 - _PRIOR) / _PRIOR) + _evidence(golds, gold_rate) + _evidence(repeats, same_rate)
        counts = (len(by_voter[voter]), sum(golds), len(golds), sum(repeats), len(repeats))
        found.append(Rater(voter, *counts, failed=odds < 0))
    return found


def _golds(votes: Iterable[Vote]) -> list[bool]:
    return [one.choice == one.answer for one in votes if one.kind == "gold"]


def _repeats(votes: Sequence[Vote]) -> list[bool]:
    first = {_subject(one): _preferred(one) for one in votes if one.kind == "pair"}
    again = [one for one in votes if one.kind == "repeat" and _subject(one) in first]
    return [_preferred(one) == first[_subject(one)] for one in again]


def _subject(vote: Vote) -> tuple[str, str, frozenset[str]]:
    """What a vote is about, whichever side the images are on."""
    return vote.question, vote.item, frozenset((vote.left_image, vote.right_image))


def _preferred(vote: Vote) -> str:
    """The image that was chosen, "tie" or "bad"."""
    return {"left": vote.left_image, "right": vote.right_image}.get(vote.choice, vote.choice)


def _rate(passed: Iterable[bool]) -> float:
    """The share of passed checks, never 0 or 1."""
    rows = list(passed)
    return (sum(rows) + 1) / (len(rows) + 2)


def _evidence(passed: Sequence[bool], rate: float) -> float:
    """The log odds of attention against clicking; none where all voters together pass no more often than by chance."""
    if rate <= _CHANCE:
        return 0.0
    return sum(math.log(rate / _CHANCE if one else (1 - rate) / (1 - _CHANCE)) for one in passed)


def ballots_of(votes: Iterable[Vote], question: str) -> list[Ballot]:
    """The votes on one question for a ranking: no repeats and no gold pairs; both bad is a tie."""
    return [
        Ballot(one.voter, one.item, one.left, one.right, "tie" if one.choice == "bad" else one.choice)
        for one in votes
        if one.kind == "pair" and one.question == question
    ]


@dataclass(frozen=True)
class Agreement:
    """How far different voters say the same of the same pair.

    Attributes:
        share: of the pairs of votes on one subject by two voters, those that say the same.
        alpha: Krippendorff's, which is 0 for chance and 1 for full agreement; nan where all votes are the same.
        num: pairs of votes.
    """

    share: float
    alpha: float
    num: int


def agreement_of(votes: Iterable[Vote], question: str) -> Agreement | None:
    """The agreement on a question, or None if no pair has votes of two voters (Krippendorff 2011, nominal data)."""
    by_subject: dict[tuple, list[str]] = defaultdict(list)
    for one in votes:
        if one.kind == "pair" and one.question == question:
            by_subject[_subject(one)].append(_side_of(one))
    shared = [rows for rows in by_subject.values() if len(rows) > 1]
    if not shared:
        return None
    pairs = [one == other for rows in shared for one, other in combinations(rows, 2)]
    total = sum(len(rows) for rows in shared)
    # Each subject weighs as many votes as it has, whatever their number of pairs.
    observed = sum(
        2 * sum(one != other for one, other in combinations(rows, 2)) / (len(rows) - 1) for rows in shared
    ) / total  # fmt: skip
    counts = Counter(one for rows in shared for one in rows)
    expected = 1 - sum(count * (count - 1) for count in counts.values()) / (total * (total - 1))
    return Agreement(sum(pairs) / len(pairs), 1 - observed / expected if expected else math.nan, len(pairs))


def _side_of(vote: Vote) -> str:
    """The choice as if the image whose name comes first were on the left."""
    if vote.left_image <= vote.right_image or vote.choice not in ("left", "right"):
        return vote.choice
    return "right" if vote.choice == "left" else "left"
