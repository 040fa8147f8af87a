"""Whole-or-nothing writes and checksums.

Comes in: paths and bytes. Goes out: files that exist completely or not at all, and hexadecimal SHA-256 sums. Knows
nothing of what the bytes mean.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    Raises:
        ValueError: the folder of `path` cannot be created or written to.
    """
    path = Path(path)
    require_writable(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is renamed to `path`, on any error it is removed.

    Raises:
        ValueError: `path` exists and is not an empty folder, or its parent cannot be written to.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists already; give a path that does not exist, or an empty folder")
    require_writable(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_writable(path: str | Path) -> None:
    """Create the folder of `path` where it is missing and check that a file can be written there.

    Raises:
        ValueError: it cannot; the message names the path and the reason.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}; give a path in a writable folder") from error
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"cannot write {path}: it is a folder that holds files; give another path")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file as 64 lower-case hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fingerprint(files: list[Path]) -> str:
    """64 hexadecimal digits that change when any of `files` does, without reading gigabytes.

    SHA-256 over each file's name, size and 64 evenly spaced samples of 4 KiB. It tells model versions apart; it does
    not prove that every byte is right, which `leanlens weights verify` does.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as handle:
            for index in range(64):
                handle.seek(max(0, (size - 4096)) * index // 63)
                digest.update(handle.read(4096))
    return digest.hexdigest()
