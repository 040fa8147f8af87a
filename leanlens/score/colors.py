"""Names the colours of pixels: what share of a region has each colour name that captions use."""

import numpy as np

from leanlens.scenes.icons import COLORS
from leanlens.scenes.scene import GROUND_COLORS, PLAIN_COLORS, SKY_COLORS
from leanlens.score.regions import redmean

SHADES = ((0.0, 0.0), (-0.22, 14.0), (0.3, 14.0))  # towards black or white, and the distance added for such a shade
UNNAMED = 120.0  # redmean distance beyond which a pixel has no name
MOSTLY = 0.8  # a name with at least this part of the largest share is true as well
NEAR = 60.0  # maximum redmean distance of an estimated background colour from its name
NEARER = 18.0  # by which another name may be nearer


def color_shares(pixels: np.ndarray) -> dict[str, float]:
    """(M, 3) RGB 0 to 255 -> share of the pixels with each name of COLORS; the other pixels have no name."""
    names = list(COLORS)
    if not len(pixels):
        return dict.fromkeys(names, 0.0)
    distances = []
    for color in COLORS.values():
        base = np.array(color, np.float32)
        shaded = [base * (1 + by) if by < 0 else base + (255 - base) * by for by, _ in SHADES]
        distances.append(
            np.min([redmean(pixels, one) + more for one, (_, more) in zip(shaded, SHADES, strict=True)], axis=0)
        )
    table = np.stack(distances)  # (names, M)
    nearest = np.where(table.min(axis=0) <= UNNAMED, table.argmin(axis=0), len(names))
    counts = np.bincount(nearest, minlength=len(names) + 1)
    return {name: float(count / len(pixels)) for name, count in zip(names, counts, strict=False)}


def has_color(pixels: np.ndarray, name: str) -> bool:
    """Whether a region mostly has the named colour, or nearly as much of it as of any other.

    Raises:
        ValueError: the name is not in COLORS.
    """
    if name not in COLORS:
        raise ValueError(f"invalid color {name!r}: expected one of {', '.join(COLORS)}")
    shares = color_shares(pixels)
    return shares[name] > 0 and shares[name] >= MOSTLY * max(shares.values())


def is_background_color(color: tuple[float, float, float], name: str, kind: str, place: int) -> bool:
    """Whether an estimated colour fits the name of a background colour.

    Args:
        place: 0 for the first stated colour, 1 for the second; ground and sky have their own names.

    Raises:
        ValueError: backgrounds of this kind do not have the name.
    """
    table = PLAIN_COLORS if kind != "ground" else (GROUND_COLORS, SKY_COLORS)[place]
    if name not in table:
        raise ValueError(f"invalid background color {name!r}: expected one of {', '.join(table)} for {kind}")
    distances = {other: float(redmean(np.array(color), np.array(rgb))) for other, rgb in table.items()}
    return distances[name] <= NEAR and distances[name] <= min(distances.values()) + NEARER
