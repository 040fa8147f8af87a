"""Scores the images of each model as a set, reading them from disk as they are needed."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from leanlens.evaluate.draw import KeptImage, Say
from leanlens.evaluate.results_json import rounded
from leanlens.evaluate.set_scores import Diversity, FrechetDistance, KernelDistance, Network, SetScorer, fid_helper
from leanlens.score.protocol import Failed

if TYPE_CHECKING:
    from leanlens.evaluate.run import Row


class KeptImages(Sequence[Image.Image]):
    """Images on disk, each opened when it is asked for."""

    def __init__(self, images: Sequence[KeptImage]):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, at: int) -> Image.Image: ...
    @overload
    def __getitem__(self, at: slice) -> "KeptImages": ...
    def __getitem__(self, at: int | slice) -> "Image.Image | KeptImages":
        return KeptImages(self.images[at]) if isinstance(at, slice) else self.images[at].open()


def set_scorers_of(network: Network) -> tuple[SetScorer, ...]:
    """FID, KID and diversity on a network, and FID on fid-helper's where the extra `fid` is installed."""
    own = _remembering(network)
    found: tuple[SetScorer, ...] = (FrechetDistance(own), KernelDistance(own), Diversity(own))
    try:
        return (*found, FrechetDistance(fid_helper()))
    except ValueError:  # the extra is missing
        return found


def _remembering(network: Network) -> Network:
    """The network, which computes the features of the same sequence once."""
    kept: dict[int, tuple[Any, np.ndarray]] = {}

    def features(images: Sequence[Image.Image]) -> np.ndarray:
        if id(images) not in kept:
            kept[id(images)] = (images, network.features(images))  # the images too, so that no other gets their id
        return kept[id(images)][1]

    return Network(network.name, network.weights, features)


def set_scores_of(
    scorers: Sequence[SetScorer],
    reference: Callable[[], Sequence[Image.Image]] | None,
    rows: "Sequence[Row]",
    say: Say = lambda text: None,
) -> dict[str, dict[str, float | Failed]]:
    """Row name -> scorer name -> number, for models and true pictures. Images that could not be drawn are left out.

    Distances are of the first image of each prompt; diversity is over all of its images.
    """
    if not scorers:
        return {}
    other = None if reference is None else reference()
    found: dict[str, dict[str, float | Failed]] = {}
    for row in rows:
        if row.role == "control":
            continue
        say(f"{row.name}: distances")
        whole = [(item, image) for item, images in zip(row.items, row.images, strict=True)
                 for image in images if image.path is not None]  # fmt: skip
        first = [(item, images[0]) for item, images in zip(row.items, row.images, strict=True)
                 if images and images[0].path is not None]  # fmt: skip
        sets = {True: (KeptImages([image for _, image in whole]), [item for item, _ in whole]),
                False: (KeptImages([image for _, image in first]), [item for item, _ in first])}  # fmt: skip
        found[row.name] = {}
        for scorer in scorers:
            images, items = sets[isinstance(scorer, Diversity)]
            found[row.name][scorer.name] = scorer(images, other, items)
    return found


def set_scores_as_json(scores: Mapping[str, Mapping[str, float | Failed]]) -> dict[str, Any]:
    """JSON values; a failure becomes {"failed": reason}."""
    return {
        row: {
            name: {"failed": value.reason} if isinstance(value, Failed) else rounded(value)
            for name, value in one.items()
        }
        for row, one in scores.items()
    }
