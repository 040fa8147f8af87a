"""Scores sets of images with one number each: FID and KID with the network named, and diversity over seeds.

Source: Heusel et al., arXiv 1706.08500 (FID); Bińkowski et al., arXiv 1801.01401, section 4 (KID).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from leanlens.evaluate.fid import distance_of_features
from leanlens.evaluate.suite import Item
from leanlens.score.protocol import Failed

Features = Callable[[Sequence[Image.Image]], np.ndarray]
"""N images -> (N, F) float."""

SUBSET, SUBSETS = 1000, 100  # pictures of a subset and how many, as in torch-fidelity's KID


class SetScorer(Protocol):
    """One number for a set of images.

    Attributes:
        name: of the number with its network, such as "FID (fid-helper)".
        higher_is_better: whether a larger number is better; None where neither is.
    """

    name: str
    higher_is_better: bool | None

    def identity(self) -> dict[str, Any]:
        """Everything that decides the number besides the images, as JSON values: network, weights, settings."""
        ...

    def __call__(
        self, images: Sequence[Image.Image], reference: Sequence[Image.Image] | None, items: Sequence[Item]
    ) -> float | Failed:
        """The number.

        Args:
            reference: the images to compare with; None for a scorer that needs none.
            items: what each image was drawn for.
        """
        ...


class Network:
    """Features from a named network, each image by itself.

    Attributes:
        name: such as "EfficientNet-Lite2".
        weights: SHA-256 of its weights.
    """

    def __init__(self, name: str, weights: str, features: Features):
        self.name, self.weights, self.features = name, weights, features


def efficientnet_lite2() -> Network:
    """The network that scores pictures of this library; its FID compares with no published one.

    Raises:
        ValueError: the packages of the extra `eval` are missing.
    """
    from leanlens.score.features import picture_network

    found = picture_network()
    return Network(
        "EfficientNet-Lite2", found.fingerprint, lambda images: found.embed(one.convert("RGB") for one in images)
    )


def fid_helper() -> Network:
    """The Inception network of fid-helper, which was not checked against the usual one.

    Raises:
        ValueError: the extra `fid` is missing.
    """
    from leanlens.evaluate.fid import inception_features, inception_weights

    return Network("fid-helper", inception_weights(), inception_features)


class FrechetDistance:
    """FID with the features of a named network; it depends on the number of images, so compare equally many."""

    higher_is_better: bool | None = False

    def __init__(self, network: Network):
        self.network, self.name = network, f"FID ({network.name})"

    def identity(self) -> dict[str, Any]:
        return {"kind": "FID", "network": self.network.name, "weights_sha256": self.network.weights}

    def __call__(
        self, images: Sequence[Image.Image], reference: Sequence[Image.Image] | None, items: Sequence[Item]
    ) -> float | Failed:
        if reason := _too_few(images, reference):
            return Failed(reason)
        return distance_of_features(self.network.features(images), self.network.features(reference or ()))


class KernelDistance:
    """KID with the features of a named network: unbiased, so sets of different sizes can be compared.

    Args:
        subset, subsets, seed: as in `kernel_distance`.
    """

    higher_is_better: bool | None = False

    def __init__(self, network: Network, subset: int = SUBSET, subsets: int = SUBSETS, seed: int = 0):
        self.network, self.name = network, f"KID ({network.name})"
        self.subset, self.subsets, self.seed = subset, subsets, seed

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "KID",
            "network": self.network.name,
            "weights_sha256": self.network.weights,
            "subset": self.subset,
            "subsets": self.subsets,
            "seed": self.seed,
        }

    def with_deviation(
        self, images: Sequence[Image.Image], reference: Sequence[Image.Image]
    ) -> tuple[float, float | None]:
        """The distance, and the standard deviation over its subsets; as `kernel_distance`."""
        features = self.network.features(images), self.network.features(reference)
        return kernel_distance(*features, self.subset, self.subsets, self.seed)

    def __call__(
        self, images: Sequence[Image.Image], reference: Sequence[Image.Image] | None, items: Sequence[Item]
    ) -> float | Failed:
        if reason := _too_few(images, reference):
            return Failed(reason)
        return self.with_deviation(images, reference or ())[0]


class Diversity:
    """How much the images of one prompt differ: the mean cosine distance of the features of every two, then the mean
    over prompts.

    It is no measure of quality and belongs in no mean with one: a model that follows its prompt badly scores high.
    """

    higher_is_better: bool | None = None

    def __init__(self, network: Network):
        self.network, self.name = network, f"diversity ({network.name})"

    def identity(self) -> dict[str, Any]:
        return {"kind": "diversity", "network": self.network.name, "weights_sha256": self.network.weights}

    def __call__(
        self, images: Sequence[Image.Image], reference: Sequence[Image.Image] | None, items: Sequence[Item]
    ) -> float | Failed:
        if len(items) != len(images):
            raise ValueError(f"items has {len(items)} entries for {len(images)} images: expected one per image")
        places: dict[str, list[int]] = defaultdict(list)
        for at, item in enumerate(items):
            places[item.id].append(at)
        groups = [group for group in places.values() if len(group) > 1]
        if not groups:
            return Failed("no prompt has two images")
        distances = [pairwise_distance(self.network.features([images[at] for at in group])) for group in groups]
        return float(np.mean(distances))


def _too_few(images: Sequence[Image.Image], reference: Sequence[Image.Image] | None) -> str:
    """Why two sets cannot be compared; "" if they can."""
    if reference is None:
        return "there are no reference images"
    fewest = min(len(images), len(reference))
    return f"a set has {fewest} images; at least two are needed" if fewest < 2 else ""


def kernel_distance(
    one: np.ndarray, other: np.ndarray, subset: int = SUBSET, subsets: int = SUBSETS, seed: int = 0
) -> tuple[float, float | None]:
    """(N, F) and (M, F) features -> the mean and the standard deviation over subsets of the unbiased squared maximum
    mean discrepancy with the kernel (x·y / F + 1)^3. It can be below 0.

    Args:
        subset: pictures of each set in a subset; as many as there are in the smaller set, if these are fewer. Where a
            subset is all of both sets, there is one, and no deviation.
        subsets: how many are drawn, without replacement within each.
        seed: of the subsets.

    Raises:
        ValueError: fewer than two pictures in a set.
    """
    size = min(subset, len(one), len(other))
    if size < 2:
        raise ValueError(f"invalid subset of {size} pictures: expected at least two in each set")
    if size == len(one) == len(other):
        return _discrepancy(one, other), None
    lot = np.random.default_rng(seed)
    values = [_discrepancy(*(x[lot.choice(len(x), size, replace=False)] for x in (one, other))) for _ in range(subsets)]
    return float(np.mean(values)), float(np.std(values))


def _discrepancy(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased estimate for two sets of the same size, in memory for three matrices of its square."""
    within = [_kernel(x, x) for x in (one, other)]
    num = len(one)
    pairs = num * (num - 1)
    own = sum((kernel.sum() - np.trace(kernel)) / pairs for kernel in within)
    return float(own - 2 * _kernel(one, other).mean())


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    products: np.ndarray = one.astype(np.float64) @ other.astype(np.float64).T
    return (products / one.shape[1] + 1) ** 3


def pairwise_distance(features: np.ndarray) -> float:
    """(N, F) -> the mean over pairs of 1 - cosine, from 0 to 2, for at least two rows.

    With unit rows u the cosines of all ordered pairs add up to |Σu|² - N.
    """
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    num = len(rows)
    return float(1 - ((rows.sum(axis=0) ** 2).sum() - (rows**2).sum()) / (num * (num - 1)))
