"""Computes the layout of a scene: a frame in pixels for each object and a position for each text.

The canvas is divided into slots, one per unit, in a row, a column or a grid of two rows. Everything in a unit stays
inside its slot, so that relations between units hold by construction.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from PIL import ImageFont

from leanlens.scenes.icons import COLORS, Library
from leanlens.scenes.shapes import CONTAINERS

Frame = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 just outside
Slot = tuple[float, float, float, float]
FONTS = Path(__file__).parent / "fonts"
FONT_NAMES = ("fredoka", "inter", "press-start-2p", "roboto-slab")
CAPITAL_FONTS = ("bebas-neue", "permanent-marker")  # these draw lower-case letters as capitals
PATTERNS = ("dots", "stripes", "checks")  # kinds of background with two alternating colours
MIN_FONT_SIZE = 11  # pixels; smaller text is not legible


@dataclass(frozen=True)
class Background:
    """kind: plain, gradient, ground, dots, stripes or checks. `share` is the position of the horizon for ground, as a
    share of the canvas from the top, and the step for patterns; `turned` swaps the direction of a gradient or of
    stripes."""

    kind: str
    colors: tuple[str, ...]
    rgb: tuple[tuple[int, int, int], ...]
    share: float = 0.0
    turned: bool = False


@dataclass(frozen=True)
class Rules:
    """Constraints that make scenes easier to learn. Sizes are in pixels; 0 turns a rule off.

    Attributes:
        least, most: bounds of the longer side of every object; drawn shapes and supports may be larger. On a small
            canvas, `least` limits scenes to a few objects, each as large as on a larger canvas.
        grid: corners and longer sides of most objects, horizons and pattern steps are multiples of it. An icon then
            looks alike to an autoencoder with patches of that size wherever it is.
        step: the longer sides of most objects are multiples of it instead, uniformly where they fit; a single object
            has one of the larger half. This leaves even fewer variants of an icon.
        tidy: objects are centred in their free space. A dense caption then almost determines the scene.
        facts_first: probability, from 0 to 1, that a dense caption starts with the facts; see `describe.dense`.
    """

    least: int = 0
    most: int = 0
    grid: int = 0
    step: int = 0
    tidy: bool = False
    facts_first: float = 0.0

    @property
    def sizes(self) -> range:
        """The longer sides that `step` allows, pixels."""
        return range(-(-max(self.least, self.step) // self.step) * self.step, self.most + 1, self.step)


@dataclass(frozen=True)
class Draft:
    """A thing before it has a position."""

    concept: str
    category: str
    color: str | None
    count: int


@dataclass(frozen=True)
class Unit:
    """The content of a slot: one thing, or two in a relation, the rear one first. `main` is the index of the one that
    other units relate to; `turned` inverts the relation to the next unit, as from "left of" to "right of"."""

    kind: str
    drafts: tuple[Draft, ...]
    relation: str = ""
    main: int = 0
    turned: bool = False
    text: str = ""


@dataclass(frozen=True)
class Text:
    """A string on thing number `on`: its ink box, and the font, size, origin and colour to draw it with."""

    string: str
    box: Frame
    on: int
    font: str
    font_size: int
    origin: tuple[int, int]
    ink: tuple[int, int, int]


@lru_cache(maxsize=512)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of the package at a size in pixels."""
    return ImageFont.truetype(FONTS / f"{name}.woff", size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=2048)
def measure_ink(name: str, size: int, string: str) -> Frame:
    """(left, top, right, bottom) of the ink of a string, in pixels from its origin."""
    mask, (x, y) = load_font(name, size).getmask2(string)
    left, top, right, bottom = mask.getbbox()
    return (left + x, top + y, right + x, bottom + y)


def arrange(
    units: list[Unit],
    arrangement: str,
    background: Background,
    canvas: tuple[int, int],
    library: Library,
    style: str,
    rng: Random,
    rules: Rules,
) -> tuple[list[list[Frame]], list[Text]]:
    """Frames of each thing, things in the order of the units, and the texts."""
    ground = background.kind == "ground"
    frames: list[list[Frame]] = []
    texts: list[Text] = []
    place = _Placing(library, style, rng, min(canvas), ground, rules)
    for unit, slot in zip(units, _cut_slots(len(units), arrangement, canvas, background, rng), strict=True):
        if unit.text:
            placed, text = place.with_text(unit, slot, len(frames))
            texts.append(text)
        else:
            placed = {"plain": place.plain, "on": place.on, "inside": place.inside, "front": place.front}[unit.kind](
                unit, slot
            )
        frames += placed
    return frames, texts


