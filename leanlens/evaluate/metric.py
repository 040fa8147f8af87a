"""Metrics in a form that can be resampled: what each prompt adds to some sums, and a formula of these sums.

N prompts, K sums. Every mean, mean of category means, micro average and product of them has this form, so one bootstrap
recomputes the official aggregate of any suite.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from leanlens.score.protocol import Failed


@dataclass(frozen=True)
class Metric:
    """A number of a suite.

    Attributes:
        name: such as "overall" or "counting".
        sums: (N, K) float64, what each prompt adds; a row of zeros for a prompt that does not count.
        formula: sums over prompts (..., K) -> values (...), float64; nan where nothing was counted.
        num: how many prompts count.
        failed: how many judgements failed, which the sums leave out.
        unit: "share" of 1, shown as percent, or "" for other numbers.
    """

    name: str
    sums: np.ndarray
    formula: Callable[[np.ndarray], np.ndarray] = field(compare=False)
    num: int
    failed: int = 0
    unit: str = "share"

    @property
    def value(self) -> float:
        """The number itself; nan where nothing was counted."""
        return float(self.formula(self.sums.sum(axis=0)))


def ratio(sums: np.ndarray) -> np.ndarray:
    """(..., 2) sums of numerators and denominators -> their quotient, nan where the denominator is 0."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] != 0)


def mean_of_ratios(sums: np.ndarray) -> np.ndarray:
    """(..., 2 G) numerators and denominators of G groups in turns -> the mean of the groups' quotients, without groups
    that have none."""
    return np.asarray(_nanmean(ratio(sums.reshape(*sums.shape[:-1], -1, 2))))


def _nanmean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis without nans; nan where there is nothing else, without a warning."""
    there = ~np.isnan(values)
    total, count = np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count != 0)


Values = Sequence[Sequence[float | Failed | None]]
"""The values of each prompt's images: a number, `Failed`, or None where the criterion does not apply."""


def mean_metric(name: str, values: Values, per_image: bool = False, unit: str = "share") -> Metric:
    """The mean of a criterion.

    Args:
        per_image: every judged image counts once; otherwise every prompt does, with the mean of its judged images.
    """
    sums = np.array([_sums_of(row, per_image) for row in values], dtype=np.float64).reshape(-1, 2)
    failed = sum(isinstance(value, Failed) for row in values for value in row)
    return Metric(name, sums, ratio, int((sums[:, 1] > 0).sum()), failed, unit)


def group_metric(
    name: str, values: Values, groups: Sequence[str], per_image: bool = False, unit: str = "share"
) -> Metric:
    """The unweighted mean of the means of the groups, one of which each prompt belongs to."""
    parts = [_sums_of(row, per_image) for row in values]
    names = list(dict.fromkeys(groups))
    sums = np.zeros((len(parts), 2 * len(names)))
    for row, (part, group) in enumerate(zip(parts, groups, strict=True)):
        at = 2 * names.index(group)
        sums[row, at : at + 2] = part
    failed = sum(isinstance(value, Failed) for row in values for value in row)
    return Metric(name, sums, mean_of_ratios, sum(part[1] > 0 for part in parts), failed, unit)


Counts = Sequence[Sequence[Sequence[float] | Failed | None]]
"""What each prompt's images add to the K sums of a metric: K numbers, `Failed`, or None where it does not apply."""


def count_metric(
    name: str,
    counts: Counts,
    formula: Callable[[np.ndarray], np.ndarray] = ratio,
    size: int = 2,
    unit: str = "share",
) -> Metric:
    """A formula of counts over all judged images, such as a micro average: all matched words / all words.

    Args:
        formula: as in `Metric`; by default the quotient of two counts.
        size: K, the number of counts of an image.
    """
    judged = [[one for one in row if one is not None and not isinstance(one, Failed)] for row in counts]
    sums = np.array([np.sum(row, axis=0) if row else np.zeros(size) for row in judged], np.float64).reshape(-1, size)
    failed = sum(isinstance(one, Failed) for row in counts for one in row)
    return Metric(name, sums, formula, sum(map(bool, judged)), failed, unit)


def _sums_of(row: Sequence[float | Failed | None], per_image: bool) -> tuple[float, float]:
    judged = [value for value in row if isinstance(value, int | float)]
    if not judged:
        return 0.0, 0.0
    return (sum(judged), len(judged)) if per_image else (sum(judged) / len(judged), 1.0)
