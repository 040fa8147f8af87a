"""Samples a scene from a seed: a graph of things, counts, colours and relations, with every box in pixels.

layout.py decides the positions.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

from leanlens.scenes.icons import COLORS, Library
from leanlens.scenes.layout import PATTERNS, Background, Draft, Frame, Rules, Text, Unit, arrange
from leanlens.scenes.names import read_vocabulary

Size = int | tuple[int, int] | tuple[tuple[int, int], ...]
NO_RULES = Rules()
HELD_OUT = 5  # of 100 names, for concepts, coloured concepts, pairs and relations each
INVERSE = {"right of": "left of", "below": "above"}
MOST_ATTEMPTS = 1000
SQUARE_SHARE = 0.4  # of the canvases
UNITS = (1, 2, 3, 4, 5, 6), (36, 34, 15, 8, 4, 3)  # numbers of units in a scene, and their weights
# Units side by side -> pixels of the short side that each needs for the longest text it may have.
LEGIBLE_PIXELS = {1: 96, 2: 60, 3: 42}
CONTRAST = 95.0  # minimum distance of two colours that must be distinguishable; see `distance`

# Background colours: soft and dark ones, with names that captions use.
PLAIN_COLORS: dict[str, tuple[int, int, int]] = {
    "white": (252, 252, 252),
    "cream": (255, 247, 222),
    "beige": (232, 216, 188),
    "light grey": (216, 219, 223),
    "light blue": (190, 220, 246),
    "pale pink": (252, 216, 226),
    "mint green": (190, 236, 208),
    "lavender": (218, 206, 244),
    "pale yellow": (253, 241, 166),
    "peach": (254, 212, 176),
    "teal": (22, 118, 120),
    "navy blue": (24, 36, 86),
    "dark green": (22, 74, 48),
    "charcoal": (52, 55, 62),
    "maroon": (104, 24, 40),
    "dark purple": (62, 30, 92),
}
GROUND_COLORS: dict[str, tuple[int, int, int]] = {
    "green": (122, 186, 92),
    "sandy": (236, 208, 148),
    "brown": (158, 116, 78),
    "grey": (164, 168, 172),
    "snowy white": (240, 245, 250),
}
SKY_COLORS: dict[str, tuple[int, int, int]] = {
    "light blue": (178, 220, 250),
    "deep blue": (84, 140, 214),
    "pink": (250, 200, 214),
    "orange": (252, 190, 128),
    "navy blue": (30, 40, 92),
    "pale grey": (220, 226, 232),
}


@dataclass(frozen=True)
class Thing:
    """One node of the graph: `count` like objects.

    Attributes:
        color: name in COLORS, or None for the original colours.
        size: small, medium or large, relative to the canvas.
        frames: (x0, y0, x1, y1) in pixels of each object, rear ones first.
        boxes: the same for the visible part of each.
    """

    concept: str
    category: str
    color: str | None
    size: str
    frames: tuple[Frame, ...]
    boxes: tuple[Frame, ...]

    @property
    def count(self) -> int:
        return len(self.frames)

    @property
    def id(self) -> str:
        """Its name in the ground truth, unique in the scene, such as "red apple"."""
        return f"{self.color} {self.concept}" if self.color else self.concept


@dataclass(frozen=True)
class Scene:
    """Everything that determines an image. Things are drawn in order; relations contain indices of things."""

    seed: int
    width: int
    height: int
    style: str
    background: Background
    things: tuple[Thing, ...]
    relations: tuple[tuple[int, str, int], ...]
    texts: tuple[Text, ...]

    def truth(self) -> dict[str, Any]:
        """The ground truth as JSON values; boxes are [x0, y0, x1, y1], x1 and y1 just outside."""
        return {
            "canvas": [self.width, self.height],
            "style": self.style,
            "background": {"kind": self.background.kind, "colors": list(self.background.colors)},
            "objects": [
                {
                    "id": thing.id,
                    "concept": thing.concept,
                    "category": thing.category,
                    "count": thing.count,
                    "color": thing.color or "natural",
                    "size": thing.size,
                    "boxes": [list(box) for box in thing.boxes],
                }
                for thing in self.things
            ],
            "relations": [[self.things[a].id, word, self.things[b].id] for a, word, b in self.relations],
            "texts": [[text.string, list(text.box)] for text in self.texts],
        }


def sample_scene(
    seed: int, library: Library, split: str | None = None, size: Size = 256, rules: Rules = NO_RULES
) -> Scene:
    """The scene of a seed.

    Args:
        split: "train" has no held-out name, "test" has at least one, None allows any.
        size: base in pixels, for a canvas of about size x size area and any aspect from 1:2 to 2:1, or an exact
            (width, height) of at least 64, or several of these, one of which is chosen, the squarest most often.
        rules: constraints that make scenes easier to learn.

    Raises:
        ValueError: an invalid argument, or the library is too small for such a scene.
    """
    if split not in ("train", "test", None):
        raise ValueError(f"invalid split {split!r}: expected 'train', 'test' or None")
    canvas_rng = Random(f"canvas {seed}")
    width, height = _choose_canvas(size, canvas_rng)
    _check_rules(rules, min(width, height))
    wanted = canvas_rng.choices(*UNITS)[0]  # so that no split has larger scenes
    for attempt in range(MOST_ATTEMPTS):
        rng = Random(f"scene {seed} {attempt}")
        if rules.least and attempt:  # many things may not fit at this size
            wanted = rng.choices(*UNITS)[0]
        style = _choose_style(library, rng)
        arrangement, units = _sample_graph(library, style, (width, height), wanted, rng)
        if split is not None and _split_of_keys(graph_keys(units, link(arrangement, units))) != split:
            continue
        background = _choose_background(library, style, arrangement, units, rng)
        if rules.grid:
            background = _on_grid(background, rules.grid, width, height)
        frames, texts = arrange(units, arrangement, background, (width, height), library, style, rng, rules)
        if rules.least and _smallest(frames) < rules.least:
            continue
        relations = link(arrangement, units)
        return _assemble(seed, (width, height), style, background, units, frames, texts, relations, library)
    larger = f" with objects of {rules.least} pixels" if rules.least else ""
    raise ValueError(f"seed {seed} gave no {split} scene{larger} in {MOST_ATTEMPTS} tries; the library is too small")


def _check_rules(rules: Rules, short: int) -> None:
    if not 0 <= rules.least <= short // 2:
        raise ValueError(f"invalid least {rules.least}: expected 0 to half of the canvas's shorter side in pixels")
    if rules.most < 0 or 0 < rules.most < max(rules.least, 2 * rules.grid):
        raise ValueError(f"invalid most {rules.most}: expected 0, or pixels of at least `least` and twice `grid`")
    if not 0 <= rules.grid <= short // 4:
        raise ValueError(f"invalid grid {rules.grid}: expected 0 to a quarter of the canvas's shorter side in pixels")
    if rules.step < 0 or (rules.step and not rules.sizes):
        raise ValueError(f"invalid step {rules.step}: expected 0, or pixels with a multiple from `least` to `most`")


def _smallest(frames: list[list[Frame]]) -> int:
    """The longer side of the smallest object, pixels."""
    return min(max(x1 - x0, y1 - y0) for places in frames for x0, y0, x1, y1 in places)


def split_of(scene: Scene) -> str:
    """ "test" if any concept, coloured concept, related pair or relation of the scene is held out, else "train"."""
    drafts = [Draft(thing.concept, thing.category, thing.color, thing.count) for thing in scene.things]
    return _split_of_keys(_keys(drafts, list(scene.relations)))


@lru_cache(maxsize=200_000)
def is_held_out(key: str) -> bool:
    """Whether a name is held out for testing: a stable hash of it is among the first HELD_OUT of 100."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 100 < HELD_OUT


