"""Names what boxes of an image hold, for the second checker: EfficientNet-Lite1 features and three small classifiers.

The network (ImageNet) is part of a package in the extra `eval`; no model's training used it. The classifiers of
concepts, styles and colours are fitted on `compositions`, on the boxes that `boxes` proposes there.

N boxes, F = 1728 features, H = 200 cells of a colour histogram, C concepts, S styles.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from leanlens.log import info_once
from leanlens.scenes.icons import COLORS, SHAPES, Library, cache_folder
from leanlens.score.crosscheck.boxes import Box, box_overlap, propose_boxes
from leanlens.score.crosscheck.compositions import SIGN, Placed, compose
from leanlens.score.crosscheck.surround import find_surround, to_lab
from leanlens.score.efficientnet import FeatureNetwork
from leanlens.score.packed import FITS, read_packed, write_packed
from leanlens.store import Store, content_key

SIDE = 128  # pixels of a crop inside the network
EARLIER = 8  # cells along a side of the earlier features
FEATURES = 1280 + 4 * 112
AROUND = 0.06  # of a box's sides, added on every side
LIGHTS, TINTS = 8, 5  # cells of the histogram: lightness, and each opponent colour
TINT = 60.0  # of an opponent colour at the outermost cells
ROUNDS = 6  # times that each drawing is composed
SHAPE_ROUNDS = 5  # more times for a shape, which has one drawing
TOGETHER = (2, 6)  # drawings of a composition
SAME, OTHER = 0.72, 0.62  # overlap from which a proposal is a thing, and below which it is none
PROPOSED = 3  # proposals that are things, and as many that are none, kept of a composition
JITTER = 0.05  # of a true box's sides
HIDDEN, DROPPED, STYLE_DECAY = 128, 0.3, 5e-2  # of the classifier of styles
EPOCHS, STEP, RATE, DECAY, SMOOTHING = 14, 256, 2e-3, 2e-2, 0.05
STEPS = 31  # of a shipped weight on either side of 0
CLASSIFIERS = ("concepts", "hidden", "styles", "colors")  # in a file, and in the order of `Names`
SHIPPED = FITS / "common.crosscheck.safetensors"
RECIPE = 2  # part of the cache's key: raise it when compositions, proposals or the fit change


@cache
def crosscheck_network() -> FeatureNetwork:
    """The network, shared by the whole process.

    Raises:
        ValueError: the packages of the extra `eval` are missing.
    """
    return FeatureNetwork(1, EARLIER, FEATURES, lambda crop: crop)  # `crop_box` makes crops of SIDE x SIDE


def crop_box(image: Image.Image, box: Box) -> Image.Image:
    """A square with a box of the image and a little around it; beyond that, the median of the box's border."""
    x0, y0, x1, y1 = box
    half = (0.5 + AROUND) * max(x1 - x0, y1 - y0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    wide, high = (0.5 + AROUND) * (x1 - x0), (0.5 + AROUND) * (y1 - y0)
    inner = image.crop((round(x - wide), round(y - high), round(x + wide), round(y + high)))
    scale = SIDE / (2 * half)
    size = (max(1, min(SIDE, round(inner.width * scale))), max(1, min(SIDE, round(inner.height * scale))))
    pixels = np.asarray(image)[max(0, y0) : y1, max(0, x0) : x1]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    square = Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in np.median(border, axis=0)))
    square.paste(inner.resize(size, Image.Resampling.BILINEAR), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def color_histogram(lab: np.ndarray) -> np.ndarray:
    """(M, 3) CIELAB -> (H,) float32, square roots of the shares of the pixels in each cell."""
    light = np.clip(lab[:, 0] / 100 * LIGHTS, 0, LIGHTS - 1).astype(int)
    tints = np.clip((lab[:, 1:] + TINT) / (2 * TINT) * TINTS, 0, TINTS - 1).astype(int)
    cells = (light * TINTS + tints[:, 0]) * TINTS + tints[:, 1]
    counts = np.bincount(cells, minlength=LIGHTS * TINTS * TINTS)
    return np.sqrt(counts / max(1, len(lab))).astype(np.float32)


@dataclass(frozen=True)
class Names:
    """Classifiers of concepts, styles and colours; the last row of each array of weights is the bias.

    Attributes:
        concepts: C names, in the order of the columns of `concept_weights`, whose last column stands for no thing.
        styles: S names.
        drawn: (C, S) bool, whether a style draws a concept.
        style_hidden: (F + 1, HIDDEN), what the styles of every concept are told apart by.
        style_weights: (HIDDEN + 1, C * S).
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    drawn: np.ndarray
    concept_weights: np.ndarray
    style_hidden: np.ndarray
    style_weights: np.ndarray
    color_weights: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of the weights."""
        digest = hashlib.sha256()
        for weights in (self.concept_weights, self.style_hidden, self.style_weights, self.color_weights):
            digest.update(np.ascontiguousarray(weights).tobytes())
        return digest.hexdigest()

    def concept_odds(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, C + 1) log probabilities, up to a constant for each row."""
        return _odds(features, self.concept_weights)

    def style_odds(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, C, S) log probabilities of the styles of each concept, up to a constant."""
        odds = _odds(np.maximum(_odds(features, self.style_hidden), 0), self.style_weights)
        return odds.reshape(len(features), len(self.concepts), len(self.styles))

    def color_odds(self, histograms: np.ndarray) -> np.ndarray:
        """(N, H) -> (N, colours) log probabilities, up to a constant for each row."""
        return _odds(histograms, self.color_weights)


def _odds(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    odds: np.ndarray = rows @ weights[:-1] + weights[-1]
    return odds


def open_names(library: Library, network: FeatureNetwork, folder: Path | None = None) -> Names:
    """The classifiers of a library: shipped with the package for `common`, else fitted once and then read by their
    content key from `folder` (default: the cache of libraries).

    Raises:
        ValueError: they have to be fitted, and the library has no drawings.
    """
    shipped = read_packed(SHIPPED)
    if shipped and shipped.key == _key(library.fingerprint, network):
        facts = [shipped.facts[name] for name in ("concepts", "styles", "drawn")]
        return Names(tuple(facts[0]), tuple(facts[1]), np.array(facts[2], bool), *_weights(shipped.arrays))
    return fitted_names(library, network, folder)


def fitted_names(library: Library, network: FeatureNetwork, folder: Path | None = None) -> Names:
    """The classifiers of a library as they were fitted, without what ships; see `open_names`."""
    key, store = _key(library.fingerprint, network), Store(folder or cache_folder() / "features")
    concepts = tuple(sorted({name for rows in library.bitmaps.values() for name in rows} | {SIGN}))
    styles = tuple(library.styles)
    kept = store.load(key)
    if kept is None:
        if not library.bitmaps:
            raise ValueError("library has no drawings to fit a scorer to; run `leanlens scenes sources`")
        info_once(f"learning to name {len(concepts)} concepts for the second checker; kept in {store.folder}")
        kept = _learn(library, network, concepts, styles)
        store.save(key, kept)
    drawn = np.array([[name in library.bitmaps[style] for style in styles] for name in concepts])
    arrays = {name: tensor.numpy() for name, tensor in kept.items()}
    return Names(concepts, styles, drawn.reshape(len(concepts), len(styles)), *_weights(arrays))


def _weights(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(arrays[name] for name in CLASSIFIERS)


def _key(fingerprint: str, network: FeatureNetwork) -> str:
    """The content key of the fit to a library."""
    fit = [ROUNDS, SHAPE_ROUNDS, TOGETHER, PROPOSED, HIDDEN, DROPPED, EPOCHS, STEP, RATE, DECAY, STYLE_DECAY, SMOOTHING]
    return content_key(crosscheck=fingerprint, network=network.fingerprint, recipe=[RECIPE, SIDE, EARLIER, *fit])


def ship_names(library: Library, network: FeatureNetwork, path: Path) -> None:
    """Write the classifiers of a library to the file that ships."""
    names = fitted_names(library, network)
    facts = {"concepts": names.concepts, "styles": names.styles, "drawn": names.drawn.astype(int).tolist()}
    parts = (names.concept_weights, names.style_hidden, names.style_weights, names.color_weights)
    weights = {name: (array, STEPS) for name, array in zip(CLASSIFIERS, parts, strict=True)}
    write_packed(path, library.fingerprint, _key(library.fingerprint, network), facts, weights)


@dataclass
class _Rows:
    """What the classifiers are fitted on: one entry per crop; -1 where there is no style or colour."""

    concepts: list[int]
    styles: list[int]
    colors: list[int]
    histograms: list[np.ndarray]


def _learn(
    library: Library, network: FeatureNetwork, concepts: tuple[str, ...], styles: tuple[str, ...]
) -> dict[str, Tensor]:
    rows = _Rows([], [], [], [])
    groups = _groups(library)
    bar = tqdm(
        groups, f"fitting the second checker to {len(concepts)} concepts", unit="image", disable=not sys.stderr.isatty()
    )
    features = torch.from_numpy(network.embed(_crops(library, bar, concepts, styles, rows)))
    of_concept, of_style, of_color = (torch.tensor(labels) for labels in (rows.concepts, rows.styles, rows.colors))
    histograms = torch.from_numpy(np.stack(rows.histograms))
    return {
        "concepts": _fit(features, of_concept, len(concepts) + 1),
        **_fit_styles(features, of_concept, of_style, (len(concepts), len(styles))),
        "colors": _fit(histograms[of_color >= 0], of_color[of_color >= 0], len(COLORS), standard=False),
    }


def _groups(library: Library) -> list[list[tuple[str, str]]]:
    """The drawings of each composition: every drawing ROUNDS times, in random company."""
    rng, groups = np.random.default_rng([RECIPE, 7]), list[list[tuple[str, str]]]()
    drawings = [(concept, style) for style in sorted(library.bitmaps) for concept in sorted(library.bitmaps[style])]
    several = drawings * ROUNDS + [one for one in drawings if one[1] == SHAPES] * SHAPE_ROUNDS * ROUNDS
    order = [several[at] for at in rng.permutation(len(several))]
    while order:
        count = int(rng.integers(TOGETHER[0], TOGETHER[1] + 1))
        groups.append(order[:count])
        order = order[count:]
    return groups


def _crops(
    library: Library,
    groups: Iterable[Sequence[tuple[str, str]]],
    concepts: tuple[str, ...],
    styles: tuple[str, ...],
    rows: _Rows,
) -> Iterator[Image.Image]:
    """Yield the crops of compositions, and append their labels to `rows`."""
    for number, drawings in enumerate(groups):
        rng = np.random.default_rng([RECIPE, 11, number])
        image, placed = compose(library, drawings, rng)
        pixels = np.asarray(image)
        lab, differs = to_lab(pixels), find_surround(pixels).differs
        for box, one in _examples(placed, propose_boxes(lab, differs), rng):
            rows.concepts.append(concepts.index(one.concept) if one else len(concepts))
            rows.styles.append(styles.index(one.style) if one and one.style else -1)
            rows.colors.append(tuple(COLORS).index(one.color) if one and one.color else -1)
            nested = [other.box for other in placed if one and other is not one]
            rows.histograms.append(color_histogram(visible_colors(lab, differs, box, nested)))
            yield crop_box(image, box)


def _examples(
    placed: Sequence[Placed], proposed: Sequence[Box], rng: np.random.Generator
) -> Iterator[tuple[Box, Placed | None]]:
    """Boxes with the thing that each holds: every true box, shaken, and some of the proposed ones."""
    for one in placed:
        x0, y0, x1, y1 = one.box
        shift = rng.uniform(-JITTER, JITTER, 4) * (x1 - x0, y1 - y0, x1 - x0, y1 - y0)
        moved = np.array(one.box) + shift.round().astype(int)
        yield (max(0, int(moved[0])), max(0, int(moved[1])), int(moved[2]), int(moved[3])), one
    things, nothings = 0, 0
    for at in rng.permutation(len(proposed)):
        box = proposed[at]
        best = max(placed, key=lambda one: box_overlap(one.box, box), default=None)
        shared = box_overlap(best.box, box) if best else 0.0
        if shared >= SAME and things < PROPOSED:
            things += 1
            yield box, best
        elif shared < OTHER and nothings < PROPOSED:
            nothings += 1
            yield box, None


def visible_colors(lab: np.ndarray, differs: np.ndarray, box: Box, others: Sequence[Box]) -> np.ndarray:
    """(M, 3) CIELAB of the pixels in a box that belong to things, without smaller boxes inside or before it."""
    x0, y0, x1, y1 = box
    kept = np.zeros(differs.shape, bool)
    kept[y0:y1, x0:x1] = differs[y0:y1, x0:x1]
    whole = kept.copy()
    for other in others:
        if (other[2] - other[0]) * (other[3] - other[1]) < 0.7 * (x1 - x0) * (y1 - y0):
            kept[other[1] : other[3], other[0] : other[2]] = False
    chosen = kept if kept.sum() >= 0.15 * whole.sum() and kept.any() else whole
    return lab[chosen] if chosen.any() else lab[y0:y1, x0:x1].reshape(-1, 3)


class _Styles(nn.Module):
    """Rows (B, F) of things of concepts (B,) -> odds of styles (B, S): one hidden layer, an output for each concept."""

    def __init__(self, features: int, concepts: int, styles: int):
        super().__init__()
        self.hidden, self.shared = nn.Linear(features, HIDDEN), nn.Linear(HIDDEN, styles)
        self.own = nn.Parameter(torch.zeros(concepts, HIDDEN, styles))

    def forward(self, rows: Tensor, concepts: Tensor) -> Tensor:
        """See the class."""
        hidden = functional.relu(self.hidden(functional.dropout(rows, DROPPED, self.training)))
        own: Tensor = self.shared(hidden) + (hidden[:, None] @ self.own[concepts])[:, 0]
        return own

    def weights(self, mean: Tensor, deviation: Tensor) -> dict[str, Tensor]:
        """For raw rows, as `Names` holds them."""
        hidden = self.hidden.weight.detach() / deviation
        both = self.shared.weight.detach().T + self.own.detach()  # (C, HIDDEN, S)
        bias = self.shared.bias.detach().repeat(len(both))
        return {
            "hidden": torch.cat([hidden.T, (self.hidden.bias.detach() - hidden @ mean)[None]]),
            "styles": torch.cat([both.transpose(0, 1).flatten(1), bias[None]]),
        }


def _fit_styles(features: Tensor, of_concept: Tensor, of_style: Tensor, sizes: tuple[int, int]) -> dict[str, Tensor]:
    """Fit the classifier of styles on the rows that have one."""
    styled = of_style >= 0
    rows, concepts, styles = features[styled], of_concept[styled], of_style[styled]
    mean, deviation = rows.mean(0), rows.std(0) + 1e-3
    scaled = (rows - mean) / deviation
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(2)
        network = _Styles(rows.shape[1], *sizes)
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=STYLE_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(scaled) // STEP))
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(scaled)).split(STEP):
                odds = network(scaled[chosen], concepts[chosen])
                loss = functional.cross_entropy(odds, styles[chosen], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.weights(mean, deviation)


def _fit(rows: Tensor, labels: Tensor, classes: int, standard: bool = True) -> Tensor:
    """Multinomial logistic regression of (R, F) rows on (R,) labels -> (F + 1, classes) weights of the raw rows."""
    mean = rows.mean(0)
    deviation = rows.std(0) + 1e-3 if standard else torch.full_like(mean, 0.05)
    scaled = (rows - mean) / deviation
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(1)
        linear = nn.Linear(rows.shape[1], classes)
        nn.init.zeros_(linear.weight)
        optimizer = torch.optim.AdamW(linear.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(scaled) // STEP))
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(scaled)).split(STEP):
                loss = functional.cross_entropy(linear(scaled[chosen]), labels[chosen], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    weights = linear.weight.detach() / deviation
    return torch.cat([weights.T, (linear.bias.detach() - weights @ mean)[None]])
