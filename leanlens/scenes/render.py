"""Renders a scene to an image, deterministically, and traces which object each pixel shows."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from leanlens.scenes.icons import COLORS, Library
from leanlens.scenes.layout import Background, Frame, load_font
from leanlens.scenes.scene import Scene, Thing

Color = tuple[int, int, int]
POST = (120, 92, 66)
OPAQUE = 127  # of 255, the alpha above which a pixel belongs to a thing


def render(scene: Scene, library: Library) -> Image.Image:
    """The RGB image of a scene at the scene's size."""
    image = draw_background(scene.background, scene.width, scene.height)
    boards = {text.on: text for text in scene.texts}
    for index, thing in enumerate(scene.things):
        if thing.category == "sign":
            _draw_board(image, thing, boards[index].box)
            continue
        for x0, y0, x1, y1 in thing.frames:
            sprite = library.sprite(thing.concept, scene.style, thing.color, (x1 - x0, y1 - y0))
            image.paste(sprite, (x0, y0), sprite)
    for text in scene.texts:
        ImageDraw.Draw(image).text(text.origin, text.string, text.ink, load_font(text.font, text.font_size))
    return image


def trace_things(scene: Scene, library: Library) -> np.ndarray:
    """Instance mask: (height, width) uint8, 0 for the background, otherwise the number of a drawn object.

    Each of several like objects has its own number, from 1 in drawing order; a board includes the pixels of its text.
    A pixel belongs to an object if it is more than half opaque. Fully covered objects have no pixels.
    """
    image = Image.new("L", (scene.width, scene.height))
    boards = {text.on: text for text in scene.texts}
    number = 0
    for index, thing in enumerate(scene.things):
        for x0, y0, x1, y1 in thing.frames:
            number += 1
            if thing.category == "sign":
                for part in _board_parts(thing, boards[index].box):
                    image.paste(number, part)
                continue
            sprite = library.sprite(thing.concept, scene.style, thing.color, (x1 - x0, y1 - y0))
            solid = sprite.getchannel("A").point(lambda alpha: 255 * (alpha > OPAQUE))
            image.paste(number, (x0, y0), solid)
    return np.asarray(image)


def draw_background(background: Background, width: int, height: int) -> Image.Image:
    """A new RGB image of only the background."""
    first, *rest = background.rgb
    if background.kind == "plain":
        return Image.new("RGB", (width, height), first)
    second = rest[0]
    if background.kind == "gradient":
        return _gradient(first, second, background.turned).resize((width, height), Image.Resampling.BILINEAR)
    if background.kind == "ground":
        image = Image.new("RGB", (width, height), second)
        image.paste(first, (0, round(background.share * height), width, height))
        return image
    step = max(8, round(background.share * min(width, height)))
    return _pattern(background.kind, first, second, step, background.turned, width, height).copy()


@lru_cache(maxsize=256)
def _gradient(first: Color, second: Color, turned: bool) -> Image.Image:
    mask = Image.linear_gradient("L")  # 256 x 256, black above
    if turned:
        mask = mask.transpose(Image.Transpose.ROTATE_90)
    return Image.composite(Image.new("RGB", mask.size, second), Image.new("RGB", mask.size, first), mask)


@lru_cache(maxsize=32)
def _pattern(kind: str, first: Color, second: Color, step: int, turned: bool, width: int, height: int) -> Image.Image:
    """`first` with dots, stripes or squares of `second`, `step` pixels apart."""
    image = Image.new("RGB", (width, height), first)
    tile = _dot_tile(first, second, step) if kind == "dots" else None
    for row in range(0, height, step):
        if kind == "stripes":
            if not turned and row // step % 2:
                image.paste(second, (0, row, width, min(row + step, height)))
            continue
        for column in range(0, width, step):
            if tile is not None:
                image.paste(tile, (column, row))
            elif (row + column) // step % 2:
                image.paste(second, (column, row, min(column + step, width), min(row + step, height)))
    if kind == "stripes" and turned:
        for column in range(step, width, 2 * step):
            image.paste(second, (column, 0, min(column + step, width), height))
    return image


def _dot_tile(first: Color, second: Color, step: int) -> Image.Image:
    large = Image.new("RGB", (4 * step, 4 * step), first)
    ImageDraw.Draw(large).ellipse((1.2 * step, 1.2 * step, 2.8 * step, 2.8 * step), fill=second)
    return large.resize((step, step), Image.Resampling.BOX)


def _board_parts(thing: Thing, text: Frame) -> list[Frame]:
    """The board behind a text, as high as the text needs, and a post if the frame is higher than the board."""
    x0, y0, x1, y1 = thing.frames[0]
    foot = text[3] + text[1] - y0  # the board has the same margin above and below its text
    half = max(2, (x1 - x0) // 24)
    post = ((x0 + x1) // 2 - half, foot, (x0 + x1) // 2 + half, y1)
    return [(x0, y0, x1, foot), *([post] if foot < y1 else [])]


def _draw_board(image: Image.Image, thing: Thing, text: Frame) -> None:
    board, *posts = _board_parts(thing, text)
    for post in posts:
        image.paste(POST, post)
    x0, y0, x1, foot = board
    fill = COLORS[thing.color or "white"]
    edge = tuple(channel * 7 // 10 for channel in fill)
    image.paste(edge, board)
    border = max(1, (foot - y0) // 16)
    image.paste(fill, (x0 + border, y0 + border, x1 - border, foot - border))
