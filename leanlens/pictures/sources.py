"""Opens a folder, parquet files or a WebDataset of captioned images as a `Source`.

Unreadable records are left out of the index and reported with a reason in `Source.skipped` and in the log. A source
without any readable record is an error.
"""

import csv
import glob
import io
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from leanlens.files import decode_text, parse_json, read_text
from leanlens.install import install_extra
from leanlens.log import logger
from leanlens.pictures.decode import FOREIGN_SUFFIXES, HEAD_BYTES, IMAGE_SUFFIXES, measure
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
from leanlens.pictures.shards import MANIFEST, TarSource, read_manifest

_PICTURE_COLUMNS = (
    "image",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "img",
    "picture",
    "images",
    "bytes",
    "image_path",
    "file_name",
)
_KEY_COLUMNS = ("key", "__key__", "id", "image_id")
_KEPT_ROW_GROUPS = 4


class Source(Protocol):
    """Captioned images by number. All methods are thread-safe."""

    name: str
    skipped: dict[str, str]

    def index(self) -> list[Entry]:
        """All records, in an order that is stable as long as the files do not change."""

    def captions(self, i: int) -> dict[str, str]:
        """Captions of record `i` by kind."""

    def read(self, i: int) -> Record:
        """Record `i`; raises ValueError with the reason if it cannot be read."""


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open captioned images and read their index.

    Args:
        path: a folder of images with captions in `metadata.jsonl`, `metadata.csv` or sidecars (.txt, .caption, .json);
            a .parquet file or a folder of them; a .tar, a folder of them, or several written as
            `shard-{000000..000009}.tar` or with `*`. Shards with leanlens's `manifest.json` are verified against it.

    Raises:
        ValueError: nothing is there, no record is readable, or the format is not one of these.
    """
    source = _opened(os.path.expanduser(os.fspath(path)))
    if not source.index():
        examples = describe_skipped(source.skipped)
        raise ValueError(
            f"{path} contains no readable picture"
            + (f" ({len(source.skipped)} skipped: {examples})" if examples else "")
        )
    if source.skipped:
        logger.warning("%s: %d skipped, %d left", path, len(source.skipped), len(source.index()))
    return source


def describe_skipped(skipped: Mapping[str, str], most: int = 3) -> str:
    """The most common reasons, each with one example and a count."""
    reasons = Counter(skipped.values())
    examples = {reason: name for name, reason in reversed(list(skipped.items()))}
    return "; ".join(
        f"{examples[reason]}: {reason}" + (f" (and {count - 1} more)" if count > 1 else "")
        for reason, count in reasons.most_common(most)
    )


def _opened(spec: str) -> Source:
    path = Path(spec)
    if path.is_dir():
        return _opened_folder(path)
    files = (
        [path]
        if path.exists()
        else [Path(name) for part in unfolded(spec) for name in sorted(glob.glob(part)) or [part]]
    )
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"{missing[0]} does not exist; expected a folder, .parquet or .tar files")
    suffixes = {file.suffix.lower() for file in files}
    if suffixes == {".tar"}:
        return TarSource(spec, files)
    if suffixes == {".parquet"}:
        return ParquetSource(spec, files)
    raise ValueError(
        f"{spec} is {', '.join(sorted(suffixes))}; expected a folder, .parquet or .tar files "
        "(unpack compressed tars first: they do not allow random access)"
    )


def _opened_folder(folder: Path) -> Source:
    if (folder / MANIFEST).is_file():
        shards = read_manifest(folder)["shards"]
        return TarSource(str(folder), [folder / shard["name"] for shard in shards])
    tars = sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name))
    tables = sorted(path for path in folder.rglob("*.parquet") if not is_hidden(path.relative_to(folder).as_posix()))
    if tars and tables:
        raise ValueError(f"{folder} holds both .tar and .parquet files; give one kind, as a path or with *")
    if tars:
        return TarSource(str(folder), tars)
    if tables:
        return ParquetSource(str(folder), tables)
    return FolderSource(str(folder))


def unfolded(spec: str) -> list[str]:
    """`a-{000..002}.tar` -> three names, zeros kept."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", spec)
    if not match:
        return [spec]
    first, last = match.groups()
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in unfolded(f"{spec[: match.start()]}{number:0{len(first)}d}{spec[match.end() :]}")
    ]


