"""Computes rates with intervals from scores, and compares two ways of asking prompt by prompt."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from leanlens.evaluate.bootstrap import percentiles, resampled
from leanlens.score.protocol import Failed, Score

Z = 1.959964  # 95 %
MOST_FAILED = 0.05  # of the judgements of a suite: with more it is marked incomplete


@dataclass(frozen=True)
class Rate:
    """The share of `num` applicable prompts that fully meet a criterion, with its Wilson interval.

    Attributes:
        yes: number of prompts that meet it; a prompt with several seeds counts by the share of its images.
        mean: mean of the values, which includes partly met images.
        failed: number of images whose judgement failed, which is neither yes nor no. A prompt counts if one of its
            images was judged; if none was, `num` is 0 and the interval is 0..1.
    """

    yes: float
    num: int
    rate: float
    low: float
    high: float
    mean: float
    failed: int = 0


def wilson(yes: float, num: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share; within 0..1, and of positive width even at 0 or 1.

    Raises:
        ValueError: `num` is not positive, or `yes` is not between 0 and `num`.
    """
    if num < 1 or not 0 <= yes <= num:
        raise ValueError(f"invalid yes {yes} of num {num}: expected 0 <= yes <= num with num from 1")
    share = yes / num
    middle = (share + Z**2 / (2 * num)) / (1 + Z**2 / num)
    half = Z / (1 + Z**2 / num) * math.sqrt(share * (1 - share) / num + Z**2 / (4 * num**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def count_rates(scores: Sequence[Score], criteria: Sequence[str], num: int | None = None) -> dict[str, Rate | None]:
    """Criterion -> rate over the prompts it applies to, or None if it applies to none.

    Args:
        scores: scores ordered by prompt, then by seed.
        num: number of prompts; the default is one per score. The interval counts prompts, not images, because several
            seeds of one prompt are less informative than as many prompts.
    """
    num = len(scores) if num is None else num
    found: dict[str, Rate | None] = {}
    for criterion in criteria:
        met = [share for share in met_by_prompt(scores, criterion, num) if share is not None]
        failed = sum(isinstance(score[criterion], Failed) for score in scores)
        if not met:
            found[criterion] = Rate(0, 0, 0.0, 0.0, 1.0, 0.0, failed) if failed else None
            continue
        values = _judged(scores, criterion)
        yes = math.fsum(met) if any(share % 1 for share in met) else round(sum(met))
        low, high = wilson(yes, len(met))
        found[criterion] = Rate(yes, len(met), yes / len(met), low, high, sum(values) / len(values), failed)
    return found


def met_by_prompt(scores: Sequence[Score], criterion: str, num: int) -> list[float | None]:
    """The share of each prompt's judged images that fully meet a criterion; None if there are none.

    Raises:
        ValueError: the prompts do not have the same number of scores.
    """
    if num < 1 or len(scores) % num:
        raise ValueError(f"scores has {len(scores)} entries for {num} prompts: expected the same number for each")
    each, found = len(scores) // num, []
    for start in range(0, len(scores), each):
        values = _judged(scores[start : start + each], criterion)
        found.append(sum(value >= 1 for value in values) / len(values) if values else None)
    return found


def _judged(scores: Sequence[Score], criterion: str) -> list[float]:
    """The values of a criterion that are numbers."""
    return [value for score in scores if isinstance(value := score[criterion], int | float)]


@dataclass(frozen=True)
class Failures:
    """How many of the judgements of a suite failed, and why, the most frequent reason first."""

    failed: int
    num: int
    reasons: dict[str, int]

    @property
    def is_incomplete(self) -> bool:
        """Whether so many failed that the rates say little about the model."""
        return self.failed > MOST_FAILED * self.num


def count_failures(scores: Sequence[Score]) -> Failures:
    """The failures among all judgements; where a criterion does not apply there is none to fail."""
    values = [value for score in scores for value in score.values() if value is not None]
    reasons = Counter(value.reason for value in values if isinstance(value, Failed))
    return Failures(reasons.total(), len(values), dict(reasons.most_common()))


def rates_as_json(rates: Mapping[str, Rate | None]) -> dict[str, Any]:
    """JSON values, rounded to four digits."""
    return {
        name: None
        if rate is None
        else {key: round(value, 4) for key, value in asdict(rate).items() if key != "failed" or value}
        for name, rate in rates.items()
    }


def rates_from_json(rows: Mapping[str, Any]) -> dict[str, Rate | None]:
    """The inverse of `rates_as_json`."""
    return {name: None if row is None else Rate(**row) for name, row in rows.items()}


@dataclass(frozen=True)
class Difference:
    """The difference of two shares of prompts that meet a criterion, with its paired 95 % interval.

    Attributes:
        num: number of prompts that the criterion applies to in both.
    """

    mean: float
    low: float
    high: float
    num: int


def compare(
    first: Sequence[Score], second: Sequence[Score], criteria: Sequence[str], num: int, seed: int = 0
) -> dict[str, Difference | None]:
    """Criterion -> the second share minus the first, or None if it applies to no prompt in both.

    Args:
        num: number of prompts; both have the same number of scores for each.
        seed: seed of the bootstrap.
    """
    found: dict[str, Difference | None] = {}
    for criterion in criteria:
        before, after = (met_by_prompt(scores, criterion, num) for scores in (first, second))
        gains = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
        found[criterion] = _bootstrap(np.array(gains), seed) if gains else None
    return found


def _bootstrap(gains: np.ndarray, seed: int) -> Difference:
    low, high = percentiles(resampled(gains[:, None], seed=seed)[:, 0] / len(gains))
    return Difference(float(gains.mean()), low, high, len(gains))


def differences_as_json(differences: Mapping[str, Difference | None]) -> dict[str, Any]:
    """JSON values, rounded to four digits."""
    return {
        name: None if one is None else {key: round(value, 4) for key, value in asdict(one).items()}
        for name, one in differences.items()
    }


def differences_from_json(rows: Mapping[str, Any]) -> dict[str, Difference | None]:
    """The inverse of `differences_as_json`."""
    return {name: None if row is None else Difference(**row) for name, row in rows.items()}
