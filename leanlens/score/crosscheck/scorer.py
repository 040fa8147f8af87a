"""Scores scenes a second time, with other features, regions and training images than `score.scene`.

Whatever is tuned on one of the two is judged by the other. The criteria and what they ask are those of `score.scene`;
the names of colours and the geometry of relations are shared. Texts are not judged, because both would read them with
the same recogniser.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

import leanlens
from leanlens.scenes.icons import COLORS, Library
from leanlens.scenes.scene import GROUND_COLORS, PLAIN_COLORS, SKY_COLORS
from leanlens.scenes.sources import STYLES
from leanlens.score.crosscheck.compositions import SIGN
from leanlens.score.crosscheck.detection import Found, View, look_at
from leanlens.score.crosscheck.naming import Names, crosscheck_network, open_names
from leanlens.score.crosscheck.surround import Surround, to_lab
from leanlens.score.protocol import Score, require_same_length
from leanlens.score.relations import Box, holds

CRITERIA = (
    "background", "object", "two_objects", "more_objects", "count", "color", "color_binding", "position", "style",
)  # fmt: skip
TOGETHER = 32  # images judged at once
MIN_EXPLAINED = 0.6  # share of the rim that the estimated background explains
FITS, FITS_AS_WELL = 22.0, 7.0  # CIELAB distance of a background colour from its name, and from the nearest name's
COLOR_SHARE = 0.6  # of the likeliest colour's probability, from which another is true as well
STYLE_SHARE = 0.7  # the same for styles


class Crosscheck:
    """Judges images against truths; follows `protocol.Scorer`.

    Args:
        library: drawings that things are named after; a thing or style that it lacks is not judged.
        names: classifiers fitted to it; None opens or fits them.
        folder: cache of the classifiers.
    """

    name: str = "crosscheck"
    criteria: tuple[str, ...] = CRITERIA

    def __init__(self, library: Library, names: Names | None = None, folder: Path | None = None):
        self.network = crosscheck_network()
        self.names = names or open_names(library, self.network, folder)

    def identity(self) -> dict[str, str]:
        """What decides its scores besides images and truths: version, and checksums of the weights."""
        weights = {"network": self.network.fingerprint, "fit": self.names.fingerprint}
        return {"leanlens": leanlens.__version__, **weights}

    def __call__(
        self, images: list[Image.Image], prompts: list[str], truths: list[dict[str, Any]] | None = None
    ) -> list[Score]:
        """See `protocol.Scorer`; this scorer needs the truths.

        Raises:
            ValueError: truths are missing, or one names a colour, a background or a style that scenes do not have.
        """
        require_same_length(images, prompts, truths)
        if truths is None:
            raise ValueError("truths is missing: the second checker needs the truth of each image")
        scores: list[Score] = []
        for start in range(0, len(images), TOGETHER):
            chosen = truths[start : start + TOGETHER]
            things = [self._known_things(truth) for truth in chosen]
            wanted = [{thing.concept for thing in each} for each in things]
            views = look_at(
                [image.convert("RGB") for image in images[start : start + TOGETHER]], wanted, self.names, self.network
            )
            scores += [self._judge(*each) for each in zip(chosen, things, views, strict=True)]
        return scores

    def _known_things(self, truth: dict[str, Any]) -> "list[_Thing]":
        things = [_Thing(stated) for stated in truth.get("objects", [])]
        return [thing for thing in things if thing.concept in self.names.concepts]

    def _judge(self, truth: dict[str, Any], things: "list[_Thing]", view: View) -> Score:
        score: dict[str, float | None] = dict.fromkeys(CRITERIA)
        if truth.get("background"):
            score["background"] = float(_is_background(view.surround, truth["background"]))
        if not things:
            return score
        self._assign(things, view)
        if len(things) == len(truth["objects"]):
            score[{1: "object", 2: "two_objects"}.get(len(things), "more_objects")] = _share(
                bool(thing.seen) for thing in things
            )
        score["count"] = _share(len(thing.seen) == thing.count for thing in things if thing.count > 1)
        colored = [thing for thing in things if thing.color]
        right = [self._has_color(thing, view) for thing in colored]
        score["color"] = _share(right)
        if len({thing.color for thing in colored}) > 1:
            score["color_binding"] = _share(
                bool(thing.seen) and is_right for thing, is_right in zip(colored, right, strict=True)
            )
        boxes = {thing.id: thing.box() for thing in things}
        score["position"] = _share(
            holds(boxes[a], word, boxes[b]) for a, word, b in truth.get("relations", []) if a in boxes and b in boxes
        )
        score["style"] = self._judge_style(things, truth.get("style"))
        return score

    def _assign(self, things: "list[_Thing]", view: View) -> None:
        """Give every thing the boxes of its concept, by colour where two things share it; then what is left over."""
        for one in view.things:
            alike = [thing for thing in things if thing.concept == one.concept]
            if len(alike) > 1:
                odds = view.color_odds(self.names, one)
                alike.sort(key=lambda thing: -self._odds_of(thing.color, odds))
            if alike:
                alike[0].seen.append(one)
        for thing in things:
            rest = [one for one in view.boxes if not any(_touch(one, other) for all_ in things for other in all_.seen)]
            if not thing.seen and rest:
                at = self.names.concepts.index(thing.concept)
                thing.likeliest = max(rest, key=lambda one: float(one.by_concept[at]))

    def _odds_of(self, color: str | None, odds: np.ndarray) -> float:
        return float(odds[list(COLORS).index(color)]) if color in COLORS else float(odds.mean())

    def _has_color(self, thing: "_Thing", view: View) -> bool:
        """Whether most of a thing's boxes, up to the stated count, have its colour."""
        if thing.color not in COLORS:
            raise ValueError(f"invalid color {thing.color!r}: expected one of {', '.join(COLORS)}")
        boxes = thing.seen[: thing.count] or [one for one in [thing.likeliest] if one]
        at, right = list(COLORS).index(thing.color), 0
        for one in boxes:
            likely = softmax(view.color_odds(self.names, one))
            right += bool(likely[at] >= COLOR_SHARE * likely.max())
        return bool(boxes) and 2 * right > len(boxes)

    def _judge_style(self, things: "list[_Thing]", style: str | None) -> float | None:
        """The likeliest style over all the boxes of things that have more than one."""
        known = [one.name for one in STYLES]
        if style is not None and style not in known:
            raise ValueError(f"invalid style {style!r}: expected one of {', '.join(known)}")
        if style is None or style not in self.names.styles:
            return None
        places = [(thing, self.names.concepts.index(thing.concept)) for thing in things]
        styled = [(thing, at) for thing, at in places if self.names.drawn[at].any()]
        odds = [
            np.where(self.names.drawn[at], one.style_odds[at], -np.inf) for thing, at in styled for one in thing.seen
        ]
        if not odds:
            return 0.0 if styled else None
        mean = softmax(odds, axis=1).mean(axis=0)
        return float(mean[self.names.styles.index(style)] >= STYLE_SHARE * mean.max())


