"""Chooses what a prompt leaves open from the seed: background, style, sizes and positions.

Choices never contradict the prompt. The defaults are what the model draws best: a light plain background with enough
contrast, large things, no overlap.
"""

from dataclasses import dataclass, replace
from random import Random

from leanlens.reason.looks import contrasts
from leanlens.reason.meaning import Backdrop, Meaning, Noun
from leanlens.scenes.scene import PLAIN_COLORS

LIGHT = (
    "white",
    "cream",
    "light grey",
    "light blue",
    "pale pink",
    "mint green",
    "lavender",
    "pale yellow",
    "peach",
    "beige",
)
STYLES = {"fluent-emoji-flat": 4, "fluent-3d": 4, "twemoji": 2, "noto": 1}  # style -> weight
LARGE_UNITS = 2  # up to this many places, a single thing is large
PLAIN_SKIES = {
    "light blue": "light blue", "deep blue": "navy blue", "pink": "pale pink", "orange": "peach",
    "navy blue": "navy blue", "pale grey": "light grey",
}  # fmt: skip
SIDES = 3  # columns and rows of the positions that a prompt may give
ATTACHED = ("on", "inside", "in front of")  # relations of things that share a position
SIDE_CELLS = {
    "left": (-1, None), "right": (1, None), "top": (None, -1), "bottom": (None, 1), "centre": (0, 0),
    "upper left": (-1, -1), "upper right": (1, -1), "lower left": (-1, 1), "lower right": (1, 1),
}  # fmt: skip


class Contradiction(ValueError):
    """Raised if no arrangement satisfies the relations."""


@dataclass(frozen=True)
class Placed:
    """A thing with all choices made. `x` and `y` are its centre as fractions of the canvas."""

    noun: Noun
    count: int
    size: str
    x: float
    y: float
    arrangement: str = ""  # of several: "row", "column" or "group"

    @property
    def place(self) -> str:
        """The position by thirds of the canvas, in the words of dense captions."""
        column, row = min(2, int(3 * self.x)), min(2, int(3 * self.y))
        return (
            ("in the upper left", "at the top", "in the upper right"),
            ("on the left", "in the centre", "on the right"),
            ("in the lower left", "at the bottom", "in the lower right"),
        )[row][column]


@dataclass(frozen=True)
class _Grid:
    """The grid of positions. `several`: a position has several like things; `said`: the arrangement in the prompt."""

    columns: int
    rows: int
    units: int
    several: bool
    said: str | None


@dataclass(frozen=True)
class Plan:
    """Everything that the caption will state.

    Attributes:
        order: indices of the things in the order of the caption: by position; supports and containers come first.
    """

    things: tuple[Placed, ...]
    order: tuple[int, ...]
    relations: tuple[tuple[int, str, int], ...]
    background: Backdrop
    style: str


def choose(meaning: Meaning, seed: int, width: int, height: int) -> Plan:
    """Make all open choices.

    Raises:
        Contradiction: the relations cannot all be satisfied.
    """
    style_rng, rng = Random(f"style {seed}"), Random(f"places {seed}")
    style = meaning.style or style_rng.choices(list(STYLES), list(STYLES.values()))[0]
    background = _choose_background(meaning, Random(f"background {seed}"))
    things, relations, order = _arrange(meaning, width / height, rng)
    return Plan(tuple(things), tuple(order), tuple(relations), background, style)


def _choose_background(meaning: Meaning, rng: Random) -> Backdrop:
    said = meaning.background
    if said is None:
        return Backdrop("plain", (_contrasting(meaning, list(LIGHT), rng),))
    if said.kind == "ground":
        ground, sky = said.colors
        if ground is None and sky is not None:  # the prompt does not mention the ground
            return Backdrop("plain", (PLAIN_SKIES[sky],))
        return Backdrop("ground", (ground or rng.choice(("green", "sandy")), sky or "light blue"))
    if said.kind == "plain":
        return said
    colors = [color for color in said.colors if color]
    while len(colors) < 2:
        others = [name for name in LIGHT if name not in colors]
        colors.append(_contrasting(meaning, others, rng))
    turned = said.turned if said.turned is not None else rng.random() < 0.5
    return Backdrop(said.kind, tuple(colors), turned)


def _contrasting(meaning: Meaning, names: list[str], rng: Random) -> str:
    """A background colour that contrasts with every thing; any colour if there is none."""
    good = [
        name for name in names if all(contrasts(noun.name, noun.color, PLAIN_COLORS[name]) for noun in meaning.things)
    ]
    return rng.choice(good or names)


# -- places


