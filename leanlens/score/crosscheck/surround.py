"""Estimates an image's background for the second checker: its kind, its colours, and which pixels differ from it.

Everything is measured in CIELAB. Three models of the rim are fitted (one colour, a ramp, two colours), and the simplest
that explains it is taken; two colours are told apart by how they lie over the whole image.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

RIM = 0.05  # width of the rim, share of the short side
WIDE = 0.1  # width of the rim in which a pattern's second colour is looked for
NEAR = 10.0  # CIELAB distance at which a pixel has a background colour
FITS = (3.0, 6.0, NEAR)  # distances at which models are compared
DIFFERS = 16.0  # from which it belongs to a thing
APART = 7.0  # of two background colours
BIN = 3.0  # side of a cell of the histogram of colours
PENALTY = {"plain": 0.0, "gradient": 0.03, "ground": 0.02}  # more of the rim that the model must explain
PATTERN_PENALTY = 0.05
WHITE = np.array([0.9505, 1.0, 1.089], np.float32)
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)  # of linear sRGB, IEC 61966-2-1


@dataclass(frozen=True)
class Surround:
    """The estimated background.

    Attributes:
        kind: plain, gradient, ground, dots, stripes or checks.
        colors: CIELAB; the ends of a gradient, ground then sky, or the two colours of a pattern.
        explained: share of the rim that has these colours, 0 to 1.
        differs: (H, W) bool, the pixels of things, holes filled.
    """

    kind: str
    colors: tuple[np.ndarray, ...]
    explained: float
    differs: np.ndarray


@dataclass(frozen=True)
class _Fit:
    kind: str
    colors: tuple[np.ndarray, ...]
    distance: np.ndarray  # (H, W), of every pixel to the background
    softened: np.ndarray | None = None  # the same where edges between its colours are soft

    def fit(self, rim: np.ndarray) -> float:
        """How much of the rim it explains, finely, less what it must explain more than a simpler model."""
        off = self.distance[rim]
        shares = [float((off < most).mean()) for most in FITS]
        return float(np.mean(shares)) - PENALTY.get(self.kind, PATTERN_PENALTY)


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 sRGB -> CIELAB float32, D65."""
    xyz = _linear()[pixels] @ (TO_XYZ.T / WHITE)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


@cache
def _linear() -> np.ndarray:
    values = np.arange(256, dtype=np.float32) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def find_surround(pixels: np.ndarray) -> Surround:
    """The background of an (H, W, 3) uint8 image."""
    lab = to_lab(np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(3))))
    rim = _rim(lab.shape[:2], RIM)
    first = _mode(lab[rim])
    fits = [_fit_plain(lab, first), _fit_ramp(lab, rim, 0), _fit_ramp(lab, rim, 1), *_fit_two(lab, first)]
    best = max((fit for fit in fits if fit is not None), key=lambda fit: fit.fit(rim))
    explained = float((best.distance[rim] < NEAR).mean())
    off = best.distance if best.softened is None else best.softened
    off = ndimage.binary_opening(off > DIFFERS, np.ones((2, 2)))
    return Surround(best.kind, best.colors, explained, ndimage.binary_fill_holes(off))


def _rim(shape: tuple[int, ...], share: float) -> np.ndarray:
    band = max(3, round(share * min(shape)))
    inside = np.ones(shape, bool)
    inside[band:-band, band:-band] = False
    return inside


def _mode(colors: np.ndarray) -> np.ndarray:
    """The most frequent of (M, 3) colours: the median around the fullest cell of a smoothed histogram."""
    cells = np.floor(colors / BIN).astype(int)
    low = cells.min(axis=0)
    counts = np.zeros(cells.max(axis=0) - low + 1, np.float32)
    np.add.at(counts, tuple((cells - low).T), 1)
    fullest = np.unravel_index(ndimage.uniform_filter(counts, 3, mode="constant").argmax(), counts.shape)
    center = (np.array(fullest) + low + 0.5) * BIN
    near = np.linalg.norm(colors - center, axis=1) < 1.5 * BIN
    return np.median(colors[near], axis=0) if near.any() else np.median(colors, axis=0)


def _fit_plain(lab: np.ndarray, color: np.ndarray) -> _Fit:
    return _Fit("plain", (color,), np.linalg.norm(lab - color, axis=-1))


