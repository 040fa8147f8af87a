"""Adapter formats that other installed packages add: functions that turn their keys into those of a plain LoRA.

A package declares a function in the entry-point group `leanlens.adapters`. The function is given the keys of a file and
returns None where they are not of its format, else a function from the file's tensors to the tensors of a plain LoRA.
It is asked only about files that leanlens does not read itself.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanlens.plugins import ADAPTERS, load_plugin, plugins
from leanlens.weights.headers import DTYPE_BITS, Entry
from leanlens.weights.lora_keys import MAX_BYTES

if TYPE_CHECKING:
    from torch import Tensor

Convert = Callable[[Mapping[str, "Tensor"]], Mapping[str, "Tensor"]]


def find_converter(keys: Sequence[str]) -> tuple[str, Convert] | None:
    """The first added format, by name, that has these keys, and its conversion; None where none has.

    Raises:
        ValueError: a declared function cannot be imported.
    """
    for name, entry in plugins(ADAPTERS).items():
        convert = load_plugin(entry)(list(keys))
        if convert is not None:
            return name, convert
    return None


def converted(
    file: str | Path, name: str, convert: Convert, entries: Mapping[str, Entry], read: "Callable[[str], Tensor]"
) -> "dict[str, Tensor]":
    """The tensors of a plain LoRA, made by the format `name` from all tensors of a file.

    Raises:
        ValueError: the file is too large, or the conversion fails.
    """
    size = sum(entry.elements * DTYPE_BITS.get(entry.dtype, 64) // 8 for entry in entries.values())
    if size > MAX_BYTES:
        raise ValueError(f"{file} has {size / 1e9:.1f} GB; the limit is {MAX_BYTES / 1e9:.1f} GB")
    try:
        return dict(convert({key: read(key) for key in entries}))
    except Exception as error:  # it is code of another package
        raise ValueError(f"{file}: the adapter format {name!r} failed: {type(error).__name__}: {error}") from error