def _arrange(
    meaning: Meaning, aspect: float, rng: Random
) -> tuple[list[Placed], list[tuple[int, str, int]], list[int]]:
    things = meaning.things
    relations = [row for row in meaning.relations if row[1] != "beside"]
    relations += _sides_as_relations(things, meaning.decided_places)
    hosts = {a: (word, b) for a, word, b in relations if word in ATTACHED}
    units = [index for index in range(len(things)) if _root(index, hosts) == index]
    across, down = _pairs(relations, hosts, "left of", "right of"), _pairs(relations, hosts, "above", "below")
    xs, ys = _ranks(units, across), _ranks(units, down)
    sides = [side for index in units if (side := things[index].side)]
    searched = len(units) > 1 and (_goes_both_ways(sides, xs, ys) or len(set(sides)) < len(sides))
    if searched:
        cells = _search(units, {index: _places(things[index].side) for index in units}, across, down)
        cells = cells if sides else _closed_up(cells)
    else:
        for index in units:
            _apply_side(things[index].side, index, xs, ys)
        cells = _fill(units, xs, ys, meaning, aspect)
    placed: dict[int, Placed] = {}
    columns, rows = 1 + max(x for x, _ in cells.values()), 1 + max(y for _, y in cells.values())
    if searched and sides:
        columns = rows = SIDES
    several = any(noun.count > 1 for noun in things)
    grid = _Grid(columns, rows, len(units), several, meaning.row)
    order: list[int] = []
    for index in sorted(units, key=lambda one: cells[one][::-1]):
        column, row = cells[index]
        in_row = [other for other in units if cells[other][1] == row]
        fills = len(in_row) == columns or index in xs or searched
        x = _middle(column, columns) if fills else _centred(index, in_row, cells)
        y = _middle(row, rows)
        family = [index, *(other for other in range(len(things)) if other != index and _root(other, hosts) == index)]
        order += family
        placed |= _place_family(family, hosts, things, x, y, grid)
    for a, word, b in relations:
        if word == "between":
            placed[a] = replace(placed[a], x=0.5, y=0.5)
            placed[b] = replace(placed[b], arrangement="sides")
    return [placed[index] for index in range(len(things))], relations, order


def _sides_as_relations(things: list[Noun], decided: set[int]) -> list[tuple[int, str, int]]:
    """ "violin at the left, drum at the right" as a relation of the two, except for positions fixed in advance."""
    found = []
    for low, high, word in (("left", "right", "left of"), ("top", "bottom", "above")):
        first = [index for index, noun in enumerate(things) if noun.side == low and index not in decided]
        second = [index for index, noun in enumerate(things) if noun.side == high and index not in decided]
        found += [(a, word, b) for a in first for b in second]
    return found


def _root(index: int, hosts: dict[int, tuple[str, int]]) -> int:
    seen = set()
    while index in hosts:
        if index in seen:
            raise Contradiction("things that stand on each other")
        seen.add(index)
        index = hosts[index][1]
    return index


def _pairs(
    relations: list[tuple[int, str, int]], hosts: dict[int, tuple[str, int]], word: str, inverse: str
) -> list[tuple[int, int]]:
    """(first, second) of units for a direction; "between two trees" has none."""
    found = []
    for a, said, b in relations:
        one, other = _root(a, hosts), _root(b, hosts)
        if one == other:
            continue
        if said == word:
            found.append((one, other))
        elif said == inverse:
            found.append((other, one))
    return found


def _ranks(units: list[int], pairs: list[tuple[int, int]]) -> dict[int, int]:
    """Unit -> rank along a direction, for the units in a relation."""
    ranks = {index: 0 for pair in pairs for index in pair}
    for _ in range(len(units) + 1):
        changed = False
        for first, second in pairs:
            if ranks[second] <= ranks[first]:
                ranks[second] = ranks[first] + 1
                changed = True
        if not changed:
            return ranks
    raise Contradiction("relations that go round in a circle")


def _apply_side(side: str | None, index: int, xs: dict[int, int], ys: dict[int, int]) -> None:
    """Convert a position in the prompt to an extreme rank in its direction."""
    if side is None:
        return
    x, y = SIDE_CELLS[side]
    if x is not None and index not in xs:
        xs[index] = 10 * x
    if y is not None and index not in ys:
        ys[index] = 10 * y


def _goes_both_ways(sides: list[str], xs: dict[int, int], ys: dict[int, int]) -> bool:
    """Whether positions and relations order things both horizontally and vertically."""
    told = [SIDE_CELLS[side] for side in sides]
    return bool(xs or any(x is not None for x, _ in told)) and bool(ys or any(y is not None for _, y in told))


def _places(side: str | None) -> list[tuple[int, int]]:
    """The cells of a 3 x 3 grid that a position allows, the most likely first."""
    x, y = (None, None) if side is None else SIDE_CELLS[side]
    columns = (1, 0, 2) if x is None else (x + 1,)
    rows = (1, 0, 2) if y is None else (y + 1,)
    return [(column, row) for row in rows for column in columns]


