"""The things of a picture: its regions, each with what it looks like.

Comes in: pixels and a gallery of what a library can draw. Goes out: `Sighting`s, no two of the same thing. Knows
nothing of prompts or truth.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.special import softmax

from leanlens.score.features import Gallery, PictureNetwork
from leanlens.score.outlines import find_outlines
from leanlens.score.regions import Region, cut_out, estimate_backdrop, find_regions, look_closer, overlap, stands_out
from leanlens.score.worn import GREY

# Probability from which a region counts as a thing at all: where the scorer says yes to as many things that a person
# would not name as it says no to others (benchmarks/by_eye.py, the scenes of seed 0).
LEAST = 0.35
# How much less probable a sighting is than it looks, by how its region was found: sums of things look like things too.
DOUBT = {"outline": 0.0, "whole": 0.0, "inner": 0.0, "outer": 0.0, "cut": 0.05, "joined": 0.1}
PRIOR = 1.0  # nats by which a region looks more like what is looked for than it does
APART = 0.5  # the overlap with a more certain sighting from which one is dropped
APART_BY_THEMSELVES = {"outline", "inner", "outer"}  # looks of regions that leave out what is inside or before them
CLOSER_AREA = 0.02  # of the picture: what hangs together and is as large is looked at more closely
CLOSER_MOST = 4  # of them
MOST_REGIONS = 48  # of a first look: a picture of noise has thousands


@dataclass(frozen=True)
class Sighting:
    """A region taken for a thing.

    Attributes:
        concept: what it looks like most.
        probability: of that, where PRIOR favours what is looked for.
        by_concept: (C,) probability of every concept, without PRIOR.
        style_odds: (C, S) log probability of every drawing, less a constant.
    """

    region: Region
    concept: str
    probability: float
    by_concept: np.ndarray
    style_odds: np.ndarray

    @property
    def certainty(self) -> float:
        """The probability less the doubt about the region."""
        return self.probability - DOUBT[self.region.look]

    @property
    def is_certain(self) -> bool:
        """Whether it counts as that thing."""
        return self.certainty >= LEAST


def find_things(
    pixels: np.ndarray, gallery: Gallery, network: PictureNetwork, wanted: Collection[str] = ()
) -> list[Sighting]:
    """The things of a picture, most certain first, those that look like nothing known after them.

    Args:
        pixels: (H, W, 3) uint8.
        wanted: concepts that are looked for; a region between one of these and another concept is taken for it.
    """
    outlined = [cut_out(pixels, mask, None, "outline") for mask in find_outlines(pixels)]
    mask = stands_out(pixels, estimate_backdrop(pixels))
    hanging = find_regions(pixels, mask)
    regions = [*filter(None, outlined), *hanging][:MOST_REGIONS]
    large = [region for region in hanging if region.area >= CLOSER_AREA * mask.size][:CLOSER_MOST]
    regions += [part for region in large for part in look_closer(pixels, mask, region)]
    return _keep_distinct(_recognise(regions, gallery, network, wanted))


def _recognise(
    regions: list[Region], gallery: Gallery, network: PictureNetwork, wanted: Collection[str]
) -> list[Sighting]:
    features = network.embed([_crop(region) for region in regions])
    odds = gallery.concept_odds(features)
    favoured = odds + PRIOR * np.array([concept in wanted for concept in (*gallery.concepts, "")], np.float32)
    found = []
    for region, plain, likely, styles in zip(
        regions, softmax(odds, axis=1), softmax(favoured, axis=1), gallery.style_odds(features), strict=True
    ):
        best = int(likely[:-1].argmax())
        found.append(Sighting(region, gallery.concepts[best], float(likely[best]), plain[:-1], styles))
    return found


def _crop(region: Region) -> Image.Image:
    return Image.fromarray(np.where(region.mask[..., None], region.pixels, np.uint8(GREY[0])))


def _keep_distinct(seen: list[Sighting]) -> list[Sighting]:
    """The most certain sightings that are not parts, or sums, of a more certain one."""
    kept: list[Sighting] = []
    for one in sorted(seen, key=lambda sighting: -sighting.certainty):
        if all(overlap(one.region, other.region) < APART or _may_nest(one, other) for other in kept):
            kept.append(one)
    return kept


def _may_nest(one: Sighting, other: Sighting) -> bool:
    """One thing inside or before another: clearly smaller, clearly something else, and found as such."""
    small, large = sorted((one, other), key=lambda sighting: sighting.region.area)
    if small.concept == large.concept or small.region.area > 0.62 * large.region.area:
        return False
    return bool({one.region.look, other.region.look} & APART_BY_THEMSELVES)
