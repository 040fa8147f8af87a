"""The training pictures of an autoencoder: random crops, held-out crops, and whole pictures.

Shapes: B crops of side S pixels, H x W whole pictures.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leanlens.batches.survey import more_than
from leanlens.log import logger
from leanlens.pictures.decode import decode
from leanlens.pictures.sources import Source, open_source
from leanlens.resolution import TOKEN_PIXELS
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.resume import named

BUSY_CHOICES = 3  # random crops of which the busiest is used: most of a drawn picture is plain
AHEAD = 4  # steps whose pictures are read ahead
MEASURED = 256  # pictures from which the statistics of the latents are computed
OTHER_STEPS = 2**31  # a step number that no run reaches
MAX_UNREADABLE = 64  # pictures in a row; more means that the disk is gone


@dataclass(frozen=True)
class Pictures:
    """Where crops come from.

    Attributes:
        batches: number of a step -> endless batches (B, 3, S, S) in -1..1, from that step on.
        fixed: a number -> that many batches, the same in every run, which no step uses.
        whole: pictures (1, 3, H, W) in -1..1, for the statistics of the latents.
    """

    batches: Callable[[int], Iterator[Tensor]]
    fixed: Callable[[int], list[Tensor]]
    whole: Callable[[], Iterable[Tensor]]


def pictures_of_sources(recipe: AutoencoderRecipe) -> Pictures:
    """Crops of the pictures that a recipe names.

    Raises:
        ValueError: it names none, or they hold none.
    """
    if not recipe.crops.sources:
        raise ValueError("crops.sources is empty; name shards or folders of pictures")
    with named("crops.sources"):
        sources = [open_source(path) for path in recipe.crops.sources]
    there = sum(len(source.index()) for source in sources)
    for sentence in more_than(recipe.crops.pictures, there, "crops.pictures", "pictures"):
        logger.warning("%s", sentence)
    return Pictures(
        batches=lambda first: random_crops(sources, recipe, first),
        fixed=lambda steps: fixed_crops(sources, recipe, steps),
        whole=lambda: (picture for source in sources for picture in whole_pictures(source)),
    )


def random_crops(sources: Sequence[Source], recipe: AutoencoderRecipe, first: int) -> Iterator[Tensor]:
    """Batches (B, 3, S, S) in -1..1 of steps `first`, `first` + 1, ...; each depends on the seed and its step alone.

    A thread reads ahead. Pictures smaller than a crop are enlarged; pictures that cannot be read are skipped.

    Raises:
        ValueError: too many pictures in a row cannot be read.
    """
    places = [(source, number) for source in sources for number in range(len(source.index()))]
    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(_crops_of_step, places, recipe, first + later) for later in range(AHEAD))
        for step in count(first + AHEAD):
            yield ahead.popleft().result()
            ahead.append(pool.submit(_crops_of_step, places, recipe, step))


def fixed_crops(sources: Sequence[Source], recipe: AutoencoderRecipe, steps: int) -> list[Tensor]:
    """Batches that are the same in every run of this recipe and that none of its steps uses."""
    return list(islice(random_crops(sources, recipe, OTHER_STEPS), steps))


def _crops_of_step(places: Sequence[tuple[Source, int]], recipe: AutoencoderRecipe, step: int) -> Tensor:
    rng = np.random.default_rng((recipe.run.seed, step))
    cut: list[np.ndarray] = []
    unreadable = 0
    while len(cut) < recipe.crops.pictures * recipe.crops.crops:
        source, number = places[int(rng.integers(len(places)))]
        try:
            picture = _at_least(decode(source.read(number).image), recipe.crops.side)
        except ValueError as error:
            unreadable += 1
            if unreadable > MAX_UNREADABLE:
                raise ValueError(f"crops: {unreadable} pictures in a row cannot be read; the last: {error}") from error
            continue
        unreadable = 0
        cut += [_busy_crop(picture, recipe.crops.side, rng) for _ in range(recipe.crops.crops)]
    pixels = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _at_least(picture: Image.Image, side: int) -> np.ndarray:
    if min(picture.size) < side:
        scale = side / min(picture.size)
        picture = picture.resize((math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
    return np.asarray(picture)


def _busy_crop(picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    found = []
    for _ in range(BUSY_CHOICES):
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        found.append(picture[y : y + side, x : x + side])
    return max(found, key=lambda crop: float(crop[::2, ::2].std(axis=(0, 1)).sum()))


def whole_pictures(source: Source) -> Iterator[Tensor]:
    """The first readable pictures, (1, 3, H, W) in -1..1, cut to whole tokens."""
    for number in range(min(MEASURED, len(source.index()))):
        try:
            pixels = _at_least(decode(source.read(number).image), TOKEN_PIXELS)
        except ValueError:
            continue
        height, width = (length // TOKEN_PIXELS * TOKEN_PIXELS for length in pixels.shape[:2])
        yield torch.from_numpy(pixels[:height, :width].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
