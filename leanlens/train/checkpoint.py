"""Writes the state of a run as checkpoints while training continues, and reads them back.

Each checkpoint is a folder `step-00001000`, readable by any number of processes. It gets its final name only when it is
complete, so a process may be killed at any moment. It holds the SHA-256 sums of its files; a run never continues from a
checkpoint whose files do not match them.

Format: torch distributed checkpoint (DCP). Its metadata file is a pickle by torch's design, so a checkpoint is read
back only from the run's own folder; what leaves a run is safetensors (`export`).
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from leanlens.dist import Group, gathered, wait_for_all
from leanlens.files import read_json, sha256, sync
from leanlens.log import logger

CHECKPOINTS = "checkpoints"  # in the run's folder
STATE_FILE = "state.safetensors"  # there instead, in autoencoder and language runs of earlier versions
FACTS = "facts.json"
SUMS = "sums.json"  # name -> SHA-256 of every other file


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie.
        group: the processes that write them together.
        keep: how many of the latest stay, beside the one with the lowest `score`.
    """

    def __init__(self, folder: Path, group: Group, keep: int):
        self.folder, self.group, self.keep = folder, group, keep
        self._writing: tuple[Path, dict[str, Any], Any] | None = None
        # A checkpoint is written during the next steps: its messages must not mix with theirs.
        self._channel = dist.new_group(backend="gloo") if dist.is_initialized() else None
        _accept_one_process()
        if group.leads:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*"):
                shutil.rmtree(leftover)
        wait_for_all()

    def latest(self) -> Path | None:
        """The newest intact checkpoint; damaged ones after it are renamed, with a warning.

        Raises:
            ValueError: there are checkpoints and all are damaged.
        """
        intact = intact_checkpoint(self.folder)
        wait_for_all()
        if self.group.leads and intact is not None:
            for path in [path for path in whole_checkpoints(self.folder) if path > intact]:
                aside = path.with_name(f"{path.name}.damaged")  # its name will be needed again
                while aside.exists():
                    aside = aside.with_name(f"{aside.name}-too")
                os.replace(path, aside)
                logger.warning("kept the damaged checkpoint as %s; the run continues from %s", aside, intact)
        wait_for_all()
        return intact

    def save(self, step: int, tensors: dict[str, Any], facts: dict[str, Any], score: float | None = None) -> None:
        """Start writing the state after `step`; training may continue and change the tensors at once.

        Raises:
            OSError: there is not enough disk space, or the save before this one failed; earlier checkpoints stay.
        """
        self.settle()
        target = self.folder / f"step-{step:08d}"
        if any(gathered(target.exists())):
            return
        partial = self.folder / f".{target.name}"
        if lacking := [line for line in gathered(self._lacking_room(tensors)) if line]:
            raise OSError(f"checkpoint {target} {lacking[0]}; {self._untouched()}")
        future = dcp.async_save(
            tensors, checkpoint_id=partial, process_group=self._channel, no_dist=self._channel is None
        )
        self._writing = (target, {"step": step, "score": score, **facts}, future)

    def settle(self, wait: bool = True) -> None:
        """Give the started checkpoint its name when it is complete on every process; with `wait`, wait for that.

        Raises:
            OSError: it could not be written; the earlier checkpoints are untouched.
        """
        if self._writing is None:
            return
        target, facts, handle = self._writing
        future = _future_of(handle)
        if not wait and not all(gathered(future.done())):
            return
        self._writing = None
        partial = self.folder / f".{target.name}"
        errors = [line for line in gathered(_failure(future)) if line] or self._complete(partial, facts)
        if self.group.leads and errors:
            shutil.rmtree(partial, ignore_errors=True)
        elif self.group.leads:
            for path in (*partial.rglob("*"), partial):
                sync(path)
            os.replace(partial, target)
            sync(target.parent)
            self._prune()
            logger.info("saved %s", target)
        wait_for_all()
        if errors:
            raise OSError(f"checkpoint {target} could not be written: {errors[0]}; {self._untouched()}")

    def _complete(self, partial: Path, facts: dict[str, Any]) -> list[str]:
        """Add facts and sums to a folder whose tensors are written; what went wrong on any process."""
        error = None
        if self.group.leads:
            error = _trying(lambda: (partial / FACTS).write_text(json.dumps(facts), encoding="utf-8"))
        if not (errors := [line for line in gathered(error) if line]):
            sums: dict[str, str] = {}
            error = _trying(lambda: sums.update({path.name: sha256(path) for path in _share(partial)}))
            parts = gathered((sums, error))
            errors = [line for _, line in parts if line]
        if not errors:
            whole = {name: value for part, _ in parts for name, value in sorted(part.items())}
            if self.group.leads:
                error = _trying(lambda: (partial / SUMS).write_text(json.dumps(whole, indent=1), encoding="utf-8"))
            errors = [line for line in gathered(error) if line]
        return errors

    def _prune(self) -> None:
        found = whole_checkpoints(self.folder)
        scores = {path: score for path in found if (score := _score(path)) is not None}
        kept = {*found[-self.keep :], *([min(scores, key=scores.__getitem__)] if scores else [])}
        for path in found:
            if path not in kept:
                doomed = path.with_name(f".{path.name}")
                os.replace(path, doomed)  # half deleted, it must not look whole
                shutil.rmtree(doomed)

    def _lacking_room(self, tensors: dict[str, Any]) -> str | None:
        needed, free = _bytes(tensors), shutil.disk_usage(self.folder).free
        return f"needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free" if free < needed else None

    def _untouched(self) -> str:
        latest = latest_checkpoint(self.folder)
        return f"the run can be continued from {latest}" if latest else "there is no earlier checkpoint"


