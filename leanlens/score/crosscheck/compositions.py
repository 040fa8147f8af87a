"""Composes the images that the second checker is fitted on: icons on the backgrounds of scenes, bent and then worn.

They are made from icons alone, in its own layouts; no model's image is used. Boxes are those of what remains visible.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from leanlens.scenes.icons import COLORS, SHAPES, Library
from leanlens.scenes.layout import PATTERNS, Background
from leanlens.scenes.render import draw_background
from leanlens.scenes.scene import GROUND_COLORS, PLAIN_COLORS, SKY_COLORS, distance
from leanlens.scenes.shapes import CONTAINERS, SUPPORTS

SIGN = "sign"  # the concept of boards with a text
SIDES = (208, 304)  # of an image, pixels
LONGEST = (0.16, 0.72)  # of a thing, share of the short side
ROOMY = 64  # pixels of the shorter side of a thing that another may be on, in or before
VISIBLE = 0.4  # share of a thing's pixels that must not be covered
CONTRAST = 90.0  # of a thing's mean colour and the background
PAINTED, BENT, WORN = 0.55, 0.6, 0.65  # shares of things, things and images
BEND = 0.055  # the most that a node of the mesh moves, share of the side
PLACES = ("beside", "on", "inside", "before")  # of a second thing
ELSEWHERE = (0.45, 0.25, 0.05, 0.25)  # how often, for one after a thing that is no container and no support
LETTERS = tuple("ABCDEFGHIKLMNOPRSTUVWYabdeghknoprstu")

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Placed:
    """A thing in a composition; `style` and `color` are None where it has none, or its own colours."""

    box: Box
    concept: str
    style: str | None
    color: str | None


@dataclass
class _Canvas:
    """The image so far, and which thing each pixel shows, from 1."""

    image: Image.Image
    owner: np.ndarray
    things: list[tuple[str, str | None, str | None, int]]  # concept, style, colour, pixels

    def paste(self, sprite: Image.Image, x: int, y: int, thing: tuple[str, str | None, str | None]) -> Box:
        """Put a sprite at a position, as far as it lies on the canvas."""
        x = max(0, min(x, self.image.width - sprite.width))
        y = max(0, min(y, self.image.height - sprite.height))
        self.image.paste(sprite, (x, y), sprite)
        solid = np.asarray(sprite.getchannel("A")) > 127
        view = self.owner[y : y + sprite.height, x : x + sprite.width]
        solid = solid[: view.shape[0], : view.shape[1]]
        self.things.append((*thing, int(solid.sum())))
        view[solid] = len(self.things)
        return x, y, x + sprite.width, y + sprite.height


def compose(
    library: Library, drawings: Sequence[tuple[str, str]], rng: np.random.Generator
) -> tuple[Image.Image, list[Placed]]:
    """An image of some drawings (concept, style) and sometimes a sign, and what can be seen of each."""
    width, height = (int(side) for side in rng.integers(*SIDES, size=2))
    paints = [_paint(library, *drawing, rng) for drawing in drawings]
    looks = [_look(library, *drawing, paint) for drawing, paint in zip(drawings, paints, strict=True)]
    canvas = _Canvas(_background(looks, width, height, rng), np.zeros((height, width), np.uint8), [])
    before, last = None, ""
    for (concept, style), paint in zip(drawings, paints, strict=True):
        place = _place(before, last, rng)
        before = _add(canvas, library, (concept, style, paint), place, before, rng)
        last = concept
    if rng.random() < 0.1:
        board, color = _board(min(width, height), rng)
        _beside(canvas, board, (SIGN, None, color), rng)
    return _worn(canvas.image, rng), _visible(canvas)


def _place(before: Box | None, last: str, rng: np.random.Generator) -> str:
    """Where the next thing goes: mostly inside a container and on a support, if the last one is one and large."""
    if before is None or min(before[2] - before[0], before[3] - before[1]) < ROOMY:
        return "beside"
    chances = (0.3, 0.0, 0.7, 0.0) if last in CONTAINERS else (0.3, 0.6, 0.0, 0.1) if last in SUPPORTS else ELSEWHERE
    return PLACES[rng.choice(4, p=chances)]


def _paint(library: Library, concept: str, style: str, rng: np.random.Generator) -> str | None:
    if style == SHAPES or (rng.random() < PAINTED and library.is_paintable(concept, style)):
        return tuple(COLORS)[rng.integers(len(COLORS))]
    return None


def _look(library: Library, concept: str, style: str, paint: str | None) -> tuple[int, int, int]:
    return COLORS[paint] if paint else library.find(concept, style).facts.mean


def _background(
    looks: Sequence[tuple[int, int, int]], width: int, height: int, rng: np.random.Generator
) -> Image.Image:
    """A background that contrasts with every thing, if ten tries find one."""
    for _ in range(10):
        background = _sample_background(rng)
        if min((distance(look, color) for look in looks for color in background.rgb), default=CONTRAST) >= CONTRAST:
            break
    return draw_background(background, width, height)


def _sample_background(rng: np.random.Generator) -> Background:
    kind = ("plain", "gradient", "ground", *PATTERNS)[rng.choice(6, p=(0.3, 0.2, 0.2, 0.1, 0.1, 0.1))]
    tables = {"plain": (PLAIN_COLORS,), "ground": (GROUND_COLORS, SKY_COLORS)}.get(kind, (PLAIN_COLORS, PLAIN_COLORS))
    names = tuple(tuple(table)[rng.integers(len(table))] for table in tables)
    rgb = tuple(table[name] for table, name in zip(tables, names, strict=True))
    share = rng.uniform(0.4, 0.8) if kind == "ground" else rng.uniform(0.04, 0.13)
    return Background(kind, names, rgb, share, bool(rng.random() < 0.5))


def _add(
    canvas: _Canvas,
    library: Library,
    thing: tuple[str, str, str | None],
    place: str,
    before: Box | None,
    rng: np.random.Generator,
) -> Box:
    """Draw a thing beside the others, or on, inside or before the last one."""
    concept, style, paint = thing
    if before is None or place == "beside":
        side = min(canvas.image.size) * np.exp(rng.uniform(*np.log(LONGEST)))
    else:
        room = {"on": (0.5, 1.1), "inside": (0.35, 0.75), "before": (0.35, 0.65)}[place]
        side = rng.uniform(*room) * min(before[2] - before[0], before[3] - before[1])
    size = library.fit(concept, style, max(16, side), max(16, side))
    sprite = _bent(library.sprite(concept, style, paint, size), rng)
    named = (concept, None if style == SHAPES else style, paint)
    if before is None or place == "beside":
        return _beside(canvas, sprite, named, rng)
    x0, y0, x1, y1 = before
    if place == "on":
        x = x0 + (x1 - x0 - sprite.width) * rng.uniform(0.2, 0.8)
        y = y0 - sprite.height + 2.0
    elif place == "inside":
        x, y = (x0 + x1 - sprite.width) / 2, (y0 + y1 - sprite.height) / 2
    else:
        x = x0 + (x1 - x0 - sprite.width) * rng.choice((rng.uniform(-0.1, 0.25), rng.uniform(0.75, 1.1)))
        y = y1 - sprite.height * rng.uniform(0.7, 0.95)
    return canvas.paste(sprite, round(x), round(y), named)


def _beside(
    canvas: _Canvas, sprite: Image.Image, thing: tuple[str, str | None, str | None], rng: np.random.Generator
) -> Box:
    """Draw a sprite at the emptiest of eight places."""
    width, height = canvas.image.size
    places = [
        (int(rng.integers(max(1, width - sprite.width))), int(rng.integers(max(1, height - sprite.height))))
        for _ in range(8)
    ]
    x, y = min(
        places,
        key=lambda at: int((canvas.owner[at[1] : at[1] + sprite.height, at[0] : at[0] + sprite.width] > 0).sum()),
    )
    return canvas.paste(sprite, x, y, thing)


def _bent(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The sprite through a mesh of 3 x 3 cells whose inner nodes are moved."""
    if rng.random() >= BENT:
        return sprite
    width, height = sprite.size
    nodes = np.stack(np.meshgrid(np.linspace(0, width, 4), np.linspace(0, height, 4)), axis=-1)
    nodes += rng.uniform(-BEND, BEND, nodes.shape) * (width, height)
    columns, rows = np.linspace(0, width, 4).round().astype(int), np.linspace(0, height, 4).round().astype(int)
    mesh = []
    for row in range(3):
        for column in range(3):
            target = (columns[column], rows[row], columns[column + 1], rows[row + 1])
            corners = [nodes[row, column], nodes[row + 1, column], nodes[row + 1, column + 1], nodes[row, column + 1]]
            mesh.append((tuple(map(int, target)), tuple(float(value) for corner in corners for value in corner)))
    return sprite.transform(sprite.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _board(short: int, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A board in a colour with a few letters, sometimes on a post."""
    color = tuple(COLORS)[rng.integers(len(COLORS))]
    width, height = round(short * rng.uniform(0.25, 0.6)), round(short * rng.uniform(0.1, 0.24))
    post = round(height * rng.uniform(0.4, 1.0)) if rng.random() < 0.4 else 0
    board = Image.new("RGBA", (width, height + post))
    draw = ImageDraw.Draw(board)
    if post:
        draw.rectangle((0.47 * width, height, 0.53 * width, height + post), fill=(118, 90, 62, 255))
    edge = tuple(round(0.7 * channel) for channel in COLORS[color])
    draw.rectangle((0, 0, width - 1, height - 1), fill=COLORS[color], outline=edge, width=max(1, height // 16))
    ink = (20, 20, 24) if sum(COLORS[color]) > 400 else (250, 250, 250)
    text = "".join(rng.choice(LETTERS, int(rng.integers(3, 8))))
    draw.text((width / 2, height / 2), text, ink, anchor="mm", font_size=min(0.62 * height, 1.3 * width / len(text)))
    return board, color


def _worn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image after blurring, shrinking, compression, noise or a shift of its colours, some of them."""
    if rng.random() >= WORN:
        return image
    if rng.random() < 0.45:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.35:
        share = rng.uniform(0.45, 0.85)
        small = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)
        image = small.resize(image.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.35:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=int(rng.integers(10, 60)), method=0)
        image = Image.open(buffer).convert("RGB")
    if rng.random() < 0.3:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.9, 1.1))
        image = ImageEnhance.Color(image).enhance(rng.uniform(0.8, 1.2))
    if rng.random() < 0.35:
        noise = rng.normal(0, rng.uniform(2, 9), (image.height, image.width, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    return image


def _visible(canvas: _Canvas) -> list[Placed]:
    found = []
    for number, (concept, style, color, drawn) in enumerate(canvas.things, 1):
        mask = canvas.owner == number
        if mask.sum() >= max(40, VISIBLE * drawn):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (int(columns[0]), int(rows[0]), int(columns[-1] + 1), int(rows[-1] + 1))
            found.append(Placed(box, concept, style, color))
    return found
