"""Decides from the detections of an image whether it shows what a GenEval prompt asks for.

Source: `evaluate_images.py` of GenEval. A detection is `{"class", "score", "box": [x0, y0, x1, y1]}` with `"colors"`
(colour -> how well it fits) where the prompt states the colour of its class.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MIN_SCORE = 0.3  # a detection counts above this
MIN_SCORE_COUNTING = 0.9  # the same for prompts tagged "counting"
MOST_BOXES = 16  # per class, the most certain first; boxes that overlap all count
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
SLACK = 0.1  # share of both sizes that the centres may differ by without a relation
MIN_SHARE = 0.5  # of the distance between the centres, for a direction to hold

Detection = Mapping[str, Any]


def judge_detections(detections: Sequence[Detection], asked: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether the image is correct, and in a few words each why not.

    Args:
        asked: a row of GenEval's metadata: `tag`, `include` (clauses with `class`, `count`, and `color` or `position`)
            and `exclude` (clauses with `class` and `count`).

    Raises:
        ValueError: a detection is not of the form above, or lacks the colours that are needed.
    """
    found = kept_detections(detections, MIN_SCORE_COUNTING if asked["tag"] == "counting" else MIN_SCORE)
    groups: list[Sequence[Detection] | None] = []
    reasons = []
    for clause in asked.get("include", ()):
        boxes = found.get(clause["class"], [])[: clause["count"]]
        reason = _unmet(clause, boxes, groups)
        groups.append(None if reason else boxes)
        reasons += [reason] if reason else []
    for clause in asked.get("exclude", ()):
        num = len(found.get(clause["class"], []))
        if num >= clause["count"]:
            reasons.append(f"{clause['class']}: {num} found, fewer than {clause['count']} asked for")
    return not reasons, reasons


def kept_detections(detections: Sequence[Detection], min_score: float) -> dict[str, list[Detection]]:
    """Class -> the detections that count, the most certain first; of equal ones, the later first.

    Raises:
        ValueError: a detection is not of the form above.
    """
    found: dict[str, list[Detection]] = {}
    for one in detections:
        _require_form(one)
        if one["score"] > min_score:
            found.setdefault(one["class"], []).append(one)
    ordered = {name: sorted(group, key=lambda one: one["score"])[::-1] for name, group in found.items()}
    return {name: group[:MOST_BOXES] for name, group in ordered.items()}


def relations(first: Sequence[float], second: Sequence[float]) -> set[str]:
    """Where the first box lies from the second: "left of", "right of", "above", "below", two of them, or none."""
    offsets, rests = [], []
    for axis in (0, 1):
        offset = (first[axis] + first[axis + 2] - second[axis] - second[axis + 2]) / 2
        sizes = abs(first[axis + 2] - first[axis]) + abs(second[axis + 2] - second[axis])
        offsets.append(offset)
        rests.append(math.copysign(max(abs(offset) - SLACK * sizes, 0.0), offset))
    if all(abs(rest) < 1e-3 for rest in rests):
        return set()
    x, y = (rest / math.hypot(*offsets) for rest in rests)
    holds = {"left of": x < -MIN_SHARE, "right of": x > MIN_SHARE, "above": y < -MIN_SHARE, "below": y > MIN_SHARE}
    return {name for name, does in holds.items() if does}


def _unmet(clause: Mapping[str, Any], boxes: Sequence[Detection], groups: Sequence[Sequence[Detection] | None]) -> str:
    """Why a clause is not met; "" where it is. `groups` has the boxes of each earlier clause, None for unmet ones."""
    name, count = clause["class"], clause["count"]
    if len(boxes) < count:
        return f"{name}: {len(boxes)} found, {count} asked for"
    if "color" in clause:
        seen = [_color(one) for one in boxes]
        if seen.count(clause["color"]) < count:
            return f"{name}: {clause['color']} asked for, seen as {', '.join(seen)}"
    if "position" in clause:
        word, target = clause["position"]
        others = groups[target]
        if others is None:
            return f"{name}: nothing to be {word}"
        for one in boxes:
            for other in others:
                held = relations(one["box"], other["box"])
                if word not in held:
                    return (
                        f"{name}: {word} the {other['class']} asked for, found {' and '.join(sorted(held)) or 'none'}"
                    )
    return ""


def _color(one: Detection) -> str:
    """The colour that fits best; of equal ones, the first of COLORS."""
    colors = one.get("colors")
    if not isinstance(colors, dict) or not colors or not set(colors) <= set(COLORS):
        known = ", ".join(COLORS)
        raise ValueError(f"invalid colors {colors!r} of a detected {one['class']}: expected values of {known}")
    return max((name for name in COLORS if name in colors), key=colors.__getitem__)


def _require_form(one: Any) -> None:
    try:
        fits = isinstance(one["class"], str) and len(one["box"]) == 4
        fits = fits and all(math.isfinite(number) for number in (one["score"], *one["box"]))
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f"invalid detection {str(one)[:80]}: expected class, score and box with four numbers")
