"""Compares models prompt by prompt: differences with intervals, permutation tests and wins."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from leanlens.evaluate.bootstrap import RESAMPLES, percentiles, resampled
from leanlens.evaluate.metric import Metric, ratio
from leanlens.evaluate.rates import Z, wilson

_CELLS = 250_000  # swaps held at a time: 2 MB, which stay in the cache
_ROUNDING = 1e-10  # relative: sums in another order are equal


@dataclass(frozen=True)
class Comparison:
    """How a metric of a second model differs from that of a first, over the prompts that count for both.

    Attributes:
        difference: second minus first.
        low, high: percentile 95 % interval of a paired bootstrap over prompts.
        p: of a permutation test that swaps the two models' results of a prompt.
        p_holm: the same, adjusted for all comparisons that were made together.
        num: number of prompts that count for both.
        wins, ties, losses: prompts on which the second model is better, equal or worse.
    """

    first: str
    second: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    num: int
    wins: int
    ties: int
    losses: int
    p_holm: float = float("nan")

    def as_json(self) -> dict[str, Any]:
        """JSON values, rounded to six digits."""
        return {key: round(one, 6) if isinstance(one, float) else one for key, one in asdict(self).items()}


def compare_models(
    metrics: Mapping[str, Sequence[Metric]],
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    higher_is_better: bool = True,
) -> list[Comparison]:
    """Every pair of models in every metric that has a value for both, with p values adjusted for all of them.

    Args:
        metrics: name of a model -> its metrics, over the same prompts for all; the first of a pair is the earlier one.
        strata: the stratum of each prompt, such as its first category.
        seed: seed of the resamples and of the swaps.
    """
    found: list[Comparison] = []
    for first, second in combinations(metrics, 2):
        others = {metric.name: metric for metric in metrics[second]}
        for metric in metrics[first]:
            if metric.name in others:
                one = compare_metrics(metric, others[metric.name], strata, seed, higher_is_better)
                found += [replace(one, first=first, second=second)] if one else []
    adjusted = holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def compare_metrics(
    first: Metric,
    second: Metric,
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    higher_is_better: bool = True,
) -> Comparison | None:
    """One metric of two models, or None if no prompt counts for both.

    The formula is computed anew for both models in each resample of the prompts. A share that no resample changes, as
    where both models meet every prompt, has the interval of Tango 1998 (Statistics in Medicine 17, 891-908) for pairs
    that never differ, in place of one without width.

    Args:
        strata: the stratum of each prompt; resamples keep its number of prompts.

    Raises:
        ValueError: the metrics have another name, or other numbers of prompts or sums.
    """
    if first.name != second.name or first.sums.shape != second.sums.shape:
        raise ValueError(
            f"metric {first.name!r} of shape {first.sums.shape} cannot be compared with {second.name!r} of shape "
            f"{second.sums.shape}: expected one metric over the same prompts"
        )
    kept = (first.sums != 0).any(axis=1) & (second.sums != 0).any(axis=1)
    before, after = first.sums[kept], second.sums[kept]
    gain = _gain(first, before.sum(axis=0), after.sum(axis=0)) if kept.any() else np.nan
    if np.isnan(gain):
        return None
    groups = None if strata is None else [one for one, keep in zip(strata, kept, strict=True) if keep]
    low, high = _interval_of_difference(first, before, after, float(gain), groups, seed)
    p = _permutation_p(first, before, after, float(gain), seed)
    better = _signs(first, before, after) * (1 if higher_is_better else -1)
    wins, losses, judged = int((better > 0).sum()), int((better < 0).sum()), int((~np.isnan(better)).sum())
    num = int(kept.sum())
    return Comparison("", "", first.name, float(gain), low, high, p, num, wins, judged - wins - losses, losses)


def _gain(metric: Metric, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(..., K) sums of both models -> the difference of their values (...)."""
    return metric.formula(after) - metric.formula(before)


def _interval_of_difference(
    metric: Metric, before: np.ndarray, after: np.ndarray, gain: float, strata: list[Hashable] | None, seed: int
) -> tuple[float, float]:
    drawn = resampled(np.hstack([before, after]), strata, seed)
    low, high = percentiles(_gain(metric, *np.split(drawn, 2, axis=1)))
    if metric.unit == "share" and high - low < _ROUNDING:
        half = Z**2 / (len(before) + Z**2)
        return max(-1.0, gain - half), min(1.0, gain + half)
    return low, high


def _permutation_p(metric: Metric, before: np.ndarray, after: np.ndarray, gain: float, seed: int) -> float:
    """The share of random swaps of the two models' rows of a prompt that change the metric as much; both sides."""
    lot = np.random.default_rng((seed, 1))
    changes, step, extreme = after - before, max(1, _CELLS // len(before)), 0
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        swaps = np.unpackbits(lot.integers(0, 256, (rows, -(-len(before) // 8)), np.uint8), axis=1)[:, : len(before)]
        moved = swaps.astype(np.float64) @ changes
        found = np.abs(_gain(metric, before.sum(axis=0) + moved, after.sum(axis=0) - moved))
        extreme += int((found >= abs(gain) - _ROUNDING * max(1.0, abs(gain))).sum())
    return (1 + extreme) / (1 + RESAMPLES)


def _signs(metric: Metric, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(N,) the sign of each prompt's own difference; nan where the formula has no value for one prompt."""
    gains = _gain(metric, before, after)
    return np.where(np.abs(gains) < _ROUNDING, 0.0, np.sign(gains))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for making all of these tests (Holm 1979, Scandinavian Journal of Statistics 6, 65-70)."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = least
    return adjusted


def interval(metric: Metric, strata: Sequence[Hashable] | None = None, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of one model's value, or None where there is none.

    Wilson's for a share of prompts that each count as yes or no, and for any share of 0 or 1 that no resample changes;
    otherwise the percentile interval of a bootstrap over prompts.
    """
    value = metric.value
    kept = (metric.sums != 0).any(axis=1)
    num = int(kept.sum())
    if np.isnan(value):
        return None
    if metric.unit == "share" and _is_plain(metric, kept):
        return wilson(value * num, num)
    groups = None if strata is None else [one for one, keep in zip(strata, kept, strict=True) if keep]
    low, high = percentiles(metric.formula(resampled(metric.sums[kept], groups, seed)))
    if metric.unit == "share" and high - low < _ROUNDING and min(abs(value), abs(value - 1)) < _ROUNDING:
        return wilson(round(value) * num, num)
    return (low, high) if num > 1 else None


def _is_plain(metric: Metric, kept: np.ndarray) -> bool:
    """Whether the metric is the share of prompts that are met, each of which is met or not."""
    sums = metric.sums[kept]
    return metric.formula is ratio and bool((sums[:, 1] == 1).all() and np.isin(sums[:, 0], (0, 1)).all())