def _search(
    units: list[int],
    places: dict[int, list[tuple[int, int]]],
    across: list[tuple[int, int]],
    down: list[tuple[int, int]],
) -> dict[int, tuple[int, int]]:
    """A different cell for each unit, such that all relations hold."""
    ordered = sorted(units, key=lambda index: len(places[index]))
    cells: dict[int, tuple[int, int]] = {}

    def holds() -> bool:
        known = cells.keys()
        return all(cells[a][0] < cells[b][0] for a, b in across if a in known and b in known) and all(
            cells[a][1] < cells[b][1] for a, b in down if a in known and b in known
        )

    def settle(at: int) -> bool:
        if at == len(ordered):
            return True
        index = ordered[at]
        free = [cell for cell in places[index] if cell not in cells.values()]
        if len(places[index]) == SIDES**2:  # no constraint: away from the others
            free.sort(key=lambda cell: -min((_distance(cell, other) for other in cells.values()), default=0))
        for cell in free:
            cells[index] = cell
            if holds() and settle(at + 1):
                return True
            del cells[index]
        return False

    if not settle(0):
        raise Contradiction("too many things for one place")
    return cells


def _distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _closed_up(cells: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Cells without empty columns and rows."""
    columns = sorted({column for column, _ in cells.values()})
    rows = sorted({row for _, row in cells.values()})
    return {index: (columns.index(column), rows.index(row)) for index, (column, row) in cells.items()}


def _fill(
    units: list[int], xs: dict[int, int], ys: dict[int, int], meaning: Meaning, aspect: float
) -> dict[int, tuple[int, int]]:
    """Unit -> (column, row), all different."""
    tall = aspect < 0.8 and not xs
    as_column = meaning.row == "column" or (bool(ys) and not xs) or (meaning.row is None and tall)
    order = sorted(units, key=lambda index: ((ys if as_column else xs).get(index, 0), index))
    if as_column and len(order) <= 3:
        return {index: (0, at) for at, index in enumerate(order)}
    if len(order) <= 3 or (meaning.row == "row" and len(order) <= 4) or (aspect > 1.6 and len(order) <= 4):
        return {index: (at, 0) for at, index in enumerate(order)}
    columns = -(-len(order) // 2)
    return {index: (at % columns, at // columns) for at, index in enumerate(order)}


def _middle(at: int, of: int) -> float:
    return (at + 0.5) / of


def _centred(index: int, in_row: list[int], cells: dict[int, tuple[int, int]]) -> float:
    """The x of a unit, with incomplete rows centred."""
    ordered = sorted(in_row, key=lambda one: cells[one][0])
    return _middle(ordered.index(index), len(ordered))


def _place_family(
    family: list[int], hosts: dict[int, tuple[str, int]], things: list[Noun], x: float, y: float, grid: _Grid
) -> dict[int, Placed]:
    """Place a thing and everything on, in or in front of it."""
    root, found = family[0], {}
    carries = any(hosts[other][0] == "on" for other in family[1:])
    beside = {how: [other for other in family[1:] if hosts[other] == (how, root)] for how in ATTACHED}
    for index in family:
        noun, how = things[index], hosts[index][0] if index != root else ""
        size = noun.size or _size(noun.count, grid, index != root)
        # Offsets below the centre of the position, for the whole canvas: a base, a thing on it, a thing in front.
        down = 0.16 if carries and index == root else {"on": -0.18, "in front of": 0.2}.get(how, 0.0)
        side = noun.side if grid.units == 1 and len(family) == 1 else None
        alike = beside.get(how, [])
        step = alike.index(index) - (len(alike) - 1) / 2 if index in alike else 0.0
        place = _at_side(side, x + 0.36 * step / grid.columns, y + down / max(grid.columns, grid.rows))
        found[index] = Placed(noun, noun.count, size, *place, _arrangement(noun.count, grid))
    return found


def _at_side(side: str | None, x: float, y: float) -> tuple[float, float]:
    if side is None:
        return x, y
    column, row = SIDE_CELLS[side]
    return (x if column is None else 0.5 + column / 3, y if row is None else 0.5 + row / 3)


def _size(count: int, grid: _Grid, attached: bool) -> str:
    """The size of a thing that does not share its position."""
    if count > 3 or grid.units > 4:
        return "small"
    alone = count == 1 and not attached and (grid.units == 1 or not grid.several)
    return "large" if alone and grid.units <= LARGE_UNITS else "medium"


def _arrangement(count: int, grid: _Grid) -> str:
    """The arrangement of several like things: perpendicular to the direction of their neighbours."""
    if count == 1:
        return ""
    if grid.units == 1:
        return grid.said or ("row" if count <= 3 else "group")
    if min(grid.columns, grid.rows) > 1:
        return "row" if count == 2 else "group"
    return "column" if grid.columns > 1 else "row"
