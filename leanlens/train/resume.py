"""Decides whether a recipe continues the run in a folder: what may change during a run, and what may not.

Keys that affect the numbers may not change. Data and models may be moved or copied if their content stays the same:
`inputs.json` has a fingerprint of each, taken when the run started, which samples large files instead of reading them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leanlens.config import checked, differences, plain
from leanlens.files import fingerprint, read_json, whole_file
from leanlens.pictures.fingerprint import fingerprint_source
from leanlens.train.config import kind_of_tables

# Tables and keys that decide where a run stops, how often it saves and measures, and on what it runs, but no number.
FREE_TABLES = ("save", "sample", "metrics")
FREE_KEYS = (
    "run.dir", "run.device", "train.steps", "train.minutes", "data.workers", "data.cache",
    "ema.every", "ema.export", "validate.every", "guard.restores",
)  # fmt: skip
SOURCES = ("data.sources", "data.validation", "crops.sources", "crops.validation", "captions.sources")
MODELS = ("model.parts", "init.from", "start")
INPUTS = "inputs.json"


@contextmanager
def named(key: str) -> Iterator[None]:
    """Context in which the message of a ValueError begins with the recipe's key, unless it already names it."""
    try:
        yield
    except ValueError as error:
        if key in str(error):
            raise
        raise ValueError(f"{key}: {error}") from error


def write_recipe(recipe: Any, inputs: dict[str, Any]) -> None:
    """Write the recipe and the fingerprints of its inputs into the run's folder; {} computes them now."""
    folder, new = recipe.run.dir, plain(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("recipe.json", new), (INPUTS, inputs or fingerprints(new))):
        with whole_file(folder / name) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def require_same_run(recipe: Any) -> dict[str, Any]:
    """Check that a recipe continues the run in its folder; the run's fingerprints, {} if it has none yet.

    Raises:
        ValueError: it does not; every difference is shown.
    """
    folder, new = recipe.run.dir, plain(recipe)
    old = _stored(recipe, folder / "recipe.json")
    inputs = _stored_inputs(folder, old)
    changed = {
        key: pair
        for key, pair in differences(old, new).items()
        if not (_is_free(key, new) or _is_moved(key, pair, inputs))
    }
    if changed:
        lines = "; ".join(f"{key}: {there!r} there, {here!r} here" for key, (there, here) in changed.items())
        moved = " (it is no copy of what the run began with)" if {*changed} & {*SOURCES, *MODELS} else ""
        raise ValueError(
            f"run.dir {folder} holds a run with another recipe ({lines}){moved}; only where it stops, how often it "
            "saves and measures, and what it runs on may change: set the others back, or give another run.dir"
        )
    return inputs


def fingerprints(recipe: dict[str, Any]) -> dict[str, Any]:
    """Fingerprints of the local data and models that a recipe names, by key."""
    found: dict[str, Any] = {}
    for key in (*SOURCES, *MODELS):
        if (value := _value(recipe, key)) and (prints := _prints(key, value)) is not None:
            found[key] = prints
    return found


def _prints(key: str, value: Any) -> Any:
    """Fingerprint of one key; None if it names nothing local."""
    try:
        if key in SOURCES:
            return [fingerprint_source(path) for path in value]
        path = Path(value).expanduser()
        files = [path] if path.is_file() else [file for file in path.rglob("*") if _is_plain(file, path)]
        return fingerprint(sorted(files)) if files else None
    except (OSError, ValueError):
        return None


def _is_plain(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _stored(recipe: Any, path: Path) -> dict[str, Any]:
    """The recipe of the run, with today's defaults for keys that it did not have."""
    values = read_json(path, finite=False)  # optim.clip may be inf
    try:
        return plain(checked(type(recipe), values, stored=True))
    except ValueError:
        return values


def _stored_inputs(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """Fingerprints from the start of the run; for a run of an earlier version, those of now."""
    path = folder / INPUTS
    try:
        return read_json(path) if path.is_file() else fingerprints(recipe)
    except ValueError:
        return {}


def _is_free(key: str, recipe: dict[str, Any]) -> bool:
    if key == "ema.export" and kind_of_tables(recipe) != "denoiser":  # for these kinds it is the width that is tracked
        return False
    return key in FREE_KEYS or key.partition(".")[0] in FREE_TABLES


def _is_moved(key: str, pair: tuple[Any, Any], inputs: dict[str, Any]) -> bool:
    """Whether a key names the same data or model at another path."""
    return key in (*SOURCES, *MODELS) and bool(pair[1]) and key in inputs and _prints(key, pair[1]) == inputs[key]


def _value(recipe: dict[str, Any], key: str) -> Any:
    table, _, name = key.rpartition(".")
    values = recipe.get(table) if table else recipe
    return values.get(name) if isinstance(values, dict) else None
