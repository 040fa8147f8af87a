"""Tells how far judges of pairs agree with people who voted on the same images."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from leanlens.evaluate.agreement import Agreement, agreement, majority
from leanlens.evaluate.vote.votes import Vote
from leanlens.score.protocol import Failed

QUESTION = "prompt"  # which image follows the prompt better: what judges of pairs are asked
_LEFT = {"left": 1.0, "right": 0.0, "tie": 0.5, "bad": 0.5}


def agreement_with_people(results: Mapping[str, Any], votes: Sequence[Vote]) -> dict[str, Agreement]:
    """Judge -> its agreement with the majority of the votes on the same two images.

    Args:
        results: of an evaluation, in the form of results.json.
    """
    said = _majorities(votes)
    judged: dict[str, list[float | Failed | None]] = defaultdict(list)
    people: dict[str, list[float | Failed | None]] = defaultdict(list)
    for item in results["items"]:
        for one in item.get("pairs", ()):
            files = [item["images"][one[side]][one["image"]]["file"] for side in ("first", "second")]
            result = one["result"]
            judged[one["judge"]].append(Failed(result["failed"]) if isinstance(result, dict) else result)
            people[one["judge"]].append(said.get((item["id"], *files)))
    return {judge: agreement(judged[judge], people[judge]) for judge in judged}


def describe_agreement(results: Mapping[str, Any], votes: Sequence[Vote]) -> str:
    """One line for each judge that judged pairs which people voted on; empty without any."""
    found = agreement_with_people(results, votes)
    return "".join(
        f"{judge} and people: the same in {100 * one.share:.0f}% of {one.num} pairs"
        f"{'' if math.isnan(one.kappa) else f', Cohen’s kappa {one.kappa:.2f}'}.\n"
        for judge, one in found.items()
        if one.num
    )


def _majorities(votes: Sequence[Vote]) -> dict[tuple[str, str, str], float | None]:
    """Item and two image files, in either order -> what most voters say of the first."""
    cast: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for vote in votes:
        if vote.kind == "pair" and vote.question == QUESTION:
            value = _LEFT[vote.choice]
            cast[vote.item, vote.left_image, vote.right_image].append(value)
            cast[vote.item, vote.right_image, vote.left_image].append(1 - value)
    return {pair: majority(values) for pair, values in cast.items()}