class _Thing:
    """A stated thing and the boxes that are taken for it."""

    def __init__(self, stated: dict[str, Any]):
        self.id: str = stated.get("id", stated["concept"])
        self.concept: str = SIGN if stated.get("category") == "sign" else stated["concept"]
        self.count = int(stated.get("count", 1))
        self.color: str | None = None if stated.get("color") in (None, "natural") else stated["color"]
        self.seen: list[Found] = []
        self.likeliest: Found | None = None

    def box(self) -> Box | None:
        """The box around its surest boxes, up to the stated count; None without any."""
        if not self.seen:
            return None
        boxes = np.array([one.box for one in self.seen[: self.count]], float)
        (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)


def _touch(one: Found, other: Found) -> bool:
    """Whether half of a box is covered by another."""
    a, b = one.box, other.box
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return 2 * max(0, width) * max(0, height) > (a[2] - a[0]) * (a[3] - a[1])


def _share(facts: Iterable[bool]) -> float | None:
    values = [bool(fact) for fact in facts]
    return sum(values) / len(values) if values else None


def _is_background(found: Surround, stated: dict[str, Any]) -> bool:
    """Whether the background has the stated kind and colours; the order of colours matters for ground and sky only."""
    tables = {"plain": (PLAIN_COLORS,), "ground": (GROUND_COLORS, SKY_COLORS)}
    accepted = tables.get(stated["kind"], (PLAIN_COLORS, PLAIN_COLORS))
    names = list(stated["colors"])
    if len(names) != len(accepted):
        raise ValueError(f"invalid background {stated}: expected {len(accepted)} colors for kind {stated['kind']}")
    for name, table in zip(names, accepted, strict=True):
        if name not in table:
            raise ValueError(f"invalid background color {name!r}: expected one of {', '.join(table)}")
    if found.kind != stated["kind"] or found.explained < MIN_EXPLAINED:
        return False
    orders = [found.colors] if found.kind in ("plain", "ground") else [found.colors, found.colors[::-1]]
    return any(
        all(_is_named(color, name, table) for color, name, table in zip(order, names, accepted, strict=True))
        for order in orders
    )


def _is_named(color: np.ndarray, name: str, table: dict[str, tuple[int, int, int]]) -> bool:
    """Whether a CIELAB colour is near a name, and no other name is much nearer."""
    palette = to_lab(np.array(list(table.values()), np.uint8))
    distances: Sequence[float] = np.linalg.norm(palette - color, axis=1).tolist()
    own = distances[list(table).index(name)]
    return own <= FITS and own <= min(distances) + FITS_AS_WELL