def graph_keys(units: list[Unit], relations: list[tuple[int, str, int]]) -> Iterator[str]:
    """Every name of a graph that may be held out."""
    return _keys([draft for unit in units for draft in unit.drafts], relations)


def _keys(drafts: list[Draft], relations: list[tuple[int, str, int]]) -> Iterator[str]:
    for draft in drafts:
        if draft.category not in ("shape", "support", "sign"):
            yield f"concept {draft.concept}"
        if draft.color and draft.category != "sign":
            yield f"color {draft.color} {draft.concept}"
    for a, word, b in relations:
        first, second = drafts[a].concept, drafts[b].concept
        yield "pair " + " + ".join(sorted((first, second)))
        if word in INVERSE:
            word, first, second = INVERSE[word], second, first
        yield f"relation {first} {word} {second}"


def _split_of_keys(keys: Iterator[str]) -> str:
    return "test" if any(map(is_held_out, keys)) else "train"


def link(arrangement: str, units: list[Unit]) -> list[tuple[int, str, int]]:
    """The relations of a graph, as (index of thing, word, index of thing)."""
    found, starts, count = [], [], 0
    for unit in units:
        starts.append(count)
        if unit.relation:
            found.append((count + 1, unit.relation, count))  # the second thing stands on, in or before the first
        count += len(unit.drafts)
    mains = [start + unit.main for start, unit in zip(starts, units, strict=True)]
    columns = {"row": len(units), "column": 1, "grid": math.ceil(len(units) / 2)}[arrangement]
    for at, unit in enumerate(units):
        if at % columns + 1 < columns and at + 1 < len(units):
            pair = (mains[at], "left of", mains[at + 1])
            found.append((pair[2], "right of", pair[0]) if unit.turned else pair)
        if at + columns < len(units) and (at % columns == 0 or arrangement == "column"):
            pair = (mains[at], "above", mains[at + columns])
            found.append((pair[2], "below", pair[0]) if unit.turned else pair)
    return found


def distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """Perceptual distance of two colours, 0 to about 650: the "redmean" weighting of the RGB channels."""
    mean = (one[0] + other[0]) / 2
    red, green, blue = (a - b for a, b in zip(one, other, strict=True))
    return math.sqrt((2 + mean / 256) * red**2 + 4 * green**2 + (2 + (255 - mean) / 256) * blue**2)


def _choose_canvas(size: Size, rng: Random) -> tuple[int, int]:
    if isinstance(size, tuple):
        several = bool(size) and isinstance(size[0], tuple)
        sizes: Any = size if several else (size,)
        for one in sizes:
            if not isinstance(one, tuple) or len(one) != 2 or min(one) < 64:
                raise ValueError(f"invalid size {one}: expected (width, height) of at least 64 pixels each")
        return _choose_among(sizes, rng) if several else sizes[0]
    if size < 64 or size % 16:
        raise ValueError(f"invalid size {size}: expected a multiple of 16 of at least 64")
    ratio = 1.0 if rng.random() < SQUARE_SHARE else 2 ** rng.uniform(-1, 1)
    width = max(64, round(size * math.sqrt(ratio) / 16) * 16)
    height = max(64, round(size / math.sqrt(ratio) / 16) * 16)
    return min(width, 2 * height), min(height, 2 * width)


def _choose_among(sizes: tuple[Any, ...], rng: Random) -> tuple[int, int]:
    squarest = min(sizes, key=lambda size: max(size) / min(size))
    return squarest if rng.random() < SQUARE_SHARE else rng.choice(sizes)


def _choose_style(library: Library, rng: Random) -> str:
    styles = list(library.styles)
    weights = [math.sqrt(len(library.bitmaps[style])) for style in styles]
    return rng.choices(styles, weights)[0]


def _sample_graph(
    library: Library, style: str, canvas: tuple[int, int], wanted: int, rng: Random
) -> tuple[str, list[Unit]]:
    """An arrangement and its units, at most six things in total, no two of which look alike."""
    beside = min(3, wanted)  # units that may share the short side
    legible = min(canvas) / beside >= LEGIBLE_PIXELS[beside]
    aspect = canvas[0] / canvas[1]
    units: list[Unit] = []
    taken: list[Draft] = []
    for _ in range(12):
        room = 6 - len(taken)
        if len(units) == wanted or room == 0:
            break
        unit = _sample_unit(library, style, wanted, room, legible, rng)
        if _are_distinct([*taken, *unit.drafts]):
            units.append(unit)
            taken += unit.drafts
    if len(units) >= 4:
        arrangement = "row" if aspect > 1.7 and len(units) == 4 else "grid"
    else:
        arrangement = "row" if rng.random() < aspect / (aspect + 0.8) else "column"
    return arrangement, units


