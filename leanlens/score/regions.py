"""Region proposals: estimates an image's background from its rim and finds the regions that stand out from it.

It knows the kinds of background that scenes have; any other is taken for the nearest of them.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

RIM = 0.07  # width of the rim, share of the short side: almost only background lies there
TOLERANCE = 40.0  # redmean distance at which a pixel still has the background's colour
STANDS_OUT = 62.0  # redmean distance from which a pixel is foreground
MIN_AREA = 0.0025  # share of the picture: smaller regions are specks
MIN_SIDE = 0.05  # share of the short side
MAX_CUTS = 5
COMPLEXITY = {"plain": 0.0, "gradient": 0.02, "ground": 0.02, "pattern": 0.04}  # more of the rim that it must explain


@dataclass(frozen=True)
class Backdrop:
    """The estimated background.

    Attributes:
        kind: plain, gradient, ground, dots, stripes or checks.
        colors: RGB 0 to 255; top then bottom, or left then right, for a gradient; ground then sky; the more frequent
            one first for patterns.
        expected: (K, H, W, 3) float32, the K colours that each pixel may have.
        inliers: share of the rim that has these colours, 0 to 1.
    """

    kind: str
    colors: tuple[tuple[float, float, float], ...]
    expected: np.ndarray
    inliers: float


@dataclass(frozen=True)
class Region:
    """A part of the picture.

    Attributes:
        box: x0, y0, x1, y1 in pixels.
        mask: (y1 - y0, x1 - x0) bool, its pixels, holes filled.
        pixels: (y1 - y0, x1 - x0, 3) uint8.
        found_by: how it was found: "whole", "joined" across gaps, "cut", "inner", "outer", or "segmentation" by the
            segmentation network.
    """

    box: tuple[int, int, int, int]
    mask: np.ndarray
    pixels: np.ndarray
    found_by: str = "whole"

    @property
    def area(self) -> int:
        return int(self.mask.sum())


def redmean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Perceived distance of colours, 0 to about 765, over the last axis; both 0 to 255."""
    one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
    mean = (one[..., 0] + other[..., 0]) / 2
    red, green, blue = ((one[..., at] - other[..., at]) ** 2 for at in range(3))  # faster than over the last axis
    return np.sqrt((2 + mean / 256) * red + 4 * green + (2 + (255 - mean) / 256) * blue)


@dataclass(frozen=True)
class _Rim:
    """The pixels of the rim: M colours (M, 3), and where they lie."""

    colors: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    band: int


def estimate_backdrop(pixels: np.ndarray) -> Backdrop:
    """The backdrop that explains most of the rim, with a preference for simple kinds."""
    height, width = pixels.shape[:2]
    band = max(3, round(RIM * min(height, width)))
    inside = np.ones((height, width), bool)
    inside[band:-band, band:-band] = False
    pixels = pixels.astype(np.float32)
    rows, columns = np.nonzero(inside)
    rim = _Rim(pixels[inside], rows, columns, band)
    candidates = [fit(pixels, rim) for fit in (_fit_plain, _fit_ground, _fit_pattern)]
    candidates += [_fit_gradient(pixels, rim, axis) for axis in (0, 1)]
    return max(
        (one for one in candidates if one is not None),
        key=lambda one: one.inliers - COMPLEXITY.get(one.kind, COMPLEXITY["pattern"]),
    )


def _made(kind: str, colors: list[np.ndarray], expected: np.ndarray, rim: _Rim, at_rim: np.ndarray) -> Backdrop:
    """The backdrop of some colours.

    Args:
        expected: (K, H, W, 3) float32, at most a view.
        at_rim: (K, M, 3) or (K, 1, 3), the same at the rim.
    """
    near = np.min([redmean(rim.colors, one) for one in at_rim], axis=0)
    named = tuple(tuple(float(channel) for channel in color) for color in colors)
    return Backdrop(kind, named, expected, float((near < TOLERANCE / 2).mean()))  # type: ignore[arg-type]


def _fit_plain(pixels: np.ndarray, rim: _Rim) -> Backdrop:
    color = np.median(rim.colors, axis=0)
    return _made("plain", [color], np.broadcast_to(color, (1, *pixels.shape)), rim, color[None, None])


def _fit_gradient(pixels: np.ndarray, rim: _Rim, axis: int) -> Backdrop:
    """Fit a gradient along the rows (axis 0, top to bottom) or the columns; three fits, each without the outliers of
    the last."""
    steps, index = pixels.shape[axis], (rim.rows, rim.columns)[axis]
    ramp = np.linspace(0, 1, steps)
    where, kept = ramp[index], np.ones(len(index), bool)
    for _ in range(3):
        design = np.stack([1 - where[kept], where[kept]])
        ends = np.linalg.solve(design @ design.T, design @ rim.colors[kept])  # (2, 3), least squares
        line = (np.outer(1 - ramp, ends[0]) + np.outer(ramp, ends[1])).astype(np.float32)  # (steps, 3)
        at_rim = line[index]
        off = redmean(rim.colors, at_rim)
        kept = off <= max(np.median(off) * 2, 6.0)
    across = line[:, None] if axis == 0 else line[None]
    return _made("gradient", [ends[0], ends[1]], np.broadcast_to(across, pixels.shape)[None], rim, at_rim[None])


