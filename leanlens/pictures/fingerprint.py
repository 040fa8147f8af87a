"""Computes a fingerprint of a dataset that does not depend on its location.

It changes if a file is added, removed, renamed or resized, or if its sampled bytes change. Only some of the bytes are
read, and no image is decoded.
"""

import glob
import hashlib
import json
import os
from pathlib import Path

from leanlens.files import fingerprint, read_json
from leanlens.pictures.shards import MANIFEST
from leanlens.pictures.sources import unfolded

SAMPLED = 256  # number of files whose bytes are sampled


def fingerprint_source(spec: str | os.PathLike[str]) -> str:
    """The fingerprint of a dataset, 64 hexadecimal digits.

    For shards with a manifest it covers the checksums in the manifest; otherwise the name and size of every file that
    is not hidden, and `files.fingerprint` of at most 256 of them, evenly spread.

    Args:
        spec: a path as in `sources.open_source`.

    Raises:
        ValueError: there are no files.
    """
    path = Path(spec).expanduser()
    digest = hashlib.sha256()
    if (path / MANIFEST).is_file():
        shards = read_json(path / MANIFEST)["shards"]
        digest.update(json.dumps([[shard["bytes"], shard["sha256"]] for shard in shards]).encode())
        return digest.hexdigest()
    files = _files(os.path.expanduser(os.fspath(spec)))
    if not files:
        raise ValueError(f"{spec} holds no files")
    for name, file in files:
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
    step = -(-len(files) // SAMPLED)
    digest.update(fingerprint([file for _, file in files[::step]]).encode())
    return digest.hexdigest()


def _files(spec: str) -> list[tuple[str, Path]]:
    """(name relative to the source, path) of every file, sorted by name."""
    path = Path(spec)
    if path.is_dir():
        found = [(file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file()]
        return sorted((name, file) for name, file in found if not any(part[:1] == "." for part in name.split("/")))
    names = [spec] if path.is_file() else [name for part in unfolded(spec) for name in glob.glob(part)]
    return sorted((Path(name).name, Path(name)) for name in names)
