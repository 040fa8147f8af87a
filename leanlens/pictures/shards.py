"""Writes captioned images as tar shards with a manifest, and reads these and any WebDataset.

A record is two members with one stem: `<key>.jpg` (or png, webp) and `<key>.json` with the captions ("brief", "dense",
"text") and other fields of the image. The same records give the same bytes. The manifest is
`{"format": "leanlens-shards-1", "count", "shards": [{"name", "count", "bytes", "sha256"}], "made_by"}`. Tars of other
tools are read too: an image of any supported format with a .json, .txt or .caption (the WebDataset convention).
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from leanlens.files import read_json, sha256, whole_file, whole_folder
from leanlens.log import logger
from leanlens.pictures.decode import FOREIGN_SUFFIXES, HEAD_BYTES, IMAGE_SUFFIXES, measure, suffix_of
from leanlens.pictures.index_cache import read_index, write_index
from leanlens.pictures.record import (
    CAPTION_NAMES,
    SIDECAR_SUFFIXES,
    Entry,
    Record,
    is_hidden,
    kinds_of,
    read_sidecars,
    split_fields,
)

FORMAT = "leanlens-shards-1"
MANIFEST = "manifest.json"
_VERIFIED = ".verified.json"
_BLOCK = 512
_MEMBERS = (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES, *SIDECAR_SUFFIXES)


def write_shards(
    out: str | Path, samples: Iterable[Record], per_shard: int = 1000, made_by: str = ""
) -> dict[str, Any]:
    """Write `samples` atomically as a folder of shards and return its manifest.

    Args:
        out: a folder that does not exist, or is empty.
        samples: records with unique keys; consumed one by one, never all in memory.
        per_shard: records in each tar except the last.
        made_by: what made them, for the manifest.

    Raises:
        ValueError: no samples, a duplicate or invalid key, an image that is not JPEG, PNG or WebP, a record without
            caption, or `out` is not empty.
    """
    if per_shard < 1:
        raise ValueError(f"invalid per_shard {per_shard}: expected 1 or more")
    seen: set[str] = set()
    shards: list[dict[str, Any]] = []
    stream = iter(samples)
    with whole_folder(out) as folder:
        while records := list(islice(stream, per_shard)):
            name = f"shard-{len(shards):06d}.tar"
            write_tar(folder / name, records, seen)
            shards.append(
                {
                    "name": name,
                    "count": len(records),
                    "bytes": (folder / name).stat().st_size,
                    "sha256": sha256(folder / name),
                }
            )
        if not shards:
            raise ValueError(f"samples is empty, so there is nothing to write to {out}")
        manifest = {"format": FORMAT, "count": len(seen), "shards": shards, "made_by": made_by}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder of shards, after verifying the size of every shard and, the first time, its SHA-256.

    Verified shards are recorded with their size and time in `.verified.json` next to the manifest. If the folder is
    read-only, they are verified each time.

    Raises:
        ValueError: there is no manifest of this format, or a shard is missing or modified.
    """
    folder = Path(folder)
    try:
        manifest = read_json(folder / MANIFEST)
        known = manifest["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is not a manifest of format {FORMAT}: {error}") from error
    if not known:
        raise ValueError(f"{folder / MANIFEST} has format {manifest['format']!r}; expected {FORMAT!r}")
    verified = _read_verified(folder)
    checked = {shard["name"]: _checked(folder, shard, verified.get(shard["name"])) for shard in manifest["shards"]}
    if checked != verified:
        _write_verified(folder, checked)
    return manifest


