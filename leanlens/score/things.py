"""The things of a picture: its regions, each with what it looks like.

Comes in: pixels and a gallery of rendered concepts. Goes out: `Sighting`s, no two of the same thing. Knows nothing of
prompts or truth, except that it looks closer where it is told that something is still missing.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from leanlens.score.features import GREY, Gallery, PictureNetwork
from leanlens.score.regions import Region, estimate_backdrop, find_regions, look_closer, overlap, stands_out

# Certainty from which a region counts as a thing at all. Measured on true pictures asked for what they do and do not
# show: things that are there begin at 0.56, and at 0.62 for parts; what is not there reaches 0.57, and 0.66 for parts.
LEAST = {"whole": 0.5, "joined": 0.5, "inner": 0.5, "outer": 0.5, "cut": 0.6, "window": 0.6}
# How much less certain a sighting is than it looks, by how its region was found: parts of one thing look like others.
DOUBT = {"whole": 0.0, "joined": 0.04, "cut": 0.03, "inner": 0.0, "outer": 0.0, "window": 0.13}
APART = {"window": 0.2}  # the overlap with a more certain sighting from which one is dropped; 0.5 for the others
PRIOR = 0.06  # how much more a region looks like what is looked for than it does
LEAST_NESTED = 0.45  # and inside another one
CLOSER_AREA = 0.02  # of the picture: regions this large are looked at more closely
CLOSER_MOST = 4  # of them
MOST_REGIONS = 48  # of a first look; a picture of noise has thousands


@dataclass(frozen=True)
class Sighting:
    """A region taken for a thing.

    Attributes:
        concept: what it looks like most.
        similarity: to that, -1 to 1, and PRIOR more where it was looked for.
        by_concept: (concepts, styles) similarity to everything.
    """

    region: Region
    concept: str
    similarity: float
    by_concept: np.ndarray

    @property
    def certainty(self) -> float:
        """The similarity less the doubt about the region."""
        return self.similarity - DOUBT[self.region.look]


def find_things(
    pixels: np.ndarray,
    gallery: Gallery,
    network: PictureNetwork,
    wanted: Collection[str] = (),
    is_enough: Callable[[list[Sighting]], bool] = lambda seen: True,
) -> list[Sighting]:
    """The things that stand out from the background, best first.

    Args:
        pixels: (H, W, 3) uint8.
        wanted: concepts that are looked for; a region between one of these and another concept is taken for it.
        is_enough: says whether all that is looked for was seen; where not, large regions are taken apart.
    """
    mask = stands_out(pixels, estimate_backdrop(pixels))
    regions = find_regions(pixels, mask)[:MOST_REGIONS]
    prior = np.array([PRIOR * (concept in wanted) for concept in gallery.concepts], np.float32)
    seen = _recognise(regions, gallery, network, prior)
    kept = _keep_distinct(seen)
    if is_enough(kept):
        return kept
    large: list[Region] = []
    for region in regions:
        is_new = all(overlap(region, other) < 0.9 for other in large)
        if is_new and region.area >= CLOSER_AREA * mask.size and len(large) < CLOSER_MOST:
            large.append(region)
    parts = [part for region in large for part in look_closer(pixels, mask, region)]
    return _keep_distinct(seen + _recognise(parts, gallery, network, prior))


def _recognise(regions: list[Region], gallery: Gallery, network: PictureNetwork, prior: np.ndarray) -> list[Sighting]:
    features = network.embed([_crop(region) for region in regions])
    found = []
    for region, table in zip(regions, gallery.similarity(features), strict=True):
        likeness = table.max(axis=1) + prior  # (concepts,)
        best = int(likeness.argmax())
        found.append(Sighting(region, gallery.concepts[best], float(likeness[best]), table))
    return found


def _crop(region: Region) -> Image.Image:
    return Image.fromarray(np.where(region.mask[..., None], region.pixels, np.uint8(GREY[0])))


def _keep_distinct(seen: list[Sighting]) -> list[Sighting]:
    """The most certain sightings that are not parts, or sums, of a more certain one."""
    kept: list[Sighting] = []
    for one in sorted(seen, key=lambda sighting: -sighting.certainty):
        if one.certainty < LEAST[one.region.look]:
            continue
        apart = APART.get(one.region.look, 0.5)
        if all(overlap(one.region, other.region) < apart or _may_nest(one, other) for other in kept):
            kept.append(one)
    return kept


def _may_nest(one: Sighting, other: Sighting) -> bool:
    """One thing inside or before another: clearly smaller, clearly something else."""
    small, large = sorted((one, other), key=lambda sighting: sighting.region.area)
    if small.concept == large.concept or small.region.area > 0.62 * large.region.area:
        return False
    return min(one.certainty, other.certainty) >= LEAST_NESTED
