"""The natural colours of known things, for choosing backgrounds with enough contrast.

`looks.txt` has the mean colour of each thing's visible pixels over the five styles of the library "common".
"""

from functools import cache
from pathlib import Path

from leanlens.scenes.icons import COLORS
from leanlens.scenes.scene import CONTRAST, distance

LOOKS = Path(__file__).parent / "looks.txt"


@cache
def read_looks() -> dict[str, tuple[int, int, int]]:
    """Name of a thing -> mean colour, RGB from 0 to 255."""
    rows = (line.split(": ") for line in LOOKS.read_text(encoding="utf-8").splitlines())
    return {name: (int(red), int(green), int(blue)) for name, color in rows for red, green, blue in [color.split()]}


def contrasts(name: str, color: str | None, background: tuple[int, int, int]) -> bool:
    """Whether a thing has enough contrast with a background; True for unknown things."""
    look = COLORS.get(color) if color else read_looks().get(name)
    return look is None or distance(look, background) > CONTRAST
