"""The folder of a server: finished images, uploaded images and an index of jobs, which outlive the process.

    OUTPUT/index.sqlite        jobs and images
    OUTPUT/pictures/ID-N.png   image N of job ID, exactly the file that `leanlens generate` writes
    OUTPUT/inputs/SUM.png      an uploaded image under the SHA-256 of its bytes

An image's file is renamed into place before the index names it and before the client hears of it. A kill in between
leaves a file that the next start adds to the index.
"""

import hashlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from filelock import FileLock, Timeout

from leanlens.files import require_writable, whole_file
from leanlens.log import logger
from leanlens.pipeline.draw import DrawnPicture
from leanlens.pipeline.metadata import read_record, save_picture
from leanlens.serve.tasks import Job, StoredPicture, Task

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, door TEXT NOT NULL, model TEXT NOT NULL, pictures INTEGER NOT NULL,
    created REAL NOT NULL, finished REAL, state TEXT NOT NULL, error TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, created);
CREATE TABLE IF NOT EXISTS pictures (
    name TEXT PRIMARY KEY, job TEXT NOT NULL, place INTEGER NOT NULL, created REAL NOT NULL, inputs TEXT NOT NULL,
    favourite INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS pictures_by_job ON pictures (job, place);
CREATE INDEX IF NOT EXISTS pictures_by_age ON pictures (created);
"""
NAME = re.compile(r"([0-9a-f]{32})-(\d{1,9})\.png", re.ASCII)
_GRACE = 3600.0  # seconds that an upload is kept although no finished image was made from it
_SWEEP_EVERY = 60.0  # seconds


class FinishedPicture(TypedDict):
    """An image of a job: its place in the job, and its name."""

    index: int
    name: str


class JobRecord(TypedDict):
    """A job as the index knows it. `pictures` is the number asked for; times are seconds since 1970."""

    id: str
    owner: str
    api: str
    model: str
    pictures: int
    created: float
    finished: float | None
    state: str
    error: str | None
    finished_pictures: list[FinishedPicture]


class KeptPicture(TypedDict):
    """An image in a client's history."""

    name: str
    model: str
    favourite: bool


class Archive:
    """The folder of a server. One process uses a folder at a time; its lock ends with the process.

    Args:
        folder: made if it is not there.
        keep_days: age at which an image is removed; None keeps it.
        keep_pictures: how many images are kept, newest first; None keeps all.

    Raises:
        ValueError: the folder cannot be written to, another server holds it, or its index is no index.
    """

    def __init__(self, folder: str | Path, keep_days: float | None = None, keep_pictures: int | None = None):
        self.folder = Path(folder).resolve()
        self.keep_days = keep_days
        self.keep_pictures = keep_pictures
        require_writable(self.folder / "index.sqlite")
        for name in ("pictures", "inputs"):
            (self.folder / name).mkdir(exist_ok=True)
        self._lock = threading.RLock()
        self._swept = 0.0
        # A server may be closed in another thread than it was opened in.
        self._hold = FileLock(self.folder / ".lock", blocking=False, thread_local=False)
        try:
            self._hold.acquire()
        except Timeout:
            raise ValueError(f"output {folder} is in use by another server; choose another folder") from None
        try:
            self._index = sqlite3.connect(self.folder / "index.sqlite", check_same_thread=False, isolation_level=None)
            self._index.execute("PRAGMA journal_mode = WAL")
            self._index.execute("PRAGMA synchronous = NORMAL")
            self._index.executescript(_SCHEMA)
            self._add_favourites()
        except sqlite3.DatabaseError as error:
            self._hold.release()
            raise ValueError(f"output {folder} holds an index.sqlite that cannot be read ({error})") from None
        self._settle()
        self.sweep()

    def begin(self, job: Job) -> bool:
        """Record a new job; False if its id is taken."""
        try:
            self._run(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, NULL, 'waiting', NULL)",
                (job.id, job.owner, job.api, job.model, len(job.tasks), job.created),
            )
        except sqlite3.IntegrityError:
            return False
        return True

    def store(self, task: Task, drawn: DrawnPicture) -> StoredPicture:
        """Store a finished image: the file first, then the index.

        Raises:
            OSError, ValueError: it cannot be written; then nothing is left of it.
        """
        name = f"{task.job.id}-{task.index}.png"
        path = save_picture(drawn.image, self.folder / "pictures" / name, drawn.record)
        self._enter(name, time.time(), drawn.record)
        return StoredPicture(name, path, drawn.record)

    def finish(self, job: Job) -> None:
        """Record how a job ended."""
        error = next((task.error.message for task in job.tasks if task.error), None)
        self._run("UPDATE jobs SET state = ?, error = ?, finished = ? WHERE id = ?",
                  (job.state, error, time.time(), job.id))  # fmt: skip
        if time.monotonic() - self._swept > _SWEEP_EVERY:
            self.sweep()

    def picture(self, name: str) -> Path | None:
        """The file of an image that the index knows, or None."""
        if NAME.fullmatch(name) is None or not self._run("SELECT 1 FROM pictures WHERE name = ?", (name,)):
            return None
        path = self.folder / "pictures" / name
        return path if path.is_file() else None

    def job(self, identity: str) -> JobRecord | None:
        """A job by its id; None for an unknown one."""
        rows = self._run("SELECT * FROM jobs WHERE id = ?", (identity,))
        return self._described(rows)[0] if rows else None

    def recent(self, owner: str, limit: int = 50) -> list[JobRecord]:
        """An owner's latest jobs, newest first."""
        return self._described(
            self._run("SELECT * FROM jobs WHERE owner = ? ORDER BY created DESC LIMIT ?", (owner, limit))
        )

    def kept(self, owner: str, limit: int, favourites: bool = False) -> list[KeptPicture]:
        """An owner's newest images; those of one job in their order."""
        rows = self._run(
            "SELECT pictures.name, jobs.model, pictures.favourite FROM pictures JOIN jobs ON jobs.id = pictures.job "
            "WHERE jobs.owner = ? AND pictures.favourite >= ? ORDER BY jobs.created DESC, pictures.place LIMIT ?",
            (owner, int(favourites), limit),
        )
        return [KeptPicture(name=name, model=model, favourite=bool(favourite)) for name, model, favourite in rows]

    def favour(self, owner: str, name: str, wanted: bool = True) -> bool:
        """Mark or unmark an owner's image as a favourite, which retention never removes; False if there is none."""
        if not self._owns(owner, name):
            return False
        self._run("UPDATE pictures SET favourite = ? WHERE name = ?", (int(wanted), name))
        return True

    def remove(self, owner: str, name: str) -> bool:
        """Delete an owner's image for good; False if there is none."""
        if not self._owns(owner, name):
            return False
        self._delete(name)
        return True

    def keep_input(self, data: bytes, suffix: str) -> Path:
        """Store the bytes of an uploaded image under their checksum."""
        path = self.folder / "inputs" / f"{hashlib.sha256(data).hexdigest()}{suffix}"
        if path.is_file():
            path.touch()  # restarts its grace period
        else:
            with whole_file(path) as temporary:
                temporary.write_bytes(data)
        return path

    def sweep(self) -> None:
        """Remove everything that the retention settings do not keep."""
        self._swept = time.monotonic()
        now = time.time()
        old = now - self.keep_days * 86400 if self.keep_days is not None else 0.0
        names = [row[0] for row in self._run("SELECT name FROM pictures WHERE created < ? AND NOT favourite", (old,))]
        if self.keep_pictures is not None:
            names += [
                row[0]
                for row in self._run(
                    "SELECT name FROM pictures WHERE NOT favourite ORDER BY created DESC, name LIMIT -1 OFFSET ?",
                    (self.keep_pictures,),
                )
            ]
        for name in names:
            self._delete(name)
        self._run(
            "DELETE FROM jobs WHERE finished IS NOT NULL AND created < ? AND id NOT IN (SELECT job FROM pictures)",
            (old or now - 30 * 86400,),
        )
        self._remove_inputs(now)

    def close(self) -> None:
        """Close the index and release the folder."""
        with self._lock:
            self._index.close()
        self._hold.release()

    # ---------------------------------------------------------------------------------------- inside

    def _add_favourites(self) -> None:
        """Indexes of earlier versions lack this column."""
        if "favourite" not in {row[1] for row in self._run("PRAGMA table_info(pictures)")}:
            self._run("ALTER TABLE pictures ADD COLUMN favourite INTEGER NOT NULL DEFAULT 0")

    def _owns(self, owner: str, name: str) -> bool:
        statement = "SELECT 1 FROM pictures JOIN jobs ON jobs.id = pictures.job WHERE pictures.name = ? AND owner = ?"
        return bool(self._run(statement, (name, owner)))

    def _delete(self, name: str) -> None:
        """The file first: a row without a file is harmless, but a file without a row would be indexed again."""
        if _is_removed(self.folder / "pictures" / name):
            self._run("DELETE FROM pictures WHERE name = ?", (name,))

    def _settle(self) -> None:
        """After a start: index finished images that the index missed, and mark jobs that were interrupted."""
        known = {row[0] for row in self._run("SELECT name FROM pictures")}
        for path in (self.folder / "pictures").iterdir():
            try:
                self._take_in(path, known)
            except Exception as error:  # no single file may keep the server from starting
                kind = type(error).__name__
                logger.warning("%s is not indexed: %s: %s", path.name[:80], kind, str(error)[:200])
        for name in known - {path.name for path in (self.folder / "pictures").iterdir()}:
            self._run("DELETE FROM pictures WHERE name = ?", (name,))
        for identity, pictures in self._run("SELECT id, pictures FROM jobs WHERE finished IS NULL"):
            finished = self._run("SELECT count(*) FROM pictures WHERE job = ?", (identity,))[0][0]
            state = "done" if finished == pictures else "partial" if finished else "interrupted"
            reason = None if state == "done" else "the server stopped before the rest was drawn"
            self._run("UPDATE jobs SET state = ?, error = ?, finished = ? WHERE id = ?",
                      (state, reason, time.time(), identity))  # fmt: skip

    def _take_in(self, path: Path, known: set[str]) -> None:
        """Remove a file that was half-written when the process ended; index a finished image that the index missed."""
        if path.name.startswith(".") and NAME.match(path.name, 1) is not None:
            path.unlink()
        elif path.name not in known and NAME.fullmatch(path.name) is not None:
            self._enter(path.name, path.stat().st_mtime, read_record(path))
            logger.info("%s was finished when the server stopped and is indexed now", path.name)

    def _enter(self, name: str, created: float, record: dict[str, Any]) -> None:
        match = NAME.fullmatch(name)
        assert match is not None
        request = record["request"]
        inputs = [Path(request[part]).name for part in ("image", "mask") if request.get(part)]
        self._run("INSERT OR REPLACE INTO pictures (name, job, place, created, inputs) VALUES (?, ?, ?, ?, ?)",
                  (name, match[1], int(match[2]), created, json.dumps(inputs)))  # fmt: skip

    def _remove_inputs(self, now: float) -> None:
        used = {name for (inputs,) in self._run("SELECT inputs FROM pictures") for name in json.loads(inputs)}
        for path in (self.folder / "inputs").iterdir():
            if path.is_file() and path.name not in used and now - path.stat().st_mtime > _GRACE:
                _is_removed(path)

    def _described(self, rows: Sequence[tuple]) -> list[JobRecord]:
        return [self._record(*row) for row in rows]

    def _record(
        self, id: str, owner: str, api: str, model: str, pictures: int, created: float, finished: float | None,
        state: str, error: str | None,
    ) -> JobRecord:  # fmt: skip
        found = self._run("SELECT name, place FROM pictures WHERE job = ? ORDER BY place", (id,))
        return JobRecord(
            id=id, owner=owner, api=api, model=model, pictures=pictures, created=created, finished=finished,
            state=state, error=error,
            finished_pictures=[FinishedPicture(index=place, name=name) for name, place in found],
        )  # fmt: skip

    def _run(self, statement: str, values: tuple = ()) -> list[tuple]:
        with self._lock:
            return self._index.execute(statement, values).fetchall()


def _is_removed(path: Path) -> bool:
    """Remove a file; False and a warning if it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", path.name[:80], error.strerror or error)
        return False
    return True
