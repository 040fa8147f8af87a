"""Scores to rates with their intervals, and rates to tables.

Comes in: scores, one per picture. Goes out: a `Rate` per criterion, Markdown. Knows nothing of pictures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leanlens.score.protocol import Score

Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Rate:
    """How many of `num` pictures that a criterion applies to meet it in full, and the Wilson interval of that share.

    Attributes:
        mean: of the values, parts of a picture's facts counted.
    """

    yes: int
    num: int
    rate: float
    low: float
    high: float
    mean: float


def wilson(yes: int, num: int) -> tuple[float, float]:
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


def count_rates(scores: Sequence[Score], criteria: Sequence[str]) -> dict[str, Rate | None]:
    """Criterion -> rate over the pictures it applies to, or None where it applies to none."""
    found: dict[str, Rate | None] = {}
    for criterion in criteria:
        values = [value for score in scores if (value := score[criterion]) is not None]
        if not values:
            found[criterion] = None
            continue
        yes = sum(value >= 1 for value in values)
        low, high = wilson(yes, len(values))
        found[criterion] = Rate(yes, len(values), yes / len(values), low, high, sum(values) / len(values))
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


def render_table(rows: Mapping[str, Mapping[str, Rate | None]], fid: Mapping[str, float | None] | None = None) -> str:
    """Markdown: a line per criterion, a column per row of results: rate, interval and how many pictures it is of.

    Args:
        rows: name of a column -> rates.
        fid: name of a column -> distance, for a last line; left out without any number.
    """
    criteria = list(dict.fromkeys(name for rates in rows.values() for name in rates))
    lines = [f"| criterion | {' | '.join(rows)} |", f"|---|{'---|' * len(rows)}"]
    for criterion in criteria:
        cells = [_cell(rates.get(criterion)) for rates in rows.values()]
        lines.append(f"| {criterion.replace('_', ' ')} | {' | '.join(cells)} |")
    if fid and any(value is not None for value in fid.values()):
        cells = ["" if fid.get(name) is None else f"{fid[name]:.1f}" for name in rows]
        lines.append(f"| FID (fid-helper) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.rate:.2f} ({rate.low:.2f} to {rate.high:.2f}) of {rate.num}"