def _fit_ground(pixels: np.ndarray, rim: _Rim) -> Backdrop:
    """Sky above a straight horizon, ground below it: the horizon is where the sides change most."""
    height = len(pixels)
    sides = np.concatenate([pixels[:, : rim.band], pixels[:, -rim.band :]], axis=1)
    sides = np.median(sides, axis=1)  # (H, 3)
    rows = np.arange(round(0.3 * height), round(0.9 * height))
    sums = np.cumsum(sides, axis=0)
    above, below = sums[rows - 1] / rows[:, None], (sums[-1] - sums[rows - 1]) / (height - rows[:, None])
    best = int(rows[redmean(above, below).argmax()])
    near = range(max(1, best - 6), min(height - 1, best + 7))  # the exact row: the sharpest step nearby
    horizon = max(near, key=lambda row: float(redmean(sides[row - 1], sides[row])))
    sky, ground = np.median(sides[:horizon], axis=0), np.median(sides[horizon:], axis=0)
    line = np.where(np.arange(height)[:, None] < horizon, sky, ground)  # (H, 3)
    return _made("ground", [ground, sky], np.broadcast_to(line[:, None], pixels.shape)[None], rim, line[rim.rows][None])


def _fit_pattern(pixels: np.ndarray, rim: _Rim) -> Backdrop | None:
    """Two colours that alternate around the rim; None if the second is on fewer than three sides."""
    first = _mode(rim.colors)
    rest = rim.colors[redmean(rim.colors, first) > TOLERANCE / 2]
    if len(rest) < 0.03 * len(rim.colors):
        return None
    second = _mode(rest)
    from_first, from_second = redmean(pixels, first), redmean(pixels, second)
    is_second = from_second < from_first
    close = np.minimum(from_first, from_second) < TOLERANCE
    strips = [np.s_[: rim.band], np.s_[-rim.band :], np.s_[:, : rim.band], np.s_[:, -rim.band :]]
    shares = [float((is_second & close)[strip].mean()) for strip in strips]
    if sum(0.02 < share < 0.98 for share in shares) < 2 or sum(share > 0.02 for share in shares) < 3:
        return None
    kind = _kind_of_pattern(is_second, rim.band, shares)
    share = float(is_second[rim.rows, rim.columns].mean())
    colors = [first, second] if share <= 0.5 else [second, first]
    possible = np.stack([first, second, (first + second) / 2])[:, None]  # the last one is that of antialiased edges
    return _made(kind, colors, np.broadcast_to(possible[:, None], (3, *pixels.shape)), rim, possible)


def _kind_of_pattern(is_second: np.ndarray, band: int, shares: list[float]) -> str:
    """Stripes have one colour along the rim's rows or columns, dots cover little, and the rest are checks."""
    left, top = is_second[:, :band].mean(axis=1), is_second[:band].mean(axis=0)
    even = [float(np.maximum(line, 1 - line).mean()) for line in (left, top)]
    changes = [int((np.diff(line > 0.5) != 0).sum()) for line in (left, top)]
    if (even[0] > 0.93 and changes[0] >= 3 and changes[1] <= 2) or (
        even[1] > 0.93 and changes[1] >= 3 and changes[0] <= 2
    ):
        return "stripes"
    share = float(np.mean(shares))
    return "dots" if min(share, 1 - share) < 0.28 else "checks"


def _mode(pixels: np.ndarray) -> np.ndarray:
    """The most frequent colour: the median over the fullest cell (16 levels a channel) and its neighbours."""
    cells = (pixels // 16).astype(int)
    codes = cells[:, 0] * 256 + cells[:, 1] * 16 + cells[:, 2]
    fullest = pixels[codes == np.bincount(codes).argmax()].mean(axis=0)
    return np.median(pixels[redmean(pixels, fullest) < TOLERANCE], axis=0)


def stands_out(pixels: np.ndarray, backdrop: Backdrop) -> np.ndarray:
    """(H, W) bool: the pixels without the backdrop's colour, holes filled, specks dropped."""
    off = np.min([redmean(pixels, one) for one in backdrop.expected], axis=0) > STANDS_OUT
    filled = ndimage.binary_fill_holes(off)
    labels, count = ndimage.label(filled, structure=np.ones((3, 3)))
    sizes = ndimage.sum_labels(filled, labels, range(1, count + 1))
    kept = 1 + np.flatnonzero(sizes >= max(4, MIN_AREA / 8 * filled.size))
    return np.isin(labels, kept)


def find_regions(pixels: np.ndarray, mask: np.ndarray) -> list[Region]:
    """Connected regions, as they are and across gaps of 1, 2.5 and 5 % of the short side; large ones first."""
    short = min(mask.shape)
    found: list[Region] = []
    for gap in (0.0, 0.01, 0.025, 0.05):
        reach = round(gap * short / 2)
        grown = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=reach) if reach else mask
        labels, _ = ndimage.label(grown, structure=np.ones((3, 3)))
        for index, window in enumerate(ndimage.find_objects(labels), 1):
            region = cut_out(pixels, mask & (labels == index), window, "joined" if reach else "whole")
            if region is not None and not any(_is_same(region, other) for other in found):
                found.append(region)
    return sorted(found, key=lambda region: -region.area)