def _fit_ramp(lab: np.ndarray, rim: np.ndarray, axis: int) -> _Fit | None:
    """A straight line of colours from one side to the other, by the medians of eight bins and then of what fits."""
    where = np.indices(rim.shape)[axis] / (rim.shape[axis] - 1)
    place, colors = where[rim], lab[rim]
    ends = _through_medians(place, colors)
    for _ in range(4):
        off = np.linalg.norm(colors - _between(ends, place), axis=1)
        kept = off <= max(4.0, 1.5 * float(np.median(off)))
        design = np.stack([1 - place[kept], place[kept]], axis=1)
        ends = np.linalg.lstsq(design, colors[kept], rcond=None)[0]
    if np.linalg.norm(ends[1] - ends[0]) < APART:
        return None
    distance = np.linalg.norm(lab - _between(ends, where), axis=-1)
    return _Fit("gradient", (ends[0], ends[1]), distance)


def _through_medians(place: np.ndarray, colors: np.ndarray) -> np.ndarray:
    bins = np.minimum((8 * place).astype(int), 7)
    middles = np.stack([np.median(colors[bins == at], axis=0) for at in range(8)])
    at = (np.arange(8) + 0.5) / 8
    slope = np.median((middles[4:] - middles[:4]) / 0.5, axis=0)
    start = np.median(middles - at[:, None] * slope, axis=0)
    return np.stack([start, start + slope])


def _between(ends: np.ndarray, place: np.ndarray) -> np.ndarray:
    return (1 - place[..., None]) * ends[0] + place[..., None] * ends[1]


def _fit_two(lab: np.ndarray, first: np.ndarray) -> list[_Fit]:
    """Two colours, as a pattern and as ground and sky; nothing if the second is only on a side or two."""
    rim = _rim(lab.shape[:2], WIDE)
    rest = lab[rim][np.linalg.norm(lab[rim] - first, axis=1) > APART]
    if len(rest) < 0.03 * rim.sum():
        return []
    second = _mode(rest)
    to_first, to_second = (np.linalg.norm(lab - color, axis=-1) for color in (first, second))
    is_second, near = to_second < to_first, np.minimum(to_first, to_second) < NEAR
    band = max(3, round(WIDE * min(rim.shape)))
    sides = (np.s_[:band], np.s_[-band:], np.s_[:, :band], np.s_[:, -band:])
    shares = [float((is_second & near)[side].mean()) for side in sides]
    opposite = min(shares[:2]) > 0.2 or min(shares[2:]) > 0.2
    if sum(share > 0.03 for share in shares) < 3 and not opposite:
        return []
    along = np.clip((lab - first) @ (second - first) / float((second - first) @ (second - first)), 0, 1)
    mixed = np.linalg.norm(lab - first - along[..., None] * (second - first), axis=-1)  # of soft edges
    plain = np.minimum(to_first, to_second)
    pattern = _Fit(_kind_of_pattern(is_second, near), (first, second), plain, np.minimum(plain, mixed))
    return [pattern, _fit_ground(lab, (first, second), (to_first, to_second))]


def _kind_of_pattern(is_second: np.ndarray, near: np.ndarray) -> str:
    """One colour along every row or column means stripes; else few of one colour are dots."""
    signs = np.where(near, np.where(is_second, 1.0, -1.0), 0.0)
    rows, columns = (signs.sum(axis=axis) / np.maximum(1, near.sum(axis=axis)) for axis in (1, 0))
    if abs(float(np.abs(rows).mean() - np.abs(columns).mean())) > 0.4:
        return "stripes"
    share = float(is_second[near].mean())
    return "dots" if min(share, 1 - share) < 0.28 else "checks"


def _fit_ground(
    lab: np.ndarray, colors: tuple[np.ndarray, np.ndarray], distances: tuple[np.ndarray, np.ndarray]
) -> _Fit:
    """One colour above the row that parts the left and right sides best, the other below it."""
    band = max(3, round(RIM * min(lab.shape[:2])))
    differ = np.sign(distances[0] - distances[1])
    votes = differ[:, :band].sum(axis=1) + differ[:, -band:].sum(axis=1)
    total = np.cumsum(votes)
    horizon = int(np.abs(2 * total[:-1] - total[-1]).argmax()) + 1
    sky, ground = (1, 0) if 2 * total[horizon - 1] > total[-1] else (0, 1)
    is_sky = np.arange(len(lab))[:, None] < horizon
    distance = np.where(is_sky, distances[sky], distances[ground])
    across = slice(max(0, horizon - 2), horizon + 2)  # the horizon itself may be soft
    distance[across] = np.minimum(distances[0], distances[1])[across]
    return _Fit("ground", (colors[ground], colors[sky]), distance)