@dataclass
class TarSource:
    """Captioned images in tar files.

    Attributes:
        name: name of this source in errors.
        paths: the tar files.
        skipped: unreadable records so far, "<tar>: <key>" -> reason.
    """

    name: str
    paths: list[Path]
    skipped: dict[str, str] = field(default_factory=dict)
    _entries: list[Entry] | None = None

    def index(self) -> list[Entry]:
        """Every record, in the order of the files. Only sidecars and the start of each image are read."""
        if self._entries is None:
            self._entries = [
                replace(entry, place=(number, *entry.place))
                for number in range(len(self.paths))
                for entry in self._recalled_or_scanned(number)
            ]
        return self._entries

    def captions(self, i: int) -> dict[str, str]:
        """Captions of record `i` by kind, without reading its image."""
        return split_fields(self._fields(i))[0]

    def read(self, i: int) -> Record:
        """Record `i`.

        Raises:
            ValueError: its bytes cannot be read.
        """
        entry = self.index()[i]
        number, (offset, size), _ = entry.place
        captions, extra = split_fields(self._fields(i))
        return Record(entry.key, _read_at(self.paths[number], offset, size), captions, extra)

    def _fields(self, i: int) -> dict[str, Any]:
        number, _, sidecars = self.index()[i].place
        return read_sidecars({suffix: _read_at(self.paths[number], *where) for suffix, where in sidecars})

    def _recalled_or_scanned(self, number: int) -> list[Entry]:
        """The entries of one tar; their places do not hold its number yet."""
        path = self.paths[number]
        found = read_index(path)
        entries, skipped = found or _scan(path)
        for name, reason in skipped.items():
            self.skipped[name] = reason
            logger.warning("%s: skipped %s: %s", self.name, name, reason)
        if not found:
            write_index(path, entries, skipped)
        return entries


def _scan(path: Path) -> tuple[list[Entry], dict[str, str]]:
    """The entries of a tar, each with the place (image, sidecars), and the skipped records."""
    damage: list[tuple[str, str]] = []
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for member in _members(path, damage):
        stem, suffix = _split_name(member.name)
        if not member.isfile() or suffix not in _MEMBERS or is_hidden(member.name):
            continue
        if ".." in member.name.split("/") or member.name.startswith("/"):
            damage.append((member.name, "its name is outside the folder of the tar"))
            continue
        if suffix in samples.setdefault(stem, {}):
            damage.append((member.name, "a second member of this name"))
        samples[stem].setdefault(suffix, (member.offset_data, member.size))
    broken = bool(damage)
    _share_sidecars(samples)
    damage += [
        (f"{stem}.{suffix}", "a second picture of one record")
        for stem, parts in samples.items()
        for suffix in [suffix for suffix in IMAGE_SUFFIXES if suffix in parts][1:]
    ]
    skipped = {f"{path.name}: {where}": reason for where, reason in damage}
    entries: list[Entry] = []
    last = next(reversed(samples), None)
    for key, parts in samples.items():
        try:
            entry = _entry(path, key, parts)
            # Zeros after the last complete member look like the end of a tar; a missing caption shows the damage.
            lost = broken or (key == last and any(entry.kinds for entry in entries))
            if lost and not entry.kinds:
                raise ValueError("its caption is missing from a damaged tar")
            entries.append(entry)
        except ValueError as error:
            skipped[f"{path.name}: {key}"] = str(error)
    return entries, skipped


def _entry(path: Path, key: str, parts: dict[str, tuple[int, int]]) -> Entry:
    image = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
    if image is None:
        raise ValueError(
            f"it has no picture ({', '.join(IMAGE_SUFFIXES[:4])} and so on), only {', '.join(sorted(parts))}"
        )
    sidecars = tuple((suffix, parts[suffix]) for suffix in SIDECAR_SUFFIXES if suffix in parts)
    captions, _ = split_fields(read_sidecars({suffix: _read_at(path, *where) for suffix, where in sidecars}))
    offset, size = image
    head, least = _read_at(path, offset, min(size, HEAD_BYTES)), max(0, size - HEAD_BYTES)
    height, width = measure(
        head, lambda: _read_at(path, offset, size), lambda: _read_at(path, offset + least, size - least)
    )
    return Entry(key, height, width, kinds_of(captions), (image, sidecars))


def _members(path: Path, damage: list[tuple[str, str]]) -> Iterator[tarfile.TarInfo]:
    """The readable members of a tar; errors are added to `damage` as (where, reason).

    After a damaged header, reading continues at the next valid header.
    """
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        start: int | None = 0
        while start is not None and start < end:
            file.seek(start)
            position = start
            try:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    for member in archive:
                        position = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                        if member.offset_data + member.size > end:
                            damage.append((member.name, "the tar ends before it does"))
                        else:
                            yield member
                if position >= end:
                    damage.append(("end", "it has no end mark, so more may be missing"))
                reason = "an empty header, and more behind it" if _holds_data(file, position, end) else ""
            except (tarfile.TarError, OSError, EOFError) as error:
                reason = str(error)
            if not reason or position >= end:
                return
            damage.append((f"byte {position}", f"no tar header can be read there: {reason}"))
            start = _next_header(file, position + _BLOCK)


