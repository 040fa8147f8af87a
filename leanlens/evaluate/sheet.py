"""Draws a contact sheet: images under their prompts, with their verdicts; several models side by side."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from leanlens.evaluate.draw import KeptImage
from leanlens.evaluate.suite import Item
from leanlens.score.protocol import Score

SHOWN = 24  # prompts on the sheet
COLUMNS = 6
CELL = 200  # pixels of its cells
LINES = 60  # pixels below each for three lines of text
INK, GOOD, BAD, RULE = (40, 40, 40), (0, 120, 40), (190, 20, 20), (205, 205, 205)


def draw_sheet(
    rows: Mapping[str, Sequence[KeptImage]], items: Sequence[Item], scores: Mapping[str, Sequence[Score]]
) -> Image.Image:
    """The first prompts with the first image of each model; criteria that it meets are green, the others red.

    Args:
        rows: name -> the first image of each item; several models are placed side by side.
        scores: name -> the score of each of these images; empty where nothing was judged.
    """
    shown = min(SHOWN, len(items))
    columns = max(len(rows), min(COLUMNS, shown * len(rows)) // len(rows) * len(rows))
    lines = -(-shown * len(rows) // columns)
    sheet = Image.new("RGB", (columns * CELL, lines * (CELL + LINES)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index in range(shown):
        for at, (name, images) in enumerate(rows.items()):
            cell = index * len(rows) + at
            x, y = cell % columns * CELL, cell // columns * (CELL + LINES)
            _paste(sheet, images[index], x, y)
            caption = items[index].prompt if at == 0 else name
            pen.text((x + 4, y + CELL), caption[:32].replace("\n", " "), INK)
            if scores.get(name):
                _write_verdicts(pen, scores[name][index], x + 4, y + CELL + 16)
            if at == 0 and x and len(rows) > 1:
                pen.line((x, y + 4, x, y + CELL + LINES - 6), RULE)
    return sheet


def _paste(sheet: Image.Image, image: KeptImage, x: int, y: int) -> None:
    if image.path is None:
        return
    small = image.open()
    small.thumbnail((CELL - 8, CELL - 8))
    sheet.paste(small, (x + (CELL - small.width) // 2, y + (CELL - small.height) // 2))


def _write_verdicts(pen: ImageDraw.ImageDraw, score: Score, x: int, y: int) -> None:
    judged = {name: value for name, value in score.items() if isinstance(value, int | float)}
    for line, (met, ink) in enumerate(((True, GOOD), (False, BAD))):
        names = ", ".join(name.replace("_", " ") for name, value in judged.items() if (value >= 1) == met)
        pen.text((x, y + 16 * line), names[:33], ink)
