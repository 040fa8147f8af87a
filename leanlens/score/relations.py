"""Decides from two boxes whether one thing is left of, above, on, inside or in front of another."""

from collections.abc import Callable

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


def holds(a: Box | None, word: str, b: Box | None) -> bool:
    """Whether a relation holds between two boxes; False if one of them is missing.

    Raises:
        ValueError: an unknown word.
    """
    tests: dict[str, Callable[[Box, Box], bool]] = {
        "left of": lambda a, b: _middle(a)[0] < _middle(b)[0] and a[2] < b[2] and a[0] < b[0],
        "right of": lambda a, b: tests["left of"](b, a),
        "above": lambda a, b: _middle(a)[1] < _middle(b)[1] and a[3] < b[3] and a[1] < b[1],
        "below": lambda a, b: tests["above"](b, a),
        "on": lambda a, b: _across(a, b) > 0.5 and abs(a[3] - b[1]) < 0.25 * (a[3] - a[1]) and a[1] < b[1],
        "inside": lambda a, b: _covered(a, b) > 0.85 and _covered(b, a) < 0.85,
        "in front of": lambda a, b: _covered(a, b) > 0.3 and a[3] >= b[3] - 0.15 * (b[3] - b[1]),
    }
    if word not in tests:
        raise ValueError(f"invalid relation {word!r}: expected one of {', '.join(tests)}")
    return a is not None and b is not None and tests[word](a, b)


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _across(a: Box, b: Box) -> float:
    """Share of the width of a that lies over b."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) / (a[2] - a[0])


def _covered(a: Box, b: Box) -> float:
    """Share of the area of a that lies inside b."""
    return _across(a, b) * max(0.0, min(a[3], b[3]) - max(a[1], b[1])) / (a[3] - a[1])