def _are_distinct(drafts: list[Draft]) -> bool:
    """Whether like concepts have different colours, and there is at most one sign."""
    seen: dict[str, set[str | None]] = {}
    for draft in drafts:
        colors = seen.setdefault(draft.concept, set())
        if colors and (draft.category == "sign" or draft.color is None or None in colors or draft.color in colors):
            return False
        colors.add(draft.color)
    return True


def _sample_unit(library: Library, style: str, wanted: int, room: int, legible: bool, rng: Random) -> Unit:
    kinds = ("plain", "on", "inside", "front", "sign", "labelled")
    weights = (60, 12, 10, 8, 6, 7) if room > 1 else (90, 0, 0, 0, 10, 0)
    kind = rng.choices(kinds, weights)[0]
    if kind in ("sign", "labelled") and not legible:
        kind = "plain"
    turned = rng.random() < 0.4
    if kind == "sign":
        return Unit(kind, (_sample_sign("sign", rng),), turned=turned, text=_choose_text(wanted, rng))
    if kind == "plain":
        most = {1: 6, 2: 4, 3: 3}.get(wanted, 1)
        count = rng.randint(2, most) if most > 1 and rng.random() < 0.42 else 1
        return Unit(kind, (_sample_draft(library, style, rng, count),), turned=turned)
    one = _sample_draft(library, style, rng, 1)
    if kind == "labelled":
        label = _sample_sign("label", rng)
        return Unit(kind, (one, label), relation="below", turned=turned, text=_choose_text(wanted, rng))
    base = _sample_base(library, style, kind, one, rng)
    if base is None:
        return Unit("plain", (one,), turned=turned)
    word = {"on": "on", "inside": "inside", "front": "in front of"}[kind]
    return Unit(kind, (base, one), relation=word, main=1, turned=turned)


def _sample_draft(library: Library, style: str, rng: Random, count: int) -> Draft:
    concept = rng.choice(library.names[style])
    color = None
    if library.is_paintable(concept, style) and rng.random() < 0.55:
        color = rng.choice(list(COLORS))
    return Draft(concept, library.concepts[concept].category, color, count)


def _sample_base(library: Library, style: str, kind: str, one: Draft, rng: Random) -> Draft | None:
    """What `one` is on, in or in front of, in a contrasting colour; None if none was found."""
    for _ in range(8):
        if kind == "front":
            base = _sample_draft(library, style, rng, 1)
        elif kind == "on" and rng.random() < 0.45 and library.flat_topped[style]:
            concept = rng.choice(library.flat_topped[style])
            color = rng.choice(list(COLORS)) if library.is_paintable(concept, style) and rng.random() < 0.5 else None
            base = Draft(concept, library.concepts[concept].category, color, 1)
        else:
            kinds = "support" if kind == "on" else "shape"
            base = Draft(rng.choice(library.names[kinds]), kinds, rng.choice(list(COLORS)), 1)
        apart = distance(look(library, style, base), look(library, style, one))
        if base.concept != one.concept and (kind == "on" or apart > CONTRAST):
            return base
    return None


def _sample_sign(concept: str, rng: Random) -> Draft:
    return Draft(concept, "sign", rng.choice(list(COLORS)), 1)


def _choose_text(wanted: int, rng: Random) -> str:
    words = read_vocabulary()["texts"]["words"]
    if rng.random() < 0.12:
        return str(rng.randint(1, 999))
    longest = {1: 12, 2: 8}.get(wanted, 5)
    while True:
        word = rng.choice(words)
        if len(word) <= longest:
            return word


def look(library: Library, style: str, draft: Draft) -> tuple[int, int, int]:
    """The main colour of a thing."""
    if draft.color:
        return COLORS[draft.color]
    return library.find(draft.concept, style).facts.mean


