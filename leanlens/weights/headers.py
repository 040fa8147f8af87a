"""Reads the headers of safetensors files and folders: the name, dtype, shape and place of every tensor.

It reads no weights and does not import torch, so that inspecting a 20 GB file is instant.

Source: the safetensors format (8 bytes of little-endian length, a JSON header, then the bytes of the tensors).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from leanlens.files import parse_json, read_json

# Bits of one element, by the dtype names of the format.
DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip

INDEX_SUFFIX = ".safetensors.index.json"
PICKLE_REFUSAL = (
    "is a pickle, which can run arbitrary code when opened and is never read; use the "
    ".safetensors file of the same weights"
)
HEADER_BYTES = 2**25  # limit of the JSON; the released Lens has 100 KB, and the library accepts 100 MB
_HEADER_VALUES = 1_000_000
_NAME_LENGTH = 1000
_FIRST_BYTES = 64  # enough to recognise a file type
# File names that diffusers and transformers give the weights of one component, in order of preference.
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")


@dataclass(frozen=True)
class Entry:
    """One stored tensor: the bytes `start` to `stop` of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors and metadata of one safetensors file.

    Raises:
        ValueError: the file is empty, truncated, too long, or not safetensors. The message says which, and recognises
            common mistakes: a pickle, a web page, a Git LFS pointer. Rejects every header that the safetensors library
            rejects, and duplicate tensor names.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a .safetensors file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty: 0 bytes; fetch it again")
    with open(path, "rb") as file:
        first = file.read(_FIRST_BYTES)
        if mistake := _mistake(first):
            raise ValueError(f"{path} {mistake}")
        length = int.from_bytes(first[:8], "little")
        if size < 8 or length > HEADER_BYTES:
            raise ValueError(f"{path} is not a safetensors file: its first 8 bytes are no header length")
        if 8 + length > size:
            raise ValueError(
                f"{path} is cut short: its header needs {8 + length} bytes and the file has {size}; fetch it again"
            )
        file.seek(8)
        raw = file.read(length)
    try:
        header = parse_json(raw, "it", values=_HEADER_VALUES)
        metadata = header.pop("__metadata__", None) or {}
        entries = {name: _entry(path, name, item, 8 + length) for name, item in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file: its header is unreadable ({error})") from error
    end = max((entry.stop for entry in entries.values()), default=8 + length)
    if end > size:
        raise ValueError(f"{path} is cut short: its tensors need {end} bytes and the file has {size}; fetch it again")
    if end < size:  # other readers of the format reject such a file, too
        raise ValueError(f"{path} is damaged: {size - end} bytes follow its last tensor; fetch it again")
    _require_gapless(path, entries, 8 + length)
    _require_accepted(path)
    return entries, metadata


def is_pickle(first: bytes) -> bool:
    """Whether a file that starts with `first`, at least 9 bytes, is a pickle or a zip of them."""
    # The length before a safetensors header may start like a pickle, but the header itself starts with a brace.
    protocol = first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05" and first[8:9] != b"{"
    return protocol or first.startswith(b"PK\x03\x04")


def read_folder(folder: Path) -> dict[str, Entry]:
    """Tensors of the weights in a folder, sharded or not; empty if there are no safetensors files.

    Raises:
        ValueError: a shard of the index is missing, or the folder has several sets of weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    indexes = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    for stem in WEIGHT_STEMS:
        if folder / f"{stem}{INDEX_SUFFIX}" in indexes:
            return _read_index(folder / f"{stem}{INDEX_SUFFIX}")
        if folder / f"{stem}.safetensors" in files:
            return read_header(folder / f"{stem}.safetensors")[0]
    if len(indexes) == 1:
        return _read_index(indexes[0])
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise ValueError(
            f"{folder} holds {len(files)} weight files ({names}) and no index that joins them; name one file"
        )
    return read_header(files[0])[0] if files else {}


def _mistake(first: bytes) -> str:
    """What a file that starts with `first` is instead of safetensors, for a message; empty if unknown."""
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "is a web page that was saved instead of the file; fetch it again, signed in where that is needed"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file it stands for; fetch the real file, for instance with `git lfs pull`"
    return PICKLE_REFUSAL if is_pickle(first) else ""


def _read_index(index: Path) -> dict[str, Entry]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map, so it does not say which shard holds which tensor")
    if any(not isinstance(shard, str) or Path(shard).name != shard for shard in weight_map.values()):
        raise ValueError(f"{index} maps tensors to something else than file names of its own folder")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise ValueError(
            f"{index.parent} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:3])}; fetch them again"
        )
    headers = {shard: read_header(index.parent / shard)[0] for shard in shards}
    lost = [name for name, shard in weight_map.items() if name not in headers[shard]]
    if lost:
        raise ValueError(f"{index} names {len(lost)} tensors that its shards do not hold, first {lost[0]}")
    return {name: headers[shard][name] for name, shard in weight_map.items()}


def _entry(path: Path, name: str, item: Any, base: int) -> Entry:
    if not name.isprintable() or len(name) > _NAME_LENGTH:
        raise ValueError(f"it names a tensor {name[:40]!r}, which is too long or not printable")
    if not isinstance(item, dict) or any(key not in item for key in ("dtype", "shape", "data_offsets")):
        raise ValueError(f"tensor {name} has no dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name} has a dtype, shape or data_offsets of the wrong type")
    start, stop = offsets
    entry = Entry(path, dtype, tuple(shape), base + start, base + stop)
    bits = DTYPE_BITS.get(dtype)
    if start > stop or (bits is not None and entry.elements * bits != (stop - start) * 8):
        raise ValueError(f"a tensor of shape {shape} and dtype {dtype} has {stop - start} bytes")
    return entry


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _require_gapless(path: Path, entries: dict[str, Entry], base: int) -> None:
    """Check that the tensors are contiguous: no byte of the file is unused or belongs to two of them."""
    last = base
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != last:
            what = "overlaps the tensor before it" if entry.start < last else "begins after bytes of no tensor"
            raise ValueError(f"{path} is damaged: tensor {name} {what}; fetch it again")
        last = entry.stop


def _require_accepted(path: Path) -> None:
    """Check that the safetensors library accepts the header, too, without reading weights."""
    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ").removeprefix("invalid JSON in header: ")
        reason = reason[:200]  # the library quotes an invalid value in full
        raise ValueError(f"{path} is not a safetensors file: its header is unreadable ({reason})") from error
