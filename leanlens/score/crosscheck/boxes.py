"""Proposes the boxes of things for the second checker: connected pixels, split at necks, and merged from flat zones."""

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 just outside
LEAST_AREA = 0.0025  # share of the image: what is smaller is a speck
LEAST_SIDE = 0.045  # share of the short side
SPLIT_AREA = 0.015  # share of the image from which a connected part is split
STEP = 7.0  # CIELAB distance of neighbours in one flat zone
COARSE = 8.0  # side of a cell of the histogram of colours
UNLIKE = 14.0  # CIELAB distance from a thing's most frequent colour at which a pixel is something else
HELD = 6  # boxes of what a connected part holds
ZONES = 14  # of one connected part
ALIKE = 0.8  # overlap of two boxes that are one
MOST = 40  # boxes of an image
GAPS = (3, 7)  # pixels across which parts are also joined


def propose_boxes(lab: np.ndarray, differs: np.ndarray) -> list[Box]:
    """Boxes that may hold one thing each, in an (H, W, 3) CIELAB image whose things are the pixels `differs`."""
    found: list[Box] = []
    split: list[list[Box]] = []
    labels, _ = ndimage.label(differs, np.ones((3, 3)))
    for index, window in enumerate(ndimage.find_objects(labels), 1):
        part = labels[window] == index
        if part.sum() < LEAST_AREA * differs.size:
            continue
        found.append(_box_of(window))
        if part.sum() >= SPLIT_AREA * differs.size:
            split.append([_moved(box, window) for box in _split(lab[window], part)])
    for gap in GAPS:
        joined, _ = ndimage.label(ndimage.binary_dilation(differs, np.ones((gap, gap))), np.ones((3, 3)))
        for index, window in enumerate(ndimage.find_objects(joined), 1):
            found.append(_tight((joined[window] == index) & differs[window], window))
    for at in range(max(map(len, split), default=0)):  # in turns, so that no part uses up all
        found += [boxes[at] for boxes in split if at < len(boxes)]
    return _distinct(found, differs.shape)


def _split(lab: np.ndarray, part: np.ndarray) -> list[Box]:
    return [*_held(lab, part), *_at_necks(part), *_merges(lab, part)]


def _held(lab: np.ndarray, part: np.ndarray) -> list[Box]:
    """What lies inside or before an evenly coloured thing: pixels unlike its most frequent colour, and the rest."""
    rough = np.floor(lab[part] / COARSE).astype(int)
    rough -= rough.min(axis=0)
    codes = np.ravel_multi_index(tuple(rough.T), tuple(rough.max(axis=0) + 1))
    color = np.median(lab[part][codes == np.bincount(codes).argmax()], axis=0)
    unlike = ndimage.binary_opening(part & (np.linalg.norm(lab - color, axis=-1) > UNLIKE), np.ones((2, 2)))
    labels, _ = ndimage.label(ndimage.binary_fill_holes(unlike), np.ones((3, 3)))
    found = [_box_of(window) for window in ndimage.find_objects(labels)]
    joined, _ = ndimage.label(ndimage.binary_dilation(unlike, np.ones((5, 5))), np.ones((3, 3)))
    found += [_box_of(window) for window in ndimage.find_objects(joined)]
    rest = _tight(ndimage.binary_opening(part & ~unlike, np.ones((3, 3))), np.s_[: len(part), : part.shape[1]])
    return sorted([*found, rest], key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))[:HELD]


def _at_necks(part: np.ndarray) -> list[Box]:
    """The parts that erosion separates, each grown back."""
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    found: list[Box] = []
    for reach in np.linspace(0.1, 0.8, 8) * depth.max():
        cores, count = ndimage.label(depth > reach)
        sizes = ndimage.sum_labels(part, cores, range(1, count + 1))
        large = 1 + np.flatnonzero(sizes >= 0.02 * part.sum())
        if len(large) < 2:
            continue
        nearest = _nearest(np.where(np.isin(cores, large), cores, 0))
        found += [_tight(part & (nearest == core), np.s_[: len(part), : part.shape[1]]) for core in large]
    return found


def _nearest(labels: np.ndarray) -> np.ndarray:
    """The label nearest to each pixel."""
    at = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    nearest: np.ndarray = labels[tuple(at)]
    return nearest


