"""Detects the things in an image: proposes regions, classifies each with the gallery, and drops duplicates."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.special import softmax

from leanlens.score.augmentation import GREY
from leanlens.score.efficientnet import FeatureNetwork
from leanlens.score.features import Gallery
from leanlens.score.regions import Region, cut_out, find_regions, look_closer, overlap
from leanlens.score.segmentation import segment

# Certainty from which a region counts as a thing. At this value the scorer accepts as many things that a person would
# not name as it misses things that a person would (benchmarks/by_eye.py, the scenes of seed 0).
LEAST = 0.35
# Subtracted from the probability, by how the region was found: cuts and unions of things often look like things, too.
DOUBT = {"segmentation": 0.0, "whole": 0.0, "inner": 0.0, "outer": 0.0, "cut": 0.05, "joined": 0.1}
PRIOR = 1.0  # nats added to the log probability of wanted concepts
APART = 0.5  # overlap with a more certain detection from which a detection is dropped
NESTED = 0.62  # largest share of another thing's area for a thing inside or in front of it
APART_BY_THEMSELVES = {
    "segmentation",
    "inner",
    "outer",
}  # ways of finding a region that exclude things inside or in front of it
CLOSER_AREA = 0.02  # share of the picture: connected regions of at least this area are split further
CLOSER_MAX = 4  # regions that are split further
MAX_REGIONS = 48  # proposals before splitting: a picture of noise has thousands


@dataclass(frozen=True)
class Detection:
    """A region classified as a thing.

    Attributes:
        concept: the most probable concept.
        probability: of that concept, with PRIOR for wanted concepts.
        by_concept: (C,) probability of every concept, without PRIOR.
        style_odds: (C, S) log probability of every drawing, up to a constant.
    """

    region: Region
    concept: str
    probability: float
    by_concept: np.ndarray
    style_odds: np.ndarray

    @property
    def certainty(self) -> float:
        """The probability, minus DOUBT for how the region was found."""
        return self.probability - DOUBT[self.region.found_by]

    @property
    def is_certain(self) -> bool:
        """Whether it counts as a thing."""
        return self.certainty >= LEAST


def detect_things(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    gallery: Gallery,
    network: FeatureNetwork,
    wanted: Sequence[Collection[str]],
) -> list[list[Detection]]:
    """The detections of each image, most certain first.

    Regions are classified in the order of their highest possible certainty. A region that a more certain detection
    would replace in any case is skipped, which saves most of the crops and changes no result.

    Args:
        images: (H, W, 3) uint8.
        masks: (H, W) bool, the foreground of each image, from `stands_out`.
        wanted: concepts to favour: an ambiguous region counts as a wanted concept.
    """
    proposed = [_propose(*each) for each in zip(images, masks, strict=True)]
    found: list[list[Detection]] = [[] for _ in images]
    for doubt in sorted(set(DOUBT.values())):
        chosen = []
        for regions, detections in zip(proposed, found, strict=True):
            surer = [one for one in _keep_distinct(detections) if one.certainty > 1 - doubt]
            alike = [region for region in regions if DOUBT[region.found_by] == doubt]
            chosen.append([region for region in alike if not any(_gives_way(region, one.region) for one in surer)])
        for detections, more in zip(found, _classify(chosen, gallery, network, wanted), strict=True):
            detections += more
    return [_keep_distinct(detections) for detections in found]


def _propose(pixels: np.ndarray, mask: np.ndarray) -> list[Region]:
    """Regions of an image that may be things; several may cover the same pixels."""
    connected = find_regions(pixels, mask)
    segments = [cut_out(pixels, one, None, "segmentation") for one in segment(pixels)]
    regions = [*filter(None, segments), *connected][:MAX_REGIONS]
    large = [region for region in connected if region.area >= CLOSER_AREA * mask.size][:CLOSER_MAX]
    return regions + [part for region in large for part in look_closer(pixels, mask, region)]


def _classify(
    regions: list[list[Region]], gallery: Gallery, network: FeatureNetwork, wanted: Sequence[Collection[str]]
) -> list[list[Detection]]:
    """Classify the regions of several images; equal crops go through the network once."""
    crops, rows = dict[bytes, Image.Image](), []
    for region in itertools.chain(*regions):
        crop = _crop(region)
        key = b"%d %s" % (crop.width, crop.tobytes())
        crops.setdefault(key, crop)
        rows.append(key)
    places = {key: place for place, key in enumerate(crops)}
    features = iter(network.embed(crops.values())[[places[key] for key in rows]])
    return [
        _recognise(each, np.array([next(features) for _ in each]), gallery, names) if each else []
        for each, names in zip(regions, wanted, strict=True)
    ]


def _recognise(
    regions: list[Region], features: np.ndarray, gallery: Gallery, wanted: Collection[str]
) -> list[Detection]:
    odds = gallery.concept_odds(features)
    favoured = odds + PRIOR * np.array([concept in wanted for concept in (*gallery.concepts, "")], np.float32)
    found = []
    for region, plain, likely, styles in zip(
        regions, softmax(odds, axis=1), softmax(favoured, axis=1), gallery.style_odds(features), strict=True
    ):
        best = int(likely[:-1].argmax())
        found.append(Detection(region, gallery.concepts[best], float(likely[best]), plain[:-1], styles))
    return found


def _crop(region: Region) -> Image.Image:
    return Image.fromarray(np.where(region.mask[..., None], region.pixels, np.uint8(GREY[0])))


def _keep_distinct(seen: list[Detection]) -> list[Detection]:
    """Drop every detection that overlaps a more certain one, unless one thing may lie inside or before the other."""
    kept: list[Detection] = []
    for one in sorted(seen, key=lambda detection: -detection.certainty):
        if all(overlap(one.region, other.region) < APART or _may_nest(one, other) for other in kept):
            kept.append(one)
    return kept


def _may_nest(one: Detection, other: Detection) -> bool:
    """Whether both may be things although they overlap: another concept, clearly smaller, and found separately."""
    return one.concept != other.concept and _can_nest(one.region, other.region)


def _can_nest(one: Region, other: Region) -> bool:
    small, large = sorted((one.area, other.area))
    return small <= NESTED * large and bool({one.found_by, other.found_by} & APART_BY_THEMSELVES)


def _gives_way(region: Region, surer: Region) -> bool:
    """Whether a region is dropped for a more certain detection, whatever its own concept would be."""
    return overlap(region, surer) >= APART and not _can_nest(region, surer)
