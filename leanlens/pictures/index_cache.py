"""Caches the indexes of large tars between runs, since scanning a terabyte takes hours.

An index is valid while the tar's size and modification time are the same. Files are in `~/.cache/leanlens/indexes` (or
below XDG_CACHE_HOME), named after the tar's full path, and may be deleted.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanlens.files import whole_file
from leanlens.log import logger
from leanlens.pictures.decode import IMAGE_SUFFIXES
from leanlens.pictures.record import CAPTION_NAMES, Entry

_RULES = 2  # counts up when members are paired by another rule
LEAST_RECORDS = 1000  # scanning fewer is quick enough


def read_index(tar: Path) -> tuple[list[Entry], dict[str, str]] | None:
    """Entries of a tar and what was skipped in it, or None where they are not cached or the tar has changed."""
    try:
        kept = json.loads(_place(tar).read_text(encoding="utf-8"))
        if kept["tar"] != _state(tar):
            return None
        rows = kept["entries"]
        return [Entry(row[0], row[1], row[2], tuple(row[3]), _tupled(row[4])) for row in rows], kept["skipped"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # absent, or unreadable: it is made again


def write_index(tar: Path, entries: Sequence[Entry], skipped: dict[str, str]) -> None:
    """Cache what a scan of a large tar found, or nothing where the folder cannot be written to."""
    if len(entries) < LEAST_RECORDS:
        return
    rows = [[entry.key, entry.height, entry.width, entry.kinds, entry.place] for entry in entries]
    try:
        with whole_file(_place(tar)) as path:
            path.write_text(json.dumps({"tar": _state(tar), "entries": rows, "skipped": skipped}), encoding="utf-8")
    except ValueError as error:
        logger.info("the index of %s is not cached: %s", tar, error)


def _place(tar: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "leanlens" / "indexes" / f"{hashlib.sha256(str(tar.resolve()).encode()).hexdigest()}.json"


def _state(tar: Path) -> list[Any]:
    """What an index depends on: the tar, and how pictures and captions are told from other members."""
    status = tar.stat()
    names = hashlib.sha256(json.dumps([CAPTION_NAMES, IMAGE_SUFFIXES, _RULES]).encode()).hexdigest()
    return [status.st_size, status.st_mtime_ns, names]


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
