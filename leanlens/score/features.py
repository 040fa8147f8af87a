"""Features of image crops from a pretrained network, and a linear classifier on them for the concepts of a library.

The network (EfficientNet-Lite2, ImageNet) is part of two packages in the extra `eval`; it was trained on neither our
models' images nor our icons. The classifier is fitted on `augmentation` crops of the icons.

N crops, R renderings of the training set, F = 1760 features, C concepts, S styles.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
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
from leanlens.scenes.icons import SHAPES, Library, cache_folder
from leanlens.score import augmentation
from leanlens.score.augmentation import GREY
from leanlens.score.efficientnet import FeatureNetwork
from leanlens.score.packed import FITS, Packed, read_packed, write_packed
from leanlens.store import Store, content_key

SIDE = 128  # pixels of a crop inside the network: icons are simple, and 260 costs four times as much
EARLIER = 8  # cells along a side of the earlier features, which separate shapes that the last features do not
FEATURES = 1280 + 4 * 120
SIGN = "sign"  # the concept of signs and labels
RENDERINGS = 100  # renderings of each concept, over all its drawings
FEWEST, MOST = 8, 24  # renderings of each drawing
BOARDS = 24  # signs, each rendered MOST times
NOTHINGS = 0.25  # crops without a thing for each rendering of one
EPOCHS, STEP, RATE, DECAY, SMOOTHING = 12, 256, 2e-3, 1e-2, 0.05  # of the fit: AdamW, rows a step
CONCEPT_STEPS, STYLE_STEPS = 127, 90  # of a shipped weight on either side of 0
CONCEPTS = FITS / "common.concepts.safetensors"
STYLES = (FITS / "common.styles-1.safetensors", FITS / "common.styles-2.safetensors")  # each under 1 MB
RECIPE = 5  # part of the cache's key: raise it when the training set or the fit changes


@cache
def picture_network() -> FeatureNetwork:
    """The network, shared by the whole process.

    Raises:
        ValueError: the packages of the extra `eval` are missing.
    """
    return FeatureNetwork(2, EARLIER, FEATURES, fit_square)


def fit_square(crop: Image.Image) -> Image.Image:
    """The crop in a grey square of SIDE x SIDE, its longest side 0.9 of that."""
    scale = 0.9 * SIDE / max(crop.size)
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    square = Image.new("RGB", (SIDE, SIDE), GREY)
    square.paste(crop.resize(size, Image.Resampling.BICUBIC), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


@dataclass(frozen=True)
class Gallery:
    """A linear classifier of features for the concepts and drawings of a library.

    Attributes:
        concepts: C names, in the order of the columns of `concept_odds`.
        styles: S names.
        drawings: (D, 2) concept and style of each drawing; shapes and signs have no style and are not listed.
        concept_weights: (F + 1, C + 1); the last row is the bias, the last column stands for no thing.
        drawing_weights: (F + 1, D).
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    drawings: np.ndarray
    concept_weights: np.ndarray
    drawing_weights: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of the weights."""
        digest = hashlib.sha256(np.ascontiguousarray(self.concept_weights).tobytes())
        digest.update(np.ascontiguousarray(self.drawing_weights).tobytes())
        return digest.hexdigest()

    def concept_odds(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, C + 1) log probabilities, up to a constant for each row; the last column is no thing."""
        odds: np.ndarray = features @ self.concept_weights[:-1] + self.concept_weights[-1]
        return odds

    def style_odds(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, C, S) log probabilities of every drawing, less a constant for each row; -inf where a style does
        not draw a concept."""
        odds = np.full((len(features), len(self.concepts), len(self.styles)), -np.inf, np.float32)
        concept, style = self.drawings.T
        odds[:, concept, style] = features @ self.drawing_weights[:-1] + self.drawing_weights[-1]
        return odds


def open_gallery(library: Library, network: FeatureNetwork, folder: Path | None = None) -> Gallery:
    """The gallery of a library: shipped with the package for `common`, else fitted once and then read by its content
    key from `folder` (default: the cache of libraries).

    Raises:
        ValueError: the gallery has to be fitted, and the library has no drawings.
    """
    shipped = read_packed(CONCEPTS)
    if shipped and shipped.key == _key(library.fingerprint, network):
        return _unpacked(shipped)
    return fitted_gallery(library, network, folder)


def fitted_gallery(library: Library, network: FeatureNetwork, folder: Path | None = None) -> Gallery:
    """The gallery of a library as it was fitted, without what ships; see `open_gallery`."""
    key, store = _key(library.fingerprint, network), Store(folder or cache_folder() / "features")
    drawings = [(concept, style) for style in sorted(library.bitmaps) for concept in sorted(library.bitmaps[style])]
    concepts = tuple(sorted({concept for concept, _ in drawings} | {SIGN}))
    kept = store.load(key)
    if kept is None:
        if not library.bitmaps:
            raise ValueError("library has no drawings to fit a scorer to; run `leanlens scenes sources`")
        info_once(f"learning to name {len(concepts)} concepts from augmented renderings; kept in {store.folder}")
        kept = _learn(library, network, drawings, concepts)
        store.save(key, kept)
    styles = tuple(library.styles)
    styled = [(concepts.index(concept), styles.index(style)) for concept, style in drawings if style != SHAPES]
    return Gallery(
        concepts, styles, np.array(styled).reshape(-1, 2), kept["concepts"].numpy(), kept["drawings"].numpy()
    )


def _key(fingerprint: str, network: FeatureNetwork) -> str:
    """The content key of the fit to a library."""
    fit = [RENDERINGS, FEWEST, MOST, BOARDS, NOTHINGS, EPOCHS, STEP, RATE, DECAY, SMOOTHING]
    return content_key(library=fingerprint, network=network.fingerprint, recipe=[RECIPE, SIDE, EARLIER, *fit])


def ship_gallery(library: Library, network: FeatureNetwork, concepts: Path, styles: Sequence[Path]) -> None:
    """Write the gallery of a library to the files that ship: what names concepts, and what tells styles apart."""
    gallery, key = fitted_gallery(library, network), _key(library.fingerprint, network)
    facts = {
        "concepts": gallery.concepts,
        "styles": gallery.styles,
        "drawings": gallery.drawings.tolist(),
        "phrases": library.styles,
        "categories": {name: concept.category for name, concept in library.concepts.items()},
    }
    write_packed(concepts, library.fingerprint, key, facts, {"concepts": (gallery.concept_weights, CONCEPT_STEPS)})
    first = _first_drawings(gallery.drawings)
    others = np.flatnonzero(first != np.arange(len(first)))
    relative = (gallery.drawing_weights - gallery.drawing_weights[:, first])[:, others]
    for path, part in zip(styles, np.array_split(relative, len(styles), axis=1), strict=True):
        write_packed(path, library.fingerprint, key, {}, {"drawings": (part, STYLE_STEPS)})


def _unpacked(shipped: Packed) -> Gallery:
    parts = [packed.arrays["drawings"] for packed in map(read_packed, STYLES) if packed]
    facts, drawings = shipped.facts, np.array(shipped.facts["drawings"])
    first = _first_drawings(drawings)
    weights = np.zeros((FEATURES + 1, len(drawings)), np.float32)
    weights[:, first != np.arange(len(first))] = np.concatenate(parts, axis=1)
    return Gallery(tuple(facts["concepts"]), tuple(facts["styles"]), drawings, shipped.arrays["concepts"], weights)


def _first_drawings(drawings: np.ndarray) -> np.ndarray:
    """For each drawing, the first one of its concept: only the odds between the styles of a concept are ever used."""
    _, first, concept = np.unique(drawings[:, 0], return_index=True, return_inverse=True)
    return first[concept]


def _learn(
    library: Library, network: FeatureNetwork, drawings: list[tuple[str, str]], concepts: tuple[str, ...]
) -> dict[str, Tensor]:
    """Fit the weights of a gallery."""
    labels: list[tuple[int, int]] = []
    crops = tqdm(
        _renderings(library, drawings, concepts, labels),
        f"fitting the names of {len(concepts)} concepts",
        _num_renderings(drawings),
        unit="crop",
        disable=not sys.stderr.isatty(),
    )
    features = torch.from_numpy(network.embed(crops))
    of_concept, of_drawing = torch.tensor(labels).unbind(1)
    styled = of_drawing >= 0
    count = sum(style != SHAPES for _, style in drawings)
    return {
        "concepts": _fit(features, of_concept, len(concepts) + 1),
        "drawings": _fit(features[styled], of_drawing[styled], count),
    }


def _turns_of(concept: str, often: Counter[str]) -> int:
    """How many renderings each drawing of a concept gets."""
    return min(MOST, max(FEWEST, round(RENDERINGS / often[concept])))


def _num_renderings(drawings: list[tuple[str, str]]) -> int:
    """How many crops `_renderings` yields, including signs and crops without a thing."""
    often = Counter(concept for concept, _ in drawings)
    things = [sum(turn < _turns_of(concept, often) for concept, _ in drawings) for turn in range(MOST)]
    return sum(num + BOARDS + round(NOTHINGS * num) for num in things)


def _renderings(
    library: Library,
    drawings: list[tuple[str, str]],
    concepts: tuple[str, ...],
    labels: list[tuple[int, int]],
) -> Iterator[Image.Image]:
    """Yield crops of drawings, signs and no things; append the concept of each, and the number of its drawing among
    those with a style, or -1."""
    numbers = {drawing: number for number, drawing in enumerate(one for one in drawings if one[1] != SHAPES)}
    often = Counter(concept for concept, _ in drawings)
    signs = augmentation.sign_bitmaps(library, BOARDS)
    for turn in range(MOST):
        rng, things = np.random.default_rng([RECIPE, turn]), 0
        for concept, style in drawings:
            if turn >= _turns_of(concept, often):
                continue
            labels.append((concepts.index(concept), numbers.get((concept, style), -1)))
            yield augmentation.thing_crop(library, concept, style, rng)
            things += 1
        for sign in signs:
            labels.append((concepts.index(SIGN), -1))
            yield augmentation.sign_crop(sign, rng)
        for _ in range(round(NOTHINGS * things)):
            labels.append((len(concepts), -1))
            yield augmentation.negative_crop(library, drawings, rng)


def _fit(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Multinomial logistic regression of (R, F) features on (R,) labels -> (F + 1, classes) weights of raw features."""
    mean, deviation = features.mean(0), features.std(0) + 1e-4
    rows = (features - mean) / deviation
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        linear = nn.Linear(rows.shape[1], classes)
        nn.init.zeros_(linear.weight)
        optimizer = torch.optim.AdamW(linear.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, EPOCHS * -(-len(rows) // STEP))
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(rows)).split(STEP):
                loss = functional.cross_entropy(linear(rows[chosen]), labels[chosen], label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    weights = linear.weight.detach() / deviation
    return torch.cat([weights.T, (linear.bias.detach() - weights @ mean)[None]])