@dataclass
class FolderSource:
    """Images in a folder and its subfolders, with captions in a table or in sidecars."""

    name: str
    skipped: dict[str, str] = field(default_factory=dict)
    _entries: list[Entry] | None = None

    def index(self) -> list[Entry]:
        if self._entries is None:
            self._entries = list(self._scan())
        return self._entries

    def captions(self, i: int) -> dict[str, str]:
        return split_fields(self._fields(i))[0]

    def read(self, i: int) -> Record:
        entry = self.index()[i]
        captions, extra = split_fields(self._fields(i))
        return Record(entry.key, _bytes_of(Path(self.name, entry.place[0])), captions, extra)

    def _fields(self, i: int) -> dict[str, Any]:
        file, fields = self.index()[i].place
        return _sidecar_fields(Path(self.name, file)) if fields is None else fields

    def _scan(self) -> Iterator[Entry]:
        for file, fields in self._listed():
            try:
                yield self._entry(file, fields)
            except ValueError as error:
                self._skip(file, str(error))

    def _entry(self, file: str, fields: dict[str, Any] | None) -> Entry:
        path = Path(self.name, file)
        try:
            with open(path, "rb") as handle:
                head = handle.read(HEAD_BYTES)
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror}") from error
        height, width = measure(head, lambda: _bytes_of(path), lambda: _end_of(path))
        captions, _ = split_fields(_sidecar_fields(path) if fields is None else fields)
        return Entry(os.path.splitext(file)[0], height, width, kinds_of(captions), (file, fields), file)

    def _listed(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """(file relative to the folder, its fields); None if the fields are in sidecars."""
        folder = Path(self.name)
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]
        files = [file for file in files if not is_hidden(file)]
        tables = _outermost_tables(files)
        listed: set[str] = set()
        for name in tables:
            for file, fields in self._rows(name):
                listed.add(file)
                yield file, fields
        for file in files:
            suffix = os.path.splitext(file)[1].lower()[1:]
            if suffix not in (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES) or file in listed or not (folder / file).is_file():
                continue
            table = next((table for table in tables if file.startswith(table[: table.rfind("/") + 1])), None)
            if suffix in FOREIGN_SUFFIXES:
                self._skip(file, f".{suffix} is not supported; convert it to PNG or JPEG")
            elif table is not None:
                self._skip(file, f"{table} has no row for it")
            else:
                yield file, None

    def _rows(self, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file relative to the folder, its fields) of every row of a table that names a file next to or below it."""
        path = Path(self.name, table)
        for line, row in (_jsonl_rows if path.suffix == ".jsonl" else _csv_rows)(path):
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                    raise ValueError("it has no file_name")
                name = inner_path(row.pop("file_name"), path.parent)
            except ValueError as error:
                self._skip(f"{table} line {line}", str(error))
                continue
            yield (Path(table).parent / name).as_posix(), row

    def _skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        logger.warning("%s: skipped %s: %s", self.name, name, reason)


@dataclass
class ParquetSource:
    """Images in a column of parquet files, as bytes or as the {"bytes", "path"} structure of `datasets`.

    Parquet is read by row group, so shuffled reading is fast only if the groups are small. Converting with
    `write_shards` is faster.
    """

    name: str
    paths: list[Path]
    skipped: dict[str, str] = field(default_factory=dict)
    _entries: list[Entry] | None = None
    _groups: OrderedDict[tuple[int, int], Any] = field(default_factory=OrderedDict)
    _lock: Any = field(default_factory=Lock)

    def index(self) -> list[Entry]:
        if self._entries is None:
            self._entries = [entry for number in range(len(self.paths)) for entry in self._scan(number)]
        return self._entries

    def captions(self, i: int) -> dict[str, str]:
        return split_fields(self._row(self.index()[i].place, picture=False))[0]

    def read(self, i: int) -> Record:
        entry = self.index()[i]
        row = self._row(entry.place, picture=True)
        column, data = _picture_of(row, self.paths[entry.place[0]].parent)
        captions, extra = split_fields({name: value for name, value in row.items() if name != column})
        return Record(entry.key, data, captions, extra)

    def _row(self, place: tuple[Any, ...], picture: bool) -> dict[str, Any]:
        number, group, row = place
        table = self._group(number, group)
        if not picture:
            table = table.select([name for name in table.column_names if name in CAPTION_NAMES])
        return table.slice(row, 1).to_pylist()[0]

    def _group(self, number: int, group: int) -> Any:
        with self._lock:
            if (number, group) not in self._groups:
                try:
                    self._groups[number, group] = _parquet_file(self.paths[number]).read_row_group(group)
                except Exception as error:  # pyarrow raises many classes on damaged files
                    raise ValueError(f"{self.paths[number]} row group {group} cannot be read: {error}") from error
                if len(self._groups) > _KEPT_ROW_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((number, group))
            return self._groups[number, group]

    def _scan(self, number: int) -> Iterator[Entry]:
        path = self.paths[number]
        try:
            file = _parquet_file(path)
        except Exception as error:
            self._skip(path.name, f"it cannot be opened: {error}")
            return
        _check_columns(file.schema_arrow.names, path)
        start = 0
        for group in range(file.num_row_groups):
            try:
                rows = file.read_row_group(group).to_pylist()
            except Exception as error:
                self._skip(f"{path.name}: row group {group}", str(error))
                rows = []
            for row, fields in enumerate(rows):
                key = next((str(fields[name]) for name in _KEY_COLUMNS if fields.get(name) is not None), None)
                key = key or f"{path.stem}-{start + row:08d}"
                try:
                    yield self._entry(key, fields, (number, group, row))
                except ValueError as error:
                    self._skip(f"{path.name}: {key}", str(error))
            start += file.metadata.row_group(group).num_rows

    def _entry(self, key: str, fields: dict[str, Any], place: tuple[int, int, int]) -> Entry:
        column, data = _picture_of(fields, self.paths[place[0]].parent)
        height, width = measure(data, lambda: data)
        captions, _ = split_fields({name: value for name, value in fields.items() if name != column})
        return Entry(key, height, width, kinds_of(captions), place)

    def _skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        logger.warning("%s: skipped %s: %s", self.name, name, reason)


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"parquet needs pyarrow: {install_extra('data')}") from error
    return pyarrow.parquet.ParquetFile(path)


def _check_columns(names: Sequence[str], path: Path) -> None:
    if not set(_PICTURE_COLUMNS) & set(names):
        raise ValueError(
            f"{path} has columns {', '.join(names)}; expected pictures in one of {', '.join(_PICTURE_COLUMNS)}"
        )


def _picture_of(row: Mapping[str, Any], folder: Path) -> tuple[str, bytes]:
    """(column, bytes) of the first image column of a row that is not empty.

    Raises:
        ValueError: there is none; the reason is from the last column that is not empty.
    """
    reason = "it has no picture bytes"
    for name in _PICTURE_COLUMNS:
        if row.get(name) is None:
            continue
        try:
            return name, _picture_bytes(row[name], folder)
        except ValueError as error:
            reason = str(error)
    raise ValueError(reason)


def _picture_bytes(value: Any, folder: Path) -> bytes:
    """The image in a cell: bytes, a path next to the table, {"bytes", "path"}, or a list with one of these."""
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"it has {len(value)} pictures in one row; expected one")
        return _picture_bytes(value[0], folder)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        if "://" in value:
            raise ValueError(f"its picture is the URL {value[:80]!r}; download it first")
        return _bytes_of(folder / inner_path(value, folder))
    if not isinstance(value, bytes) or not value:
        raise ValueError("it has no picture bytes")
    return value


def inner_path(name: str, folder: Path) -> str:
    """A file's path relative to `folder`, with slashes, from a table. Links inside the folder are followed.

    Raises:
        ValueError: a path outside the folder.
    """
    parts = re.split(r"[/\\]", name)
    if "\0" in name or not name.strip() or parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"invalid file name {name[:80]!r}: expected a file next to the table or below it")
    return name if "\\" not in name or (folder / name).exists() else "/".join(parts)


def _outermost_tables(files: Sequence[str]) -> list[str]:
    """The caption tables among `files`, .jsonl before .csv, that are not below another table's folder."""
    found: dict[str, str] = {}
    for name in ("metadata.jsonl", "metadata.csv"):
        for file in files:
            folder, _, last = file.rpartition("/")
            if last == name:
                found.setdefault(f"{folder}/" if folder else "", file)
    return [
        table
        for folder, table in sorted(found.items())
        if not any(folder.startswith(other) and folder != other for other in found)
    ]


def _end_of(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(-min(HEAD_BYTES, path.stat().st_size), os.SEEK_END)
            return file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _sidecar_fields(picture: Path) -> dict[str, Any]:
    beside = {suffix: picture.with_suffix(f".{suffix}") for suffix in SIDECAR_SUFFIXES}
    return read_sidecars({suffix: _bytes_of(path) for suffix, path in beside.items() if path.is_file()})


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, the object on that line, or the reason why it is invalid)."""
    with open(path, "rb") as file:
        lines = (part for line in file for part in line.rstrip(b"\r\n").split(b"\r"))
        for number, line in enumerate(lines, 1):
            try:
                if text := decode_text(line, "it").strip():
                    yield number, parse_json(text, "it", finite=False)
            except ValueError as error:
                yield number, str(error)


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, the row by column).

    Raises:
        ValueError: the file is not UTF-8, or not a table; the message names file and line.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        if "file_name" not in (reader.fieldnames or ()):
            names = ", ".join(map(str, reader.fieldnames or ()))
            raise ValueError(
                f"{path} has columns {names[:200] or 'none'}; expected a column file_name, separated by commas"
            )
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num} is not a table row: {error}") from error
