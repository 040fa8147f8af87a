"""Reads the `results.json` of a comparison, and says which of its numbers may be shown."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from leanlens.evaluate.rates import MOST_FAILED
from leanlens.files import read_json

FORMAT = 2
ROLES = ("model", "reference", "control")
_PARTS = ("suite", "models", "judges", "metrics", "items")
_OPTIONAL: dict[str, Any] = {"categories": {}, "rates": {}, "comparisons": [], "failures": {}}


def read_results(folder: Path) -> dict[str, Any]:
    """The results of the comparison in a folder; parts that a comparison may lack are there, and empty.

    Raises:
        ValueError: there is no `results.json`, it has another format, lacks a part, or names an image outside the
            folder.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"invalid folder {folder}: expected one that `leanlens evaluate` wrote, with results.json")
    results = read_json(path)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        found = results.get("format") if isinstance(results, dict) else type(results).__name__
        raise ValueError(f"invalid format {found!r} of {path}: expected {FORMAT}; evaluate again with this version")
    missing = [part for part in _PARTS if part not in results]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    _require_form(results, path)
    for file in image_files(results):
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or "\\" in file:
            raise ValueError(
                f"invalid image {file!r} in {path}: expected a path inside the folder, such as images/x.png"
            )
    return {**_OPTIONAL, **results}


def _require_form(results: Mapping[str, Any], path: Path) -> None:
    """Raise a ValueError unless suite, models, judges and metrics are objects and every item has its images."""
    for part in ("suite", "models", "judges", "metrics"):
        _require(isinstance(results[part], dict), f"{part} is not an object", path)
    _require(isinstance(results["items"], list), "items is not a list", path)
    for name, one in results["models"].items():
        _require(isinstance(one, dict) and one.get("role", "model") in ROLES, f"model {name} has no known role", path)
    for index, item in enumerate(results["items"]):
        rows = item.get("images") if isinstance(item, dict) else None
        _require(
            isinstance(rows, dict)
            and all(isinstance(row, list) and all(map(_is_image, row)) for row in rows.values()),
            f"item {index} has no images", path,
        )  # fmt: skip


def _is_image(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("file"), str | None)


def _require(fulfilled: bool, what: str, path: Path) -> None:
    if not fulfilled:
        raise ValueError(f"{path} is damaged: {what}")


def read_costs(folder: Path) -> dict[str, Any]:
    """What was measured while drawing, by model; empty where nothing was."""
    path = folder / "costs.json"
    if not path.is_file():
        return {}
    costs = read_json(path)
    if not isinstance(costs, dict) or not all(isinstance(one, dict) for one in costs.values()):
        raise ValueError(f"{path} is damaged: expected an object for each model; delete it and evaluate again")
    return costs


def image_files(results: Mapping[str, Any]) -> list[str]:
    """The files of all images, each once, in the order of the prompts."""
    rows = (row for item in results["items"] for images in item["images"].values() for row in images)
    return list(dict.fromkeys(row["file"] for row in rows if row.get("file")))


def is_incomplete(results: Mapping[str, Any], name: str) -> bool:
    """Whether so much of a model's failed that it gets no headline."""
    one = results["failures"].get(name, {})
    return bool(one.get("incomplete")) or one.get("failed", 0) > MOST_FAILED * one.get("num", 0)


def headline(results: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The first metric of a model; None where it is incomplete or nothing was judged."""
    metrics = results["metrics"].get(name) or [{}]
    return None if metrics[0].get("value") is None or is_incomplete(results, name) else metrics[0]


def describe_failed(results: Mapping[str, Any], name: str) -> str:
    """Such as "12 of 400 judgements failed (10 x timeout; 2 x empty)"; empty where none did."""
    one = results["failures"].get(name, {})
    if not one.get("failed"):
        return ""
    reasons = "; ".join(f"{count} x {reason}" for reason, count in list(one.get("reasons", {}).items())[:3])
    return f"{one['failed']} of {one['num']} judgements failed" + (f" ({reasons})" if reasons else "")


def describe_rewriting(results: Mapping[str, Any], name: str) -> str:
    """Whether a model drew the prompts as they are written, and otherwise what rewrote how many of them."""
    rows = [row for item in results["items"] for row in item["images"].get(name, ())]
    records = [row["reasoned"] for row in rows if row.get("reasoned")]
    changed = [one for one in records if one.get("prompt") != one.get("original")]
    if not records:
        return "prompts drawn as written"
    by = Counter(str(one.get("source") or "an unnamed reasoner") for one in records)
    return f"{len(changed)} of {len(rows)} prompts rewritten by {', '.join(by)}"


def describe_judge(name: str, judge: Mapping[str, Any]) -> str:
    """A judge with its version and the start of its weights' checksum, as far as its identity states them."""
    identity = judge.get("identity", {})
    said = [str(identity[key]) for key in ("model", "version") if identity.get(key)]
    weights = str(identity.get("weights_sha256") or "")
    parts = [*said, *([f"weights {weights[:12]}"] if weights else [])]
    return f"{name} ({', '.join(parts)})" if parts else name
