"""Names the colours of pixels: what share of a region has each colour name that captions use."""

import numpy as np

from leanlens.scenes.icons import COLORS
from leanlens.scenes.scene import GROUND_COLORS, PLAIN_COLORS, SKY_COLORS
from leanlens.score.regions import redmean

SHADES = ((0.0, 0.0), (-0.22, 14.0), (0.3, 14.0))  # towards black or white, and how much farther such a shade counts
UNNAMED = 120.0  # redmean distance beyond which a pixel has none of the names
MOSTLY = 0.8  # a name whose share is this part of the largest one's is as true as that
NEAR = 60.0  # redmean distance within which an estimated background colour may bear a name
NEARER = 18.0  # and no other name may be nearer by more than this


def color_shares(pixels: np.ndarray) -> dict[str, float]:
    """(M, 3) RGB 0 to 255 -> share of the pixels that have each name of COLORS; the rest has none of them."""
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
    """Whether a region is mostly of the named colour, or as much as of any other.

    Raises:
        ValueError: a name that COLORS does not have.
    """
    if name not in COLORS:
        raise ValueError(f"color {name!r} is not accepted; use one of {', '.join(COLORS)}")
    shares = color_shares(pixels)
    return shares[name] > 0 and shares[name] >= MOSTLY * max(shares.values())


def is_background_color(color: tuple[float, float, float], name: str, kind: str, place: int) -> bool:
    """Whether an estimated colour bears a background's name, among the names of its kind.

    Args:
        place: 0 for the first stated colour, 1 for the second; ground and sky have names of their own.

    Raises:
        ValueError: a name that backgrounds of this kind do not have.
    """
    table = PLAIN_COLORS if kind != "ground" else (GROUND_COLORS, SKY_COLORS)[place]
    if name not in table:
        raise ValueError(f"background color {name!r} is not accepted; {kind} has {', '.join(table)}")
    distances = {other: float(redmean(np.array(color), np.array(rgb))) for other, rgb in table.items()}
    return distances[name] <= NEAR and distances[name] <= min(distances.values()) + NEARER
