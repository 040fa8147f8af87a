"""Scores how well an image shows what the ground truth of a scene states, one value per criterion.

A value is the share of the criterion's facts that hold. Truths have the form of `Scene.truth()`; any part may be
missing, and its criteria are then not judged. The judging shares no code with the drawing of scenes.

| criterion | applies to | asks |
|---|---|---|
| background | a stated background | is it of the stated kind, in the stated colours |
| object | one stated thing | is it there |
| two_objects | two | are they there |
| more_objects | three and more | are they there |
| count | things more than one of which are stated | are they as many as stated |
| color | things of a stated colour | has the region most like the thing that colour, whatever it shows |
| color_binding | two or more stated colours | is each thing there, and in its own colour |
| position | stated relations | do they hold between things that are there |
| style | a stated style | do the things that are there look most like drawings of that style |
| text | stated texts | are they written; needs the extra `ocr` |
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

import leanlens
from leanlens.scenes.icons import Library
from leanlens.scenes.sources import STYLES
from leanlens.score import ocr
from leanlens.score.colors import color_shares, has_color, is_background_color
from leanlens.score.detection import Detection, detect_things
from leanlens.score.features import SIGN, Gallery, open_gallery, picture_network
from leanlens.score.protocol import Score, require_same_length
from leanlens.score.regions import Backdrop, Region, estimate_backdrop, stands_out
from leanlens.score.relations import Box, holds

CRITERIA = (
    "background", "object", "two_objects", "more_objects", "count", "color", "color_binding", "position", "style",
    "text",
)  # fmt: skip
KNOWN_STYLES = tuple(style.name for style in STYLES)
STYLE_MARGIN = 0.02  # of probability; two icon sets draw some concepts alike
TOGETHER = 32  # images judged at once
MIN_EXPLAINED = 0.6  # share of the rim that the estimated background explains


class SceneScorer:
    """Judges pictures against truths; follows `protocol.Scorer`.

    Args:
        library: drawings that things are compared with; a thing or style that it lacks is not judged.
        gallery: its fitted classifier; None opens or fits it.
        read: recognises texts; if it returns None, `text` is not judged.
        folder: cache of the gallery.
    """

    name: str = "scene"
    criteria: tuple[str, ...] = CRITERIA

    def __init__(
        self,
        library: Library,
        gallery: Gallery | None = None,
        read: Callable[[Image.Image], list[str] | None] = ocr.read_texts,
        folder: Path | None = None,
    ):
        self.network = picture_network()
        self.gallery = gallery or open_gallery(library, self.network, folder)
        self.read = read

    def identity(self) -> dict[str, str]:
        """What decides its scores besides images and truths: version, and checksums of the weights."""
        weights = {"network": self.network.fingerprint, "fit": self.gallery.fingerprint}
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
            raise ValueError("truths is missing: the scene scorer needs the truth of each image")
        scores: list[Score] = []
        for start in range(0, len(images), TOGETHER):
            chosen = slice(start, start + TOGETHER)
            scores += self._judge_together([image.convert("RGB") for image in images[chosen]], truths[chosen])
        return scores

    def judge(self, image: Image.Image, truth: dict[str, Any]) -> Score:
        """The score of one image; `__call__` with several takes less time per image."""
        (score,) = self([image], [""], [truth])
        return score

    def _judge_together(self, images: list[Image.Image], truths: list[dict[str, Any]]) -> list[Score]:
        scores: list[dict[str, float | None]] = [dict.fromkeys(CRITERIA) for _ in images]
        known = [self._known_things(truth) for truth in truths]
        rows, pixels, masks = list[int](), list[np.ndarray](), list[np.ndarray]()
        for row, (image, truth, things) in enumerate(zip(images, truths, known, strict=True)):
            scores[row]["text"] = self._judge_texts(image, truth.get("texts", []))
            if not (things or truth.get("background")):
                continue
            backdrop = estimate_backdrop(np.asarray(image))
            if truth.get("background"):
                scores[row]["background"] = float(is_background(backdrop, truth["background"]))
            if things:
                rows.append(row)
                pixels.append(np.asarray(image))
                masks.append(stands_out(pixels[-1], backdrop))
        wanted = [{thing.concept for thing in known[row]} for row in rows]
        for row, seen in zip(rows, detect_things(pixels, masks, self.gallery, self.network, wanted), strict=True):
            scores[row] |= self._judge_things(known[row], seen, truths[row])
        return list(scores)

    def _known_things(self, truth: dict[str, Any]) -> "list[_Thing]":
        """The stated things that the gallery knows."""
        stated = [_Thing(stated) for stated in truth.get("objects", [])]
        return [thing for thing in stated if thing.concept in self.gallery.concepts]

    def _judge_things(
        self, things: "list[_Thing]", seen: list[Detection], truth: dict[str, Any]
    ) -> dict[str, float | None]:
        _attribute(things, seen)
        self._take_leftovers(things, seen)
        score: dict[str, float | None] = {}
        if len(things) == len(truth["objects"]):
            name = {1: "object", 2: "two_objects"}.get(len(things), "more_objects")
            score[name] = _share(bool(thing.seen) for thing in things)
        score["count"] = _share(len(thing.seen) == thing.count for thing in things if thing.count > 1)
        colored = [thing for thing in things if thing.color]
        right = [thing.has_color() for thing in colored]
        score["color"] = _share(right)
        if len({thing.color for thing in colored}) > 1:
            score["color_binding"] = _share(
                thing.seen and is_right for thing, is_right in zip(colored, right, strict=True)
            )
        by_id = {thing.id: thing for thing in things}
        score["position"] = _share(
            holds(by_id[a].box(), word, by_id[b].box())
            for a, word, b in truth.get("relations", [])
            if a in by_id and b in by_id
        )
        score["style"] = self._judge_style(things, truth.get("style"))
        return score

    def _take_leftovers(self, things: "list[_Thing]", seen: list[Detection]) -> None:
        """Give a thing without a detection the most similar region that no other thing has, to judge its colour."""
        used = {id(one) for thing in things for one in thing.seen}
        for thing in things:
            rest = [one for one in seen if id(one) not in used]
            if thing.seen or not rest:
                continue
            at = self.gallery.concepts.index(thing.concept)
            thing.likeliest = max(rest, key=lambda one: float(one.by_concept[at]))
            used.add(id(thing.likeliest))

    def _judge_style(self, things: "list[_Thing]", style: str | None) -> float | None:
        """Nearest style, over all things there that have more than one."""
        if style is not None and style not in KNOWN_STYLES:
            raise ValueError(f"invalid style {style!r}: expected one of {', '.join(KNOWN_STYLES)}")
        if style is None or style not in self.gallery.styles:
            return None
        styled = [
            thing for thing in things if self.gallery.concepts.index(thing.concept) in self.gallery.drawings[:, 0]
        ]
        odds = [one.style_odds[self.gallery.concepts.index(thing.concept)] for thing in styled for one in thing.seen]
        if not odds:
            return 0.0 if styled else None
        mean = softmax(odds, axis=1).mean(axis=0)
        return float(mean[self.gallery.styles.index(style)] >= mean.max() - STYLE_MARGIN)

    def _judge_texts(self, image: Image.Image, texts: Sequence[Sequence[Any]]) -> float | None:
        if not texts:
            return None
        found = self.read(image)
        return None if found is None else float(np.mean([ocr.likeness(text[0], found) for text in texts]))


class _Thing:
    """A stated thing and the detections assigned to it."""

    def __init__(self, stated: dict[str, Any]):
        self.id: str = stated.get("id", stated["concept"])
        self.concept: str = SIGN if stated.get("category") == "sign" else stated["concept"]
        self.count = int(stated.get("count", 1))
        color = stated.get("color")
        self.color: str | None = None if color in (None, "natural") else color
        self.seen: list[Detection] = []
        self.likeliest: Detection | None = None

    def has_color(self) -> bool:
        """Whether most of its detections have its colour; only the most certain ones, up to the stated count."""
        regions = [one.region for one in self.seen[: self.count] or filter(None, [self.likeliest])]
        right = [has_color(_visible(region), str(self.color)) for region in regions]
        return bool(right) and 2 * sum(right) > len(right)

    def box(self) -> Box | None:
        """The box around its most certain detections, up to the stated count; None without any."""
        if not self.seen:
            return None
        boxes = np.array([one.region.box for one in self.seen[: self.count]])
        x0, y0 = boxes[:, :2].min(axis=0)
        x1, y1 = boxes[:, 2:].max(axis=0)
        return (float(x0), float(y0), float(x1), float(y1))


def _attribute(things: list[_Thing], seen: list[Detection]) -> None:
    """Assign to every thing the detections of its concept; two things of one concept are told apart by colour."""
    for thing in things:
        thing.seen = []
    for one in filter(lambda detection: detection.is_certain, seen):
        alike = [thing for thing in things if thing.concept == one.concept]
        if len(alike) > 1:
            shares = color_shares(_visible(one.region))
            alike.sort(key=lambda thing: -shares.get(thing.color or "", 0.0))
        if alike:
            alike[0].seen.append(one)


def _visible(region: Region) -> np.ndarray:
    return region.pixels[region.mask]


def _share(facts: Any) -> float | None:
    values = [bool(fact) for fact in facts]
    return sum(values) / len(values) if values else None


def is_background(found: Backdrop, stated: dict[str, Any]) -> bool:
    """Whether an estimated background has the stated kind and colours. The direction of a gradient and the order of a
    pattern's colours do not matter, since a truth does not state them."""
    kind, names = stated["kind"], stated["colors"]
    if found.kind != kind or found.inliers < MIN_EXPLAINED:
        return False
    if len(found.colors) != len(names):
        raise ValueError(f"invalid background {stated}: expected {len(found.colors)} colors for kind {kind}")
    orders = [found.colors] if kind in ("plain", "ground") else [found.colors, found.colors[::-1]]
    return any(
        all(is_background_color(color, names[at], kind, at) for at, color in enumerate(order)) for order in orders
    )