def _choose_background(library: Library, style: str, arrangement: str, units: list[Unit], rng: Random) -> Background:
    """A background that contrasts with every thing; if none of twelve tries does, the best of them."""
    looks = [look(library, style, draft) for unit in units for draft in unit.drafts]
    best, best_contrast = None, -1.0
    for _ in range(12):
        background = _sample_background(arrangement, rng)
        contrast = min(distance(one, color) for one in looks for color in background.rgb)
        if contrast > best_contrast:
            best, best_contrast = background, contrast
        if contrast > CONTRAST:
            break
    assert best is not None
    return best


def _sample_background(arrangement: str, rng: Random) -> Background:
    kinds = ["plain", "gradient", "pattern"] + (["ground"] if arrangement == "row" else [])
    kind = rng.choices(kinds, [38, 20, 17, 40][: len(kinds)])[0]
    if kind == "ground":
        ground, sky = rng.choice(list(GROUND_COLORS)), rng.choice(list(SKY_COLORS))
        return Background(kind, (ground, sky), (GROUND_COLORS[ground], SKY_COLORS[sky]), rng.uniform(0.55, 0.72))
    first = rng.choice(list(PLAIN_COLORS))
    if kind == "plain":
        return Background(kind, (first,), (PLAIN_COLORS[first],))
    others = [
        name
        for name, color in PLAIN_COLORS.items()
        if name != first and distance(color, PLAIN_COLORS[first]) < (420 if kind == "gradient" else 260)
    ]
    second = rng.choice(others)
    kind = kind if kind == "gradient" else rng.choice(PATTERNS)
    return Background(
        kind, (first, second), (PLAIN_COLORS[first], PLAIN_COLORS[second]), rng.uniform(0.05, 0.11), rng.random() < 0.5
    )


def _on_grid(background: Background, grid: int, width: int, height: int) -> Background:
    """The background with its horizon or pattern step rounded to a multiple of `grid` pixels."""
    side = height if background.kind == "ground" else min(width, height)
    return replace(background, share=max(1, round(background.share * side / grid)) * grid / side)


def _assemble(
    seed: int,
    canvas: tuple[int, int],
    style: str,
    background: Background,
    units: list[Unit],
    frames: list[list[Frame]],
    texts: list[Text],
    relations: list[tuple[int, str, int]],
    library: Library,
) -> Scene:
    drafts = [draft for unit in units for draft in unit.drafts]
    covers = {b: a for a, word, b in relations if word == "in front of"}
    things = []
    for index, (draft, places) in enumerate(zip(drafts, frames, strict=True)):
        boxes = places
        if index in covers:
            boxes = [_seen_box(library, style, draft, places[0], drafts[covers[index]], frames[covers[index]][0])]
        span = max(max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in places) / min(canvas)
        size = "small" if span < 0.26 else "medium" if span < 0.48 else "large"
        things.append(Thing(draft.concept, draft.category, draft.color, size, tuple(places), tuple(boxes)))
    return Scene(seed, *canvas, style, background, tuple(things), tuple(relations), tuple(texts))


def _seen_box(library: Library, style: str, back: Draft, at: Frame, front: Draft, before: Frame) -> Frame:
    """The box of the part of `back` that is visible after `front` is drawn over it."""
    import numpy as np

    def alpha(draft: Draft, frame: Frame) -> np.ndarray:
        size = (frame[2] - frame[0], frame[3] - frame[1])
        return np.asarray(library.sprite(draft.concept, style, draft.color, size).getchannel("A"))

    seen = alpha(back, at) > 0
    x0, y0, x1, y1 = max(at[0], before[0]), max(at[1], before[1]), min(at[2], before[2]), min(at[3], before[3])
    if x0 < x1 and y0 < y1:
        opaque = alpha(front, before)[y0 - before[1] : y1 - before[1], x0 - before[0] : x1 - before[0]] == 255
        seen[y0 - at[1] : y1 - at[1], x0 - at[0] : x1 - at[0]] &= ~opaque
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return (
        at[0] + int(columns[0]), at[1] + int(rows[0]), at[0] + int(columns[-1]) + 1, at[1] + int(rows[-1]) + 1
    )  # fmt: skip
