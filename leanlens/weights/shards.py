"""Reads and writes safetensors files one tensor at a time, without memory-mapping.

Pages of a file therefore do not count as memory, and a file may be replaced while its model is in use. At most one
tensor is held at a time.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from leanlens.files import whole_file
from leanlens.weights.headers import DTYPE_BITS, INDEX_SUFFIX, Entry

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
STORED_DTYPES = {value: key for key, value in TORCH_DTYPES.items()}

SHARD_BYTES = 5_000_000_000
PIECE = 2**16  # elements converted at a time; small buffers do not fragment memory


@dataclass(frozen=True)
class Slot:
    """Name, dtype and shape of a tensor to write."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_tensor(entry: Entry, index: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor at `entry`, or only element `index` of its first axis.

    With a `dtype` other than the stored one it is converted while it is read, without a second copy in memory.

    Raises:
        ValueError: torch does not have the dtype, or the file was truncated meanwhile.
    """
    if entry.dtype not in TORCH_DTYPES:
        accepted = ", ".join(TORCH_DTYPES)
        raise ValueError(f"{entry.file} has a tensor of unsupported dtype {entry.dtype}; expected {accepted}")
    shape, start = entry.shape, entry.start
    if index is not None:
        shape = entry.shape[1:]
        start += index * math.prod(shape) * DTYPE_BITS[entry.dtype] // 8
    stored = TORCH_DTYPES[entry.dtype]
    with open(entry.file, "rb", buffering=0) as file:
        file.seek(start)
        if dtype in (None, stored):
            raw = torch.empty(math.prod(shape) * DTYPE_BITS[entry.dtype] // 8, dtype=torch.uint8)
            _read_into(file, raw.numpy().data, entry.file)
            return raw.view(stored).reshape(shape)
        whole = torch.empty(math.prod(shape), dtype=dtype)
        raw = torch.empty(PIECE * stored.itemsize, dtype=torch.uint8)
        for piece in whole.split(PIECE):
            part = raw[: len(piece) * stored.itemsize]
            _read_into(file, part.numpy().data, entry.file)
            piece.copy_(part.view(stored))
    return whole.reshape(shape)


def write_file(path: Path, slots: Sequence[Slot], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write one safetensors file from an iterator; `tensors` must have the order of `slots`.

    Raises:
        ValueError: a tensor does not match its slot, or the path is not writable.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for slot in slots:
        header[slot.name] = {
            "dtype": STORED_DTYPES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [offset, offset + slot.bytes],
        }
        offset += slot.bytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for slot, (name, tensor) in zip(slots, tensors, strict=True):
            if (name, tensor.dtype, tuple(tensor.shape)) != (slot.name, slot.dtype, slot.shape):
                raise ValueError(f"{path}: got tensor {name} {tuple(tensor.shape)}, expected {slot.name} {slot.shape}")
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_shards(
    folder: Path, stem: str, slots: Sequence[Slot], tensors: Iterator[tuple[str, Tensor]], limit: int = SHARD_BYTES
) -> None:
    """Write `stem`.safetensors into `folder`, or several shards of at most `limit` bytes and their index."""
    groups = _split(slots, limit)
    if len(groups) == 1:
        write_file(folder / f"{stem}.safetensors", slots, tensors)
        return
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        name = f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors"
        write_file(folder / name, group, (next(tensors) for _ in group))
        weight_map.update({slot.name: name for slot in group})
    index = {"metadata": {"total_size": sum(slot.bytes for slot in slots)}, "weight_map": weight_map}
    (folder / f"{stem}{INDEX_SUFFIX}").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _split(slots: Sequence[Slot], limit: int) -> list[list[Slot]]:
    groups: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        if groups[-1] and size + slot.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(slot)
        size += slot.bytes
    return groups


def _read_into(file, view: memoryview, path: Path) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise ValueError(f"{path} is cut short: it ended while a tensor was being read; fetch it again")
        done += count
