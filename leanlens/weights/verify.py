"""Verifies weights strictly: names, shapes, dtypes, finite values and checksums.

Valid weights give no finding of level "error".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from leanlens.files import read_text, sha256
from leanlens.hub import SUMS, read_sums
from leanlens.weights.layouts import TITLES, Layout, identify, identify_pipeline
from leanlens.weights.load import Stored, differences, empty_model, open_tokenizer, read_stored, stored_tensors

# SHA-256 of published files, by file name. Another checksum is not an error: the weights may be fine-tuned.
KNOWN_SUMS = {
    "lens_turbo_bf16.safetensors": "a9fc0e27261d9199d4e46e573a6b247f3cd94beec0241e61ae9eaee5ae9ef7c9",
    "tokenizer.json": "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3",
}


@dataclass(frozen=True)
class Finding:
    """One result of a check; `level` is error (unusable), warning or ok."""

    level: str
    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.sentence}"

    @property
    def sentence(self) -> str:
        """The message with its path, which is not repeated if the message contains it."""
        named = self.message.removeprefix("invalid ").startswith((f"{self.path} ", f"{self.path}/", f"{self.path}:"))
        return self.message if named else f"{self.path}: {self.message}"


def verify(path: str | Path, quick: bool = False, progress: bool = False) -> list[Finding]:
    """Verify the file or folder at `path`.

    Args:
        quick: check only names, shapes and dtypes; read no weights and compute no checksums.
        progress: show a progress bar.
    """
    path = Path(path).expanduser()
    path = path.parent if path.name == "model_index.json" else path
    try:
        if (path / "model_index.json").is_file():
            layout, broken = identify_pipeline(path)
        else:
            layout, broken = identify(path), {}
    except ValueError as error:
        return [Finding("error", path, str(error))]
    if layout.refusal:
        return [Finding("error", layout.path, f"{layout.path} {layout.refusal}")]
    findings = [] if quick else list(_checksums(layout))
    findings += [Finding("error", layout.path / name, problem) for name, problem in broken.items()]
    findings += _check(layout, quick, progress)
    return findings or [Finding("ok", layout.path, layout.title)]


def require_sound(layout: Layout) -> None:
    """Check names, shapes and dtypes of a component, or of a pipeline and all its parts, from headers only.

    Raises:
        ValueError: the first error, with its path. A missing part or config.json is an error.
    """
    for finding in _check(layout, quick=True, progress=False):
        if finding.level == "error":
            raise ValueError(finding.sentence)


def _check(layout: Layout, quick: bool, progress: bool) -> Iterator[Finding]:
    """Findings of a layout and its parts, missing files first."""
    for name in layout.missing:
        yield Finding("error", layout.path, f"{layout.path / name} is missing; fetch it again")
    for part in layout.parts.values():
        yield from _check(part, quick, progress)
    if layout.refusal:
        yield Finding("error", layout.path, f"{layout.path} {layout.refusal}")
    elif layout.component == "tokenizer":
        yield from _check_tokenizer(layout)
    elif layout.component in TITLES:
        yield from _check_tensors(layout, quick, progress)
    elif layout.component == "lora" and not quick:
        yield from _check_lora(layout)


def _check_lora(layout: Layout) -> Iterator[Finding]:
    from leanlens.weights.lora import read_lora  # with PEFT, which takes seconds to import

    try:
        lora = read_lora(layout.path)
    except ValueError as error:
        yield Finding("error", layout.path, str(error))
        return
    for name, layer in lora.layers.items():
        if broken := sum(int((~torch.isfinite(matrix)).sum()) for matrix in (layer.a, layer.b)):
            yield Finding("error", layout.path, f"{name} has {broken} values that are not finite")


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
            yield Finding("error", layout.path, f"stored dtype {dtype} is not used by any Lens part")
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
    stated: dict[str, str] = {}
    try:
        if (folder / SUMS).is_file():
            stated = read_sums(read_text(folder / SUMS, SUMS))
    except (OSError, ValueError) as error:
        yield Finding("error", folder, str(error))
    for name, expected in stated.items():
        file = folder / name
        if layout.path.is_file() and file.resolve() != layout.path.resolve():
            continue
        if not file.is_file():
            yield Finding("error", file, f"is listed in {SUMS} but missing")
        elif sha256(file) != expected:
            yield Finding("error", file, f"its SHA-256 is not the one in {SUMS}; fetch it again")
    for file in layout.files:
        known = KNOWN_SUMS.get(file.name)
        if known and file.relative_to(folder).as_posix() not in stated and sha256(file) != known:
            yield Finding("warning", file, "its SHA-256 is not that of the published file of this name")
