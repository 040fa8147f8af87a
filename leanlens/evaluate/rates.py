"""Computes rates with intervals from scores, and compares two ways of asking prompt by prompt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from leanlens.score.protocol import Score

Z = 1.959964  # 95 %
RESAMPLES = 10_000
TAIL = 2.5  # percent on either side


@dataclass(frozen=True)
class Rate:
    """How many of `num` prompts that a criterion applies to are met in full, and the Wilson interval of that share.

    Attributes:
        yes: of a prompt that was drawn with several seeds, the share of its pictures.
        mean: of the values, parts of a picture's facts counted.
    """

    yes: float
    num: int
    rate: float
    low: float
    high: float
    mean: float


def wilson(yes: float, num: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score; within 0..1, and not of zero width at 0 or 1.

    Raises:
        ValueError: `num` is not positive, or `yes` not within it.
    """
    if num < 1 or not 0 <= yes <= num:
        raise ValueError(f"yes {yes} of num {num} is not accepted; give 0 <= yes <= num with num from 1")
    share = yes / num
    middle = (share + Z**2 / (2 * num)) / (1 + Z**2 / num)
    half = Z / (1 + Z**2 / num) * math.sqrt(share * (1 - share) / num + Z**2 / (4 * num**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def count_rates(scores: Sequence[Score], criteria: Sequence[str], num: int | None = None) -> dict[str, Rate | None]:
    """Criterion -> rate over the prompts it applies to, or None where it applies to none.

    Args:
        scores: prompt by prompt, and seed by seed of each.
        num: how many prompts; one for each score without it. The interval counts prompts, not pictures: the seeds of a
            prompt say less than as many prompts would.
    """
    num = len(scores) if num is None else num
    found: dict[str, Rate | None] = {}
    for criterion in criteria:
        met = [share for share in met_by_prompt(scores, criterion, num) if share is not None]
        if not met:
            found[criterion] = None
            continue
        values = [value for score in scores if (value := score[criterion]) is not None]
        yes = math.fsum(met) if any(share % 1 for share in met) else round(sum(met))
        low, high = wilson(yes, len(met))
        found[criterion] = Rate(yes, len(met), yes / len(met), low, high, sum(values) / len(values))
    return found


def met_by_prompt(scores: Sequence[Score], criterion: str, num: int) -> list[float | None]:
    """The share of each prompt's pictures that meet a criterion in full; None where it does not apply.

    Raises:
        ValueError: the prompts do not have as many scores each.
    """
    if num < 1 or len(scores) % num:
        raise ValueError(f"scores has {len(scores)} entries for {num} prompts; give as many for each")
    each, found = len(scores) // num, []
    for start in range(0, len(scores), each):
        values = [value for score in scores[start : start + each] if (value := score[criterion]) is not None]
        found.append(sum(value >= 1 for value in values) / len(values) if values else None)
    return found


def rates_as_json(rates: Mapping[str, Rate | None]) -> dict[str, Any]:
    """JSON values, rounded to four digits."""
    return {
        name: None if rate is None else {key: round(value, 4) for key, value in asdict(rate).items()}
        for name, rate in rates.items()
    }


def rates_from_json(rows: Mapping[str, Any]) -> dict[str, Rate | None]:
    """The inverse of `rates_as_json`."""
    return {name: None if row is None else Rate(**row) for name, row in rows.items()}


@dataclass(frozen=True)
class Difference:
    """How much larger the share of prompts that meet a criterion is, with its paired 95 % interval.

    Attributes:
        num: prompts that the criterion applies to both times.
    """

    mean: float
    low: float
    high: float
    num: int


def compare(
    first: Sequence[Score], second: Sequence[Score], criteria: Sequence[str], num: int, seed: int = 0
) -> dict[str, Difference | None]:
    """Criterion -> the second's share less the first's, or None where it applies to no prompt in both.

    Args:
        num: how many prompts; both have as many scores for each.
        seed: of the bootstrap.
    """
    found: dict[str, Difference | None] = {}
    for criterion in criteria:
        before, after = (met_by_prompt(scores, criterion, num) for scores in (first, second))
        gains = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
        found[criterion] = _bootstrap(np.array(gains), seed) if gains else None
    return found


def _bootstrap(gains: np.ndarray, seed: int) -> Difference:
    lot = np.random.default_rng(seed)
    means = gains[lot.integers(0, len(gains), (RESAMPLES, len(gains)))].mean(axis=1)
    low, high = np.percentile(means, (TAIL, 100 - TAIL))
    return Difference(float(gains.mean()), float(low), float(high), len(gains))


def differences_as_json(differences: Mapping[str, Difference | None]) -> dict[str, Any]:
    """JSON values, rounded to four digits."""
    return {
        name: None if one is None else {key: round(value, 4) for key, value in asdict(one).items()}
        for name, one in differences.items()
    }


def differences_from_json(rows: Mapping[str, Any]) -> dict[str, Difference | None]:
    """The inverse of `differences_as_json`."""
    return {name: None if row is None else Difference(**row) for name, row in rows.items()}
