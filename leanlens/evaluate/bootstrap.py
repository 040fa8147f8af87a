"""Resamples prompts with replacement, within their strata, and sums what each of them adds."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

RESAMPLES = 10_000
TAIL = 2.5  # percent on either side
SMALLEST_STRATUM = 20  # prompts: a resample of n prompts has (n - 1) / n of the variance
_CELLS = 250_000  # counts held at a time: 2 MB, which stay in the cache


def resampled(
    sums: np.ndarray, strata: Sequence[Hashable] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> np.ndarray:
    """The column sums of resamples of the rows.

    A stratum of n rows is drawn n times with replacement, so each row's number of times is multinomial. Columns share
    their resamples: what is compared stays paired.

    Args:
        sums: (N, K), what each prompt adds.
        strata: the stratum of each row; without it, and for strata of fewer than 20 rows, rows are drawn together.
        seed: the same seed, N and strata give the same resamples.

    Returns:
        (resamples, K) float64.

    Raises:
        ValueError: `strata` does not have an entry for each row, or there are no rows.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if not len(sums):
        raise ValueError("invalid sums: expected one row or more")
    if strata is not None and len(strata) != len(sums):
        raise ValueError(f"strata has {len(strata)} entries for {len(sums)} prompts: expected one per prompt")
    groups = _groups(strata) if strata is not None else [np.arange(len(sums))]
    counts = _counts(groups, len(sums), seed, resamples)
    return np.concatenate([one @ sums for one in counts])


def _counts(groups: list[np.ndarray], num: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How many times each row is drawn, (R, N) for some of the resamples at a time."""
    lot = np.random.default_rng(seed)
    step = max(1, _CELLS // num)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        counts = np.empty((rows, num))
        for group in groups:
            drawn = lot.integers(0, len(group), (rows, len(group))) + len(group) * np.arange(rows)[:, None]
            counts[:, group] = np.bincount(drawn.ravel(), minlength=rows * len(group)).reshape(rows, -1)
        yield counts


def _groups(strata: Sequence[Hashable]) -> list[np.ndarray]:
    """The rows of each stratum; the small ones together, with larger ones until they are no longer small."""
    places: dict[Hashable, list[int]] = {}
    for row, stratum in enumerate(strata):
        places.setdefault(stratum, []).append(row)
    pooled: list[int] = []
    groups: list[np.ndarray] = []
    for rows in sorted(places.values(), key=len):
        if len(rows) < SMALLEST_STRATUM or 0 < len(pooled) < SMALLEST_STRATUM:
            pooled += rows
        else:
            groups.append(np.array(rows))
    return [np.array(sorted(pooled)), *groups] if pooled else groups


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The bounds of the middle 95 % of (R,) values, without nans; nan where there is nothing else."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, (TAIL, 100 - TAIL))
    return float(low), float(high)
