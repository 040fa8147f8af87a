"""Strict checks of weights: names, shapes, dtypes, finite values, checksums.

Comes in: a path. Goes out: a list of findings; a whole and sound set of weights gives none of level "error".

Knows nothing of how findings are shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from leanlens.files import sha256
from leanlens.weights.layouts import TITLES, Layout, identify
from leanlens.weights.load import Stored, differences, empty_model, open_tokenizer, read_stored, stored_tensors

SUMS_FILE = "SHA256SUMS"
# SHA-256 of published files, by file name. A file of another sum may still be sound: fine-tuned weights, for example.
KNOWN_SUMS = {
    "lens_turbo_bf16.safetensors": "a9fc0e27261d9199d4e46e573a6b247f3cd94beec0241e61ae9eaee5ae9ef7c9",
    "tokenizer.json": "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3",
}


@dataclass(frozen=True)
class Finding:
    """One thing found; `level` is error (unusable), warning (worth a look) or ok."""

    level: str
    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.path}: {self.message}"


def verify(path: str | Path, quick: bool = False, progress: bool = False) -> list[Finding]:
    """Check what lies at `path`.

    Args:
        quick: look at names, shapes and dtypes alone; read no weight and compute no checksum.
        progress: show a progress bar.
    """
    try:
        layout = identify(path)
    except ValueError as error:
        return [Finding("error", Path(path), str(error))]
    if layout.refusal:
        return [Finding("error", layout.path, f"{layout.path} {layout.refusal}")]
    findings = [finding for part in (layout, *layout.parts.values()) for finding in _check(part, quick, progress)]
    findings += [
        Finding("error", layout.path, f"{name} is missing") for name in layout.missing if name != "config.json"
    ]
    if not quick:
        findings += _checksums(layout)
    return findings or [Finding("ok", layout.path, layout.title)]


def require_sound(layout: Layout) -> None:
    """Check names, shapes and dtypes of one component; reads headers alone.

    Raises:
        ValueError: the first error, with its path.
    """
    for finding in _check(layout, quick=True, progress=False):
        if finding.level == "error":
            place = "" if str(finding.path) in finding.message else f"{finding.path}: "
            raise ValueError(f"{place}{finding.message}")


def _check(layout: Layout, quick: bool, progress: bool) -> Iterator[Finding]:
    if layout.refusal:
        yield Finding("error", layout.path, f"{layout.path} {layout.refusal}")
    elif layout.component == "tokenizer":
        yield from _check_tokenizer(layout)
    elif layout.component in TITLES:
        yield from _check_tensors(layout, quick, progress)


def _check_tokenizer(layout: Layout) -> Iterator[Finding]:
    try:
        open_tokenizer(layout.path)
    except (ValueError, OSError) as error:
        yield Finding("error", layout.path, str(error))


def _check_tensors(layout: Layout, quick: bool, progress: bool) -> Iterator[Finding]:
    try:
        stored = stored_tensors(layout)
        problems = list(differences(empty_model(layout), stored))
    except ValueError as error:
        yield Finding("error", layout.path, str(error))
        return
    for problem in problems:
        yield Finding("error", layout.path, problem)
    for dtype in sorted({tensor.weight.dtype for tensor in stored.values() if tensor.quantisation is None}):
        if dtype not in ("F32", "BF16", "F16", "F8_E4M3", "F8_E5M2", "I64"):
            yield Finding("error", layout.path, f"stored dtype {dtype} is none that a Lens part has")
    if not quick:
        bar = tqdm(stored.items(), desc=layout.path.name, unit="tensor", disable=not progress)
        yield from (finding for name, tensor in bar for finding in _check_values(layout, name, tensor))


def _check_values(layout: Layout, name: str, tensor: Stored) -> Iterator[Finding]:
    try:
        values = read_stored(tensor)
    except ValueError as error:
        yield Finding("error", layout.path, f"{name}: {error}")
        return
    if values.is_floating_point() and (broken := int((~torch.isfinite(values)).sum())):
        yield Finding("error", tensor.weight.file, f"{name} has {broken} values that are not finite")


def _checksums(layout: Layout) -> Iterator[Finding]:
    folder = layout.path if layout.path.is_dir() else layout.path.parent
    stated = _read_sums(folder / SUMS_FILE)
    for name, expected in stated.items():
        file = folder / name
        if layout.path.is_file() and file.resolve() != layout.path.resolve():
            continue
        if not file.is_file():
            yield Finding("error", file, f"{SUMS_FILE} names it and it is missing")
        elif sha256(file) != expected:
            yield Finding("error", file, f"its SHA-256 is not the one in {SUMS_FILE}; fetch it again")
    for file in layout.files:
        known = KNOWN_SUMS.get(file.name)
        if known and file.relative_to(folder).as_posix() not in stated and sha256(file) != known:
            yield Finding("warning", file, "its SHA-256 is not that of the published file of this name")


def _read_sums(path: Path) -> dict[str, str]:
    """File name -> sum, from the lines `sum  name` that sha256sum writes; empty where there is no such file."""
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(line) != 2 or len(line[0]) != 64 for line in lines):
        raise ValueError(f"{path} is no list of SHA-256 sums; lines of `sum  name` are accepted")
    return {line[1].removeprefix("*"): line[0].lower() for line in lines}
