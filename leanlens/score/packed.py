"""Packs the weights of linear classifiers into a few bits each, and reads the classifiers that ship with the package.

A weight is a small whole number, in as many bits as it is rare (Huffman), times the scale of its row, times that of its
column; biases stay as they are. Every file names the library, network and recipe of its fit, and serves that fit alone.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from leanlens.files import whole_file

PARTS = ("codes", "rows", "columns", "bias")  # of a packed classifier
FITS = Path(__file__).parent / "fits"


@dataclass(frozen=True)
class Packed:
    """A shipped fit.

    Attributes:
        library: fingerprint of the library that it was fitted to.
        key: content key of the fit.
        facts: what else there is to know, as JSON values, such as the names of concepts.
        arrays: name -> array; classifiers as (F + 1, C) float32 weights, the last row the bias.
    """

    library: str
    key: str
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]


def pack_weights(weights: np.ndarray, most: int) -> dict[str, Tensor]:
    """(F + 1, C) float32, the last row the bias -> tensors that `unpack_weights` reads.

    Args:
        most: the largest whole number, up to 127.
    """
    body = weights[:-1].astype(np.float64)
    rows = np.sqrt((body**2).mean(axis=1, keepdims=True)) + 1e-12
    columns = np.abs(body / rows).max(axis=0, keepdims=True) / most + 1e-12
    squeeze = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    codes = squeeze.compress(np.rint(body / rows / columns).astype(np.int8).tobytes()) + squeeze.flush()
    return {
        "codes": torch.frombuffer(bytearray(codes), dtype=torch.uint8),
        "rows": torch.from_numpy(rows[:, 0].astype(np.float32)),
        "columns": torch.from_numpy(columns[0].astype(np.float32)),
        "bias": torch.from_numpy(weights[-1].astype(np.float32)),
    }


def unpack_weights(packed: dict[str, Tensor]) -> np.ndarray:
    """The inverse of `pack_weights`, to rounding: (F + 1, C) float32."""
    rows, columns, bias = (packed[name].numpy() for name in ("rows", "columns", "bias"))
    codes = np.frombuffer(zlib.decompress(packed["codes"].numpy().tobytes()), np.int8)
    body = codes.reshape(len(rows), len(columns)) * columns * rows[:, None]
    return np.concatenate([body, bias[None]]).astype(np.float32)


def write_packed(
    path: Path, library: str, key: str, facts: dict[str, Any], weights: dict[str, tuple[np.ndarray, int]]
) -> None:
    """Write classifiers, each with its largest whole number, to one file.

    Raises:
        ValueError: the folder is not writable.
    """
    tensors = {
        f"{name}.{part}": tensor
        for name, (array, most) in weights.items()
        for part, tensor in pack_weights(array, most).items()
    }
    about = {"library": library, "key": key, "facts": facts, "classifiers": list(weights)}
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors, {"about": json.dumps(about)}))


def read_packed(path: Path) -> Packed | None:
    """The fit in a file that `write_packed` wrote, or None if there is none yet."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        arrays = {}
        for name in about["classifiers"]:
            arrays[name] = unpack_weights({part: file.get_tensor(f"{name}.{part}") for part in PARTS})
    return Packed(about["library"], about["key"], about["facts"], arrays)