def _merges(lab: np.ndarray, part: np.ndarray) -> list[Box]:
    """Boxes of every merge of flat zones until one is left, the largest first: by colour, and by how compact."""
    zones = _zones(lab, part)
    count = int(zones.max())
    if count < 2:
        return []
    sizes = np.bincount(zones[part], minlength=count + 1)[1:].astype(float)
    means = np.stack([ndimage.mean(lab[..., at], zones, range(1, count + 1)) for at in range(3)], axis=1)
    boxes = np.array([_box_of(window) for window in ndimage.find_objects(zones)], float)
    found = [*boxes]
    for by_color in (1.0, 0.1):
        found += _merge(sizes.copy(), means.copy(), boxes.copy(), by_color)
    order = sorted(found, key=lambda box: -float((box[2] - box[0]) * (box[3] - box[1])))
    return [tuple(int(value) for value in box) for box in order]  # type: ignore[misc]


def _zones(lab: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The largest flat zones, numbered from 1; every other pixel of the part joins the nearest one."""
    height, width = part.shape
    number = np.arange(height * width).reshape(height, width)
    pairs = []
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        alike = part[one] & part[other] & (np.linalg.norm(lab[one] - lab[other], axis=-1) < STEP)
        pairs.append(np.stack([number[one][alike], number[other][alike]]))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), (number.size, number.size))
    labels = connected_components(graph, directed=False)[1].reshape(height, width)
    labels = np.where(part, labels + 1, 0)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = [at for at in np.argsort(-sizes)[:ZONES] if sizes[at] >= max(12, 0.01 * part.sum())]
    renumbered = np.zeros(len(sizes), int)
    renumbered[largest] = np.arange(1, len(largest) + 1)
    return np.where(part, _nearest(renumbered[labels]), 0) if largest else np.zeros_like(labels)


def _merge(sizes: np.ndarray, means: np.ndarray, boxes: np.ndarray, by_color: float) -> list[np.ndarray]:
    """Greedily merge zones whose boxes touch, cheapest first."""
    total, found = sizes.sum(), list[np.ndarray]()
    left = list(range(len(sizes)))
    while len(left) > 1:
        cost, a, b = min(
            (_cost(sizes, means, boxes, a, b, total, by_color), a, b) for at, a in enumerate(left) for b in left[:at]
        )
        if not np.isfinite(cost):
            break
        means[a] = (sizes[a] * means[a] + sizes[b] * means[b]) / (sizes[a] + sizes[b])
        sizes[a] += sizes[b]
        boxes[a] = _union(boxes[a], boxes[b])
        left.remove(b)
        found.append(boxes[a].copy())
    return found


def _cost(
    sizes: np.ndarray, means: np.ndarray, boxes: np.ndarray, a: int, b: int, total: float, by_color: float
) -> float:
    one, other = boxes[a], boxes[b]
    if max(one[0], other[0]) > min(one[2], other[2]) + 1 or max(one[1], other[1]) > min(one[3], other[3]) + 1:
        return float("inf")
    union = _union(one, other)
    empty = (union[2] - union[0]) * (union[3] - union[1]) - sizes[a] - sizes[b]
    color = float(np.linalg.norm(means[a] - means[b])) / 50
    return by_color * color + float(sizes[a] + sizes[b]) / total + float(empty) / total


def _union(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(one[:2], other[:2]), np.maximum(one[2:], other[2:])])


def _box_of(window: tuple[slice, ...]) -> Box:
    rows, columns = window
    return columns.start, rows.start, columns.stop, rows.stop


def _moved(box: Box, window: tuple[slice, ...]) -> Box:
    x, y = window[1].start, window[0].start
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def _tight(mask: np.ndarray, window: tuple[slice, ...]) -> Box:
    """The box around the pixels of a mask that covers `window`; empty if it has none."""
    y, x = window[0].start or 0, window[1].start or 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return x, y, x, y
    return int(x + columns[0]), int(y + rows[0]), int(x + columns[-1] + 1), int(y + rows[-1] + 1)


def _distinct(boxes: list[Box], shape: tuple[int, ...]) -> list[Box]:
    """The first MOST of the boxes that are large enough and unlike those before."""
    kept: list[Box] = []
    for box in boxes:
        width, height = box[2] - box[0], box[3] - box[1]
        if max(width, height) < LEAST_SIDE * min(shape) or width * height < LEAST_AREA * shape[0] * shape[1]:
            continue
        if all(box_overlap(box, other) < ALIKE for other in kept):
            kept.append(box)
        if len(kept) == MOST:
            break
    return kept


def box_overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / max(1, areas - shared)