def cut_out(
    pixels: np.ndarray, mask: np.ndarray, window: tuple[slice, ...] | None = None, found_by: str = "whole"
) -> Region | None:
    """The region of a mask of the whole picture, inside `window`; None if it is too small to be a thing."""
    limited = mask if window is None else mask[window]
    top, left = (0, 0) if window is None else (window[0].start or 0, window[1].start or 0)
    rows, columns = np.flatnonzero(limited.any(axis=1)), np.flatnonzero(limited.any(axis=0))
    if not len(rows):
        return None
    limited = limited[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()  # not a view of the whole picture
    y0, y1, x0, x1 = top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1
    if max(y1 - y0, x1 - x0) < MIN_SIDE * min(mask.shape) or limited.sum() < MIN_AREA * mask.size:
        return None
    inside = np.s_[y0:y1, x0:x1]
    return Region((int(x0), int(y0), int(x1), int(y1)), limited, pixels[inside], found_by)


def overlap(one: Region, other: Region) -> float:
    """Shared area of the boxes, as a share of the smaller one."""
    a, b = one.box, other.box
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / max(1, min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))


def _is_same(one: Region, other: Region) -> bool:
    a, b = (region.box for region in (one, other))
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared) > 0.9


def look_closer(pixels: np.ndarray, mask: np.ndarray, region: Region) -> list[Region]:
    """Parts of a region that may be separate things: one on another, or one inside another."""
    own = _own(mask, region)
    return [*_cuts(pixels, own, region), *_inner(pixels, region)]


def _cuts(pixels: np.ndarray, own: np.ndarray, region: Region) -> list[Region]:
    """The parts above and below the rows where the region's width changes most."""
    x0, y0, x1, y1 = region.box
    widths = region.mask.sum(axis=1)
    reach = max(2, (y1 - y0) // 40)
    if y1 - y0 < 8 * reach:
        return []
    jump = np.abs(widths[reach:] - widths[:-reach]).astype(float)
    found = []
    for _ in range(MAX_CUTS):
        steepest = np.flatnonzero(jump == jump.max())  # a sharp edge is as steep for `reach` rows
        first, last = int(steepest[0]), int(steepest[0])
        while last + 1 < len(jump) and jump[last + 1] == jump[first] and last - first < reach - 1:
            last += 1
        if jump[first] < 0.12 * (x1 - x0):
            break
        jump[max(0, first - reach - 2) : last + reach + 3] = 0
        for part in (np.s_[y0 : y0 + last + 1, x0:x1], np.s_[y0 + first + reach : y1, x0:x1]):
            found.append(cut_out(pixels, own, part, "cut"))
    return [part for part in found if part is not None]


def _own(mask: np.ndarray, region: Region) -> np.ndarray:
    """The region's mask in the size of the picture."""
    x0, y0, x1, y1 = region.box
    own = np.zeros_like(mask)
    own[y0:y1, x0:x1] = region.mask
    return own


def _inner(pixels: np.ndarray, region: Region) -> list[Region]:
    """The things inside a region with a rim of one colour, and the region with them painted over."""
    eroded = ndimage.binary_erosion(region.mask, iterations=2)
    ring = eroded & ~ndimage.binary_erosion(eroded, iterations=3)
    if ring.sum() < 12:
        return []
    color = _mode(region.pixels[ring].astype(np.float32))
    if (redmean(region.pixels[ring], color) < TOLERANCE).mean() < 0.8:
        return []
    off = ndimage.binary_fill_holes(eroded & (redmean(region.pixels, color) > STANDS_OUT))
    x0, y0, x1, y1 = region.box
    whole = np.zeros(pixels.shape[:2], bool)
    whole[y0:y1, x0:x1] = ndimage.binary_opening(off) if off.sum() > 200 else off
    inner = cut_out(pixels, whole, None, "inner")
    if inner is None:
        return []
    painted = np.where(ndimage.binary_dilation(off, iterations=2)[..., None], color, region.pixels).astype(np.uint8)
    return [inner, Region(region.box, region.mask, painted, "outer")]
