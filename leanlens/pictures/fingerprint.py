"""What a source of pictures holds, as a short text that does not depend on where it lies.

Comes in: a path as `sources.open_source` takes it. Goes out: 64 hexadecimal digits that change when a file is added,
removed, renamed, resized or, in what is sampled of it, changed. Not all of it is read, and no picture is decoded.
"""

import glob
import hashlib
import json
import os
from pathlib import Path

from leanlens.files import fingerprint, read_json
from leanlens.pictures.shards import MANIFEST
from leanlens.pictures.sources import unfolded

SAMPLED = 256  # files of which bytes are read


def fingerprint_source(spec: str | os.PathLike[str]) -> str:
    """The fingerprint of a source.

    Shards with a manifest: the sums that it states. Anything else: name and size of every file that is not hidden, and
    `files.fingerprint` of at most 256 of them, evenly spread.

    Raises:
        ValueError: nothing is there.
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
    """(name below the source, path) of every file, sorted by name."""
    path = Path(spec)
    if path.is_dir():
        found = [(file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file()]
        return sorted((name, file) for name, file in found if not any(part[:1] == "." for part in name.split("/")))
    names = [spec] if path.is_file() else [name for part in unfolded(spec) for name in glob.glob(part)]
    return sorted((Path(name).name, Path(name)) for name in names)
