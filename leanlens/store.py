"""Caches tensors and JSON values on disk by a content key, the SHA-256 of everything that they come from.

A changed input has another key, so an entry is never stale. Each key has one safetensors or JSON file,
written atomically; several processes may write at once.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanlens.files import read_json, whole_file
from leanlens.log import logger

if TYPE_CHECKING:
    from torch import Tensor


def content_key(**parts: Any) -> str:
    """64 hexadecimal digits for everything that a result depends on, given by name as JSON values.

    Raises:
        TypeError: a part is not a JSON value.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Store:
    """A folder of tensors and JSON values by content key.

    Args:
        folder: created by the first entry.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, key: str, suffix: str = ".safetensors") -> Path:
        """The file for the tensors of `key`, or its JSON value with the suffix ".json", whether or not it exists."""
        return self.folder / key[:2] / f"{key}{suffix}"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def load(self, key: str) -> "dict[str, Tensor] | None":
        """The tensors of `key` on the CPU, or None. A damaged file, or one with another key, counts as missing."""
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == key:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            reason = "it has another key"
        except (SafetensorError, OSError) as error:
            reason = str(error)
        logger.warning("ignoring %s, which will be written again: %s", path, reason)
        return None

    def save(self, key: str, tensors: "dict[str, Tensor]") -> None:
        """Store `tensors` under `key`.

        Raises:
            ValueError: the folder is not writable.
        """
        from safetensors.torch import save

        data = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, {"key": key})
        with whole_file(self.path(key)) as path:
            path.write_bytes(data)

    def load_json(self, key: str) -> Any:
        """The JSON value of `key`, or None. A damaged file, or one with another key, counts as missing."""
        path = self.path(key, ".json")
        if not path.is_file():
            return None
        try:
            table = read_json(path)
            if isinstance(table, dict) and table.get("key") == key and "value" in table:
                return table["value"]
            reason = "it has another key"
        except ValueError as error:
            reason = str(error)
        logger.warning("ignoring %s, which will be written again: %s", path, reason)
        return None

    def save_json(self, key: str, value: Any) -> None:
        """Store a JSON value other than None under `key`.

        Raises:
            TypeError: it is not a JSON value.
            ValueError: the folder is not writable, or a number is not finite.
        """
        if value is None:
            raise TypeError("invalid value None: load_json returns it for a missing entry")
        text = json.dumps({"key": key, "value": value}, allow_nan=False)
        with whole_file(self.path(key, ".json")) as path:
            path.write_text(text + "\n", encoding="utf-8")