def _cut_slots(
    count: int, arrangement: str, canvas: tuple[int, int], background: Background, rng: Random
) -> list[Slot]:
    width, height = canvas
    margin, gap = 0.05 * min(canvas), 0.035 * min(canvas)
    bottom = height - margin
    if background.kind == "ground":
        floor = background.share * height
        bottom = floor + (height - floor) * rng.uniform(0.45, 0.8)
    columns = {"row": count, "column": 1, "grid": math.ceil(count / 2)}[arrangement]
    rows = math.ceil(count / columns)
    step_x, step_y = (width - 2 * margin + gap) / columns, (bottom - margin + gap) / rows
    slots = []
    for index in range(count):
        x, y = margin + step_x * (index % columns), margin + step_y * (index // columns)
        slots.append((x, y, x + step_x - gap, y + step_y - gap))
    return slots


class _Placing:
    """Places the units of one scene. `short` is the canvas's short side in pixels; with `ground`, things stand on the
    bottom of their slot."""

    def __init__(self, library: Library, style: str, rng: Random, short: int, ground: bool, rules: Rules) -> None:
        self.library, self.style, self.rng, self.short, self.ground = library, style, rng, short, ground
        self.grid, self.most, self.step = rules.grid, rules.most, rules.step or rules.grid
        self.sizes = rules.sizes if rules.step else None
        self.tidy = rules.tidy

    def plain(self, unit: Unit, slot: Slot) -> list[list[Frame]]:
        draft = unit.drafts[0]
        width, height = slot[2] - slot[0], slot[3] - slot[1]
        columns = self._choose_columns(draft.count, width, height)
        rows = math.ceil(draft.count / columns)
        step_x, step_y = width / columns, height / rows
        wanted = self._wanted(draft.count)
        w, h = self._fit(draft, min(wanted, step_x * 0.93), min(wanted, step_y * 0.93))
        frames = []
        for index in range(draft.count):
            x = slot[0] + step_x * (index % columns)
            y = slot[1] + step_y * (index // columns)
            if index // columns == rows - 1:  # the last row may be short: centre it
                x += step_x * (columns * rows - draft.count) / 2
            frames.append(self._loose(x, y, x + step_x, y + step_y, w, h))
        return [frames]

    def on(self, unit: Unit, slot: Slot) -> list[list[Frame]]:
        base, top = unit.drafts
        width, height = slot[2] - slot[0], slot[3] - slot[1]
        reach = self.short * self.rng.uniform(0.6, 0.85)
        base_w, base_h = self._fit(base, min(width * 0.95, reach), min(height * 0.5, reach))
        top_w, top_h = self._fit(top, base_w * self.rng.uniform(0.5, 0.85), min(height - base_h, reach * 0.7) * 0.97)
        bx, by, *_ = self._loose(slot[0], slot[1] + top_h, slot[2], slot[3], base_w, base_h)
        play = (base_w - top_w) / 2
        tx = round(bx + play + play * self._somewhere(-0.6, 0.6))
        if self.grid:
            tx = self._on_grid(tx, bx, bx + base_w - top_w)
        return [[(bx, by, bx + base_w, by + base_h)], [(tx, by - top_h, tx + top_w, by)]]

    def inside(self, unit: Unit, slot: Slot) -> list[list[Frame]]:
        base, held = unit.drafts
        side = min(slot[2] - slot[0], slot[3] - slot[1]) * self.rng.uniform(0.8, 0.99)
        w, h = self._fit(base, side, side)
        room = CONTAINERS[base.concept][1] * self.rng.uniform(0.75, 0.98)
        held_w, held_h = self._fit(held, w * room, h * room)
        x, y, *_ = self._loose(*slot, w, h)
        hx, hy = x + (w - held_w) // 2, y + (h - held_h) // 2
        return [[(x, y, x + w, y + h)], [(hx, hy, hx + held_w, hy + held_h)]]

    def front(self, unit: Unit, slot: Slot) -> list[list[Frame]]:
        back, fore = unit.drafts
        width, height = slot[2] - slot[0], slot[3] - slot[1]
        reach = self.short * self.rng.uniform(0.6, 0.8)
        w, h = self._fit(back, min(width * 0.8, reach), min(height * 0.82, reach))
        fore_w, fore_h = self._fit(fore, w * 0.62, h * 0.55)
        drop = round(fore_h * self._somewhere(0.1, 0.3))
        x, y, *_ = self._loose(slot[0], slot[1], slot[2], slot[3] - drop, w, h)
        fx = round(x + (w - fore_w) * self.rng.choice((self._somewhere(0.0, 0.3), self._somewhere(0.7, 1.0))))
        fy = y + h - fore_h + drop
        return [[(x, y, x + w, y + h)], [(fx, fy, fx + fore_w, fy + fore_h)]]

    def with_text(self, unit: Unit, slot: Slot, first: int) -> tuple[list[list[Frame]], Text]:
        """A sign on its own, or a thing with a label below it; `first` is the index of the unit's first thing."""
        draft = unit.drafts[-1]
        if unit.kind == "sign":
            height = (slot[3] - slot[1]) * 0.62
            board, text = self._board(unit.text, slot, height, first, draft)
            x0, y0, x1, y1 = board
            post = round((y1 - y0) * self.rng.uniform(0.35, 0.6)) if self.ground or self.rng.random() < 0.4 else 0
            post = min(post, int(slot[3] - slot[1] - (y1 - y0)))
            room = slot[3] - slot[1] - (y1 - y0) - post
            down = round(slot[1] + room * (1.0 if self.ground else self.rng.uniform(0.3, 0.7))) - y0
            return [[(x0, y0 + down, x1, y1 + down + post)]], _moved(text, down)
        floor = slot[3] - max((slot[3] - slot[1]) * 0.28, 2.2 * MIN_FONT_SIZE)
        thing = self.plain(Unit("plain", unit.drafts[:1]), (slot[0], slot[1], slot[2], floor))
        label = (slot[0], floor, slot[2], slot[3])
        board, text = self._board(unit.text, label, (slot[3] - floor) * 0.9, first + 1, draft)
        down = round(thing[0][0][3] + 0.02 * self.short) - board[1]
        down = max(thing[0][0][3] - board[1], min(down, int(slot[3]) - board[3]))
        moved = (board[0], board[1] + down, board[2], board[3] + down)
        return [*thing, [moved]], _moved(text, down)

    def _board(self, string: str, slot: Slot, tallest: float, on: int, draft: Draft) -> tuple[Frame, Text]:
        """The frame of a board at the top of the slot, centred, and the text on it."""
        capitals = string == string.upper()
        name = self.rng.choice(FONT_NAMES + CAPITAL_FONTS if capitals else FONT_NAMES)
        widest = slot[2] - slot[0]
        left, top, right, bottom = measure_ink(name, 100, string)
        largest = min(widest * 0.8 / (right - left), tallest * 0.62 / (bottom - top), 0.0024 * self.short) * 100
        if largest < MIN_FONT_SIZE:
            name = "bebas-neue" if capitals else "fredoka"  # the narrowest
            left, top, right, bottom = measure_ink(name, 100, string)
            largest = min(widest * 0.88 / (right - left), tallest * 0.8 / (bottom - top)) * 100
        size = max(MIN_FONT_SIZE, int(largest * self.rng.uniform(0.75, 1.0)))
        left, top, right, bottom = measure_ink(name, size, string)
        pad_x, pad_y = max(4, round(size * 0.3)), max(4, round(size * 0.26))
        width, height = right - left + 2 * pad_x, bottom - top + 2 * pad_y
        x = round(slot[0] + (widest - width) / 2)
        y = round(slot[1])
        box = (x + pad_x, y + pad_y, x + pad_x + right - left, y + pad_y + bottom - top)
        color = COLORS[draft.color or "white"]
        bright = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] > 140
        ink = (24, 24, 28) if bright else (250, 250, 250)
        origin = (box[0] - left, box[1] - top)
        return (x, y, x + width, y + height), Text(string, box, on, name, size, origin, ink)

    def _somewhere(self, low: float, high: float) -> float:
        """A share of the free space from `low` to `high`: random, or the middle if `tidy`."""
        share = self.rng.uniform(low, high)
        return (low + high) / 2 if self.tidy else share

    def _wanted(self, count: int) -> float:
        """Longest side in pixels of one of `count` objects."""
        if self.sizes:  # a single object has one of the larger sizes
            return self.rng.choice(self.sizes[len(self.sizes) // 2 :] if count == 1 else self.sizes) + 1.0
        low, high = {1: (0.3, 0.8), 2: (0.28, 0.5), 3: (0.24, 0.42)}.get(count, (0.2, 0.34))
        return self.short * self.rng.uniform(low, high)

    def _fit(self, draft: Draft, width: float, height: float) -> tuple[int, int]:
        if self.most and draft.category not in ("shape", "support"):
            width, height = min(width, self.most + 0.5), min(height, self.most + 0.5)
        size = self.library.fit(draft.concept, self.style, max(8.0, width), max(8.0, height))
        longest = max(size)
        if not self.step or longest < max(2 * self.grid, self.step):
            return size
        whole = longest // self.step * self.step + 0.01  # rounded down, so that it still fits
        return self.library.fit(draft.concept, self.style, min(size[0] + 1, whole), min(size[1] + 1, whole))

    def _loose(self, x0: float, y0: float, x1: float, y1: float, w: int, h: int) -> Frame:
        """A frame of w x h near the centre of a cell, or on its bottom with `ground`."""
        x = round(x0 + (x1 - x0 - w) * self._somewhere(0.25, 0.75))
        y = round(y0 + (y1 - y0 - h) * (1.0 if self.ground else self._somewhere(0.25, 0.75)))
        if self.grid:
            x, y = self._on_grid(x, x0, x1 - w), self._on_grid(y, y0, y1 - h)
        return (x, y, x + w, y + h)

    def _on_grid(self, at: int, low: float, high: float) -> int:
        """The multiple of the grid nearest to `at` between `low` and `high`, or `at` if there is none."""
        first, last = math.ceil(low / self.grid), math.floor(high / self.grid)
        return at if first > last else min(max(round(at / self.grid), first), last) * self.grid

    def _choose_columns(self, count: int, width: float, height: float) -> int:
        if self.ground:
            return count
        best = max(range(1, count + 1), key=lambda columns: min(width / columns, height / math.ceil(count / columns)))
        return best


def _moved(text: Text, down: int) -> Text:
    x0, y0, x1, y1 = text.box
    moved = (x0, y0 + down, x1, y1 + down)
    return Text(
        text.string, moved, text.on, text.font, text.font_size, (text.origin[0], text.origin[1] + down), text.ink
    )