def _next_header(file: BinaryIO, start: int) -> int | None:
    """The offset of the first valid header at or after `start`."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as archive:
            member = archive.next()
            return member.offset if member else None
    except (tarfile.TarError, OSError, EOFError):
        return None


def _holds_data(file: BinaryIO, start: int, end: int) -> bool:
    """Whether any byte from `start` on is not zero; a tar ends with zero blocks."""
    file.seek(start)
    return any(any(file.read(1 << 20)) for _ in range(start, end, 1 << 20))


def write_tar(path: Path, records: Iterable[Record], seen: set[str]) -> None:
    """Write one shard; the same records give the same bytes. Keys are checked against `seen` and added to it."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for record in records:
            _check_record(record, seen)
            fields = {**record.captions, **record.extra}
            text = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
            _add(archive, f"{record.key}.{suffix_of(record.image)}", record.image)
            _add(archive, f"{record.key}.json", text)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # fixed time, owner and mode, so that equal records give equal bytes
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _check_record(record: Record, seen: set[str]) -> None:
    key = record.key
    if not re.fullmatch(r"[^\s./\\]+(/[^\s./\\]+)*", key):
        raise ValueError(f"invalid key {key!r}: expected no dots and no blanks (WebDataset splits names at dots)")
    if key in seen:
        raise ValueError(f"duplicate key {key!r}; every record needs its own")
    if not kinds_of(record.captions) or set(record.captions) - set(kinds_of(record.captions)):
        raise ValueError(f"record {key!r} has captions {sorted(record.captions)}; expected brief, dense or text")
    if clash := set(record.extra) & set(CAPTION_NAMES):
        raise ValueError(f"record {key!r} has {sorted(clash)} in extra, which is the name of a caption")
    try:
        suffix_of(record.image)
    except ValueError as error:
        raise ValueError(f"record {key!r}: {error}") from error
    seen.add(key)


def _checked(folder: Path, shard: dict[str, Any], verified: list[Any] | None) -> list[Any]:
    """[size, time, SHA-256] of a shard, after checking it against its manifest row."""
    path = folder / shard["name"]
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path} is missing, but the manifest lists it") from error
    if status.st_size != shard["bytes"]:
        raise ValueError(f"{path} has {status.st_size} bytes; the manifest says {shard['bytes']}")
    state = [status.st_size, status.st_mtime_ns, shard["sha256"]]
    if verified != state and sha256(path) != shard["sha256"]:
        raise ValueError(f"{path} was modified: its SHA-256 differs from the manifest")
    return state


def _read_verified(folder: Path) -> dict[str, list[Any]]:
    try:
        verified = read_json(folder / _VERIFIED)
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def _write_verified(folder: Path, checked: dict[str, list[Any]]) -> None:
    try:
        with whole_file(folder / _VERIFIED) as path:
            path.write_text(json.dumps(checked), encoding="utf-8")
    except ValueError:
        logger.info("%s is not writable, so its shards will be verified again next time", folder)


def _share_sidecars(samples: dict[str, dict[str, tuple[int, int]]]) -> None:
    """Give images such as `x.left.jpg` the sidecars of `x`, which has no image, as in the WebDataset convention."""
    given: set[str] = set()
    for stem, parts in samples.items():
        if not set(parts) & set(IMAGE_SUFFIXES) or set(parts) & set(SIDECAR_SUFFIXES):
            continue
        folder, slash, name = stem.rpartition("/")
        while "." in name:
            name = name.rpartition(".")[0]
            shorter = samples.get(folder + slash + name, {})
            if set(shorter) & set(SIDECAR_SUFFIXES):
                if not set(shorter) & set(IMAGE_SUFFIXES):
                    parts.update(shorter)
                    given.add(folder + slash + name)
                break
    for stem in given:
        del samples[stem]


def _split_name(name: str) -> tuple[str, str]:
    """Stem and lower-case suffix, split at the last dot of the file name; a stem may have dots, as in `22.05.png`."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.rpartition(".")
    return folder + slash + stem, suffix.lower()


def _read_at(path: Path, offset: int, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(data) != size:
        raise ValueError(f"{path} ends before byte {offset + size}")
    return data