def whole_checkpoints(folder: Path) -> list[Path]:
    """Every whole checkpoint below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8,}", path.name))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint below `folder`; its bytes are not read."""
    found = whole_checkpoints(folder)
    return found[-1] if found else None


def is_begun(run: Path) -> bool:
    """Whether the folder of a run holds a state to continue from."""
    state = latest_checkpoint(run / CHECKPOINTS) is not None or (run / STATE_FILE).is_file()
    return state and (run / "recipe.json").is_file()


def intact_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files match their sums; a warning for every newer one, None if there is none.

    All processes read, each its share of the files.

    Raises:
        ValueError: there are checkpoints and all are damaged.
    """
    found = whole_checkpoints(folder)
    for path in reversed(found):
        faults = [line for line in gathered(_damage(path)) if line]
        if not faults:
            return path
        if _place()[0] == 0:
            logger.warning("checkpoint %s is damaged: %s", path, faults[0])
    if found:
        raise ValueError(
            f"every checkpoint in {folder} is damaged, the newest is {found[-1].name}: put back a copy of one"
        )
    return None


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """The plain facts that were saved with a checkpoint, `step` and `score` among them.

    Raises:
        ValueError: the file is missing or broken.
    """
    return _read(checkpoint / FACTS)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, finite=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} of a checkpoint cannot be read: {error}") from error


def _score(checkpoint: Path) -> float | None:
    """The validation loss of a checkpoint; one that cannot be read is not the best."""
    try:
        return read_facts(checkpoint)["score"]
    except ValueError:
        return None


def _share(checkpoint: Path) -> list[Path]:
    """The files that this process sums: those that it wrote itself; the leading process also all the rest."""
    rank, count = _place()
    names = sorted(path for path in checkpoint.iterdir() if path.name != SUMS)
    return [path for path in names if _writer(path, count) == rank]


def _place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _writer(path: Path, count: int) -> int:
    """The process that wrote a file `__RANK_NUMBER.distcp`, of `count` now; 0 for every other file."""
    named = re.match(r"__(\d+)_", path.name)
    return int(named[1]) % count if named else 0


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with this process's share of a checkpoint, or None."""
    if not (checkpoint / SUMS).exists():
        if _place()[0] == 0:
            logger.warning("%s has no %s, so its bytes are not checked", checkpoint, SUMS)
        return _trying(lambda: read_facts(checkpoint))
    try:
        sums = _read(checkpoint / SUMS)
        if missing := [name for name in sums if not (checkpoint / name).is_file()]:
            return f"{missing[0]} is missing"
        wrong = [path.name for path in _share(checkpoint) if sums.get(path.name) not in (None, sha256(path))]
    except (OSError, ValueError) as error:
        return str(error)
    return f"{wrong[0]} is not what was written" if wrong else None


def _trying(act: Callable[[], Any]) -> str | None:
    """The error of `act` in one line; None if it succeeds."""
    try:
        act()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def load_tensors(checkpoint: Path, tensors: dict[str, Any]) -> None:
    """Overwrite `tensors`, nested as they were saved, with what a checkpoint holds for this process.

    Raises:
        ValueError: the checkpoint holds no such tensors, or others.
    """
    _accept_one_process()
    try:
        dcp.load(tensors, checkpoint_id=checkpoint, no_dist=not dist.is_initialized())
    except (RuntimeError, dcp.api.CheckpointException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"checkpoint {checkpoint} does not fit this model: {reason}") from error


def _accept_one_process() -> None:
    """Keep torch from warning, also out of its writing thread, that one process is saving by itself."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


def _future_of(handle: Any) -> Future:
    """`async_save` answers with a future, or with an object that holds it."""
    return getattr(handle, "upload_completion", handle)


def _failure(future: Future) -> str | None:
    """The cause of a failed save in one line: the last one of what was raised, wherever that was."""
    error = future.exception()
    if error is None:
        return None
    causes = [str(one) for one in getattr(error, "failures", {}).values()] or [str(error)]
    lines = [line.strip() for line in causes[0].splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)


def _bytes(tensors: Any) -> int:
    if isinstance(tensors, dict):
        return sum(_bytes(value) for value in tensors.values())
    if isinstance(tensors, list | tuple):
        return sum(_bytes(value) for value in tensors)
    return tensors.numel() * tensors.element_size() if isinstance(tensors, Tensor) else 0
