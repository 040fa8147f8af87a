"""Locks the folder of a run, so that only one run at a time trains in it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from leanlens.dist import gathered, leads_here
from leanlens.files import read_json, whole_file

LOCK, OWNER = ".lock", ".owner.json"  # in the run's folder


def require_folder(folder: Path) -> None:
    """Check that `run.dir` is a writable folder or can become one. Leaves nothing behind.

    Raises:
        ValueError: it, or one of its parents, is a file or is not writable.
    """
    for path in (folder, *folder.absolute().parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"invalid run.dir {folder}: {path} is a file; expected a folder")
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    probe = there / f".{folder.name}.{os.getpid()}.probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise ValueError(
            f"invalid run.dir {folder}: {there} cannot be written to ({error.strerror}); expected a writable folder"
        ) from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Context in which this run, with all its processes, is the only one in `folder`.

    The operating system releases the lock when the process ends, however it ends, so no lock is ever stale.

    Raises:
        ValueError: another run is in the folder; the message names its process and machine.
    """
    require_folder(folder)
    lock, is_new = FileLock(folder / LOCK), not folder.exists()
    fault = _taken(lock, folder) if leads_here() else None
    if faults := [line for line in gathered(fault) if line]:
        raise ValueError(faults[0])
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / OWNER).unlink(missing_ok=True)
            with suppress(OSError):  # Windows removes no file that is open
                if is_new and os.listdir(folder) == [LOCK]:  # a run that could not start leaves nothing behind
                    (folder / LOCK).unlink()
            lock.release()
            with suppress(OSError):  # it holds a run, or another process has just taken it
                if is_new:
                    folder.rmdir()


def require_free(folder: Path) -> None:
    """Check that no run is in `folder` now; nothing is written.

    Raises:
        ValueError: one is.
    """
    if leads_here() and (folder / LOCK).exists():
        lock = FileLock(folder / LOCK)
        if fault := _taken(lock, folder, sign=False):
            raise ValueError(fault)
        lock.release()


def _taken(lock: FileLock, folder: Path, sign: bool = True) -> str | None:
    """Take the lock and write down its owner; an error message if another run holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        if sign:
            _sign(folder)
    except Timeout:
        return f"run.dir {folder} is in use by {_owner(folder)}; wait until it ends, stop it, or give another run.dir"
    except OSError as error:
        return f"run.dir {folder} cannot be locked ({error.strerror or error}); give a folder on another disk"
    return None


def _sign(folder: Path) -> None:
    """Write down the owner of the lock. The lock holds without it, so a full disk does not matter."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(timespec="seconds")}
    with suppress(ValueError, OSError), whole_file(folder / OWNER) as temporary:
        temporary.write_text(json.dumps(owner) + "\n", encoding="utf-8")


def _owner(folder: Path) -> str:
    try:
        owner = read_json(folder / OWNER)
        return f"process {owner['pid']} on {owner['host']}, which has been training there since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock and has not written its name yet
        return "another process"
