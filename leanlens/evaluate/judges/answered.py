"""Adds up judgements of questions: shares of those that were answered, and how many failed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from leanlens.evaluate.metric import Metric, ratio
from leanlens.evaluate.rates import Failures
from leanlens.evaluate.suite import Item, Judgement
from leanlens.score.protocol import Failed


def question_failures(judgements: Iterable[Judgement]) -> Failures:
    """How many questions failed, of how many, and why.

    A judgement without questions in its `raw`, such as that of an image that could not be drawn, counts by the values
    of its score.
    """
    reasons: Counter[str] = Counter()
    num = 0
    for judgement in judgements:
        raw = judgement.raw
        if isinstance(raw, dict) and "num" in raw and "failed" in raw:
            reasons.update(raw["failed"].values())
            num += raw["num"]
            continue
        values = [value for value in judgement.score.values() if value is not None]
        reasons.update(value.reason for value in values if isinstance(value, Failed))
        num += len(values)
    return Failures(reasons.total(), num, dict(reasons.most_common()))


def all_met(judgement: Judgement) -> float | Failed | None:
    """1 where all questions about an image are met and 0 where one is not; `Failed` where that is not known."""
    raw = judgement.raw
    if not isinstance(raw, dict) or "met" not in raw:
        return next(iter(judgement.score.values()), None)
    if not all(raw["met"].values()):
        return 0.0
    return Failed(f"a question failed: {next(iter(raw['failed'].values()))}") if raw["failed"] else 1.0


def question_metric(
    name: str,
    items: Sequence[Item],
    judged: Sequence[Sequence[Judgement]],
    category: str | None = None,
    per_question: bool = False,
) -> Metric:
    """The share of questions that are met.

    Args:
        judged: for each item, the judgements of its images.
        category: only questions with this `"category"` in the item's truth count.
        per_question: every judged question counts once; otherwise every prompt does, with the mean over its images of
            the share of each image.

    `Metric.failed` is the number of questions that failed; an image that could not be drawn counts all of its own.
    """
    sums, failed = np.zeros((len(items), 2)), 0
    for row, (item, judgements) in enumerate(zip(items, judged, strict=True)):
        names = _names(item, category)
        shares = []
        for judgement in judgements:
            values = _values(judgement, names)
            failed += len(names) - len(values)
            if values and per_question:
                sums[row] += sum(values), len(values)
            elif values:
                shares.append(sum(values) / len(values))
        if shares:
            sums[row] = sum(shares) / len(shares), 1.0
    return Metric(name, sums, ratio, int((sums[:, 1] > 0).sum()), failed)


def question_categories(items: Sequence[Item]) -> list[str]:
    """The categories of the questions, in the order of their first appearance."""
    rows = [row for item in items for row in item.truth["questions"]]
    return [name for name in dict.fromkeys(str(row.get("category", "")) for row in rows) if name]


def _names(item: Item, category: str | None) -> list[str]:
    rows: list[dict[str, Any]] = item.truth["questions"]
    return [str(row["id"]) for row in rows if category is None or row.get("category", "") == category]


def _values(judgement: Judgement, names: Sequence[str]) -> list[float]:
    """The values of the questions that were judged."""
    values = judgement.raw.get("values", {}) if isinstance(judgement.raw, dict) else {}
    return [values[name] for name in names if name in values]
