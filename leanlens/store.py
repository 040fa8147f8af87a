"""Tensors on disk under the content they were made from: found again if and only if nothing of that changed.

Comes in: what a result depends on, and tensors. Goes out: those tensors, bit for bit, or None. Knows nothing of models.

A key is the SHA-256 of everything the result depends on, so a changed input is another key and nothing on disk can be
stale. One safetensors file for each key, written completely or not at all; several processes may write at once.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanlens.files import whole_file
from leanlens.log import logger

if TYPE_CHECKING:
    from torch import Tensor


def content_key(**parts: Any) -> str:
    """64 hexadecimal digits for everything a result depends on, given by name as plain JSON values.

    Raises:
        TypeError: a part that JSON cannot hold, and that therefore could not be told apart reliably.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Store:
    """A folder of tensors by content key.

    Args:
        folder: made with the first `save`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where the tensors of `key` lie, or would."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def load(self, key: str) -> "dict[str, Tensor] | None":
        """The tensors of `key` on the CPU, or None. A file that is damaged or bears another key counts as absent."""
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == key:
                    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            reason = "it bears another key"
        except (SafetensorError, OSError) as error:
            reason = str(error)
        logger.warning("%s is not used and will be made again: %s", path, reason)
        return None

    def save(self, key: str, tensors: "dict[str, Tensor]") -> None:
        """Keep `tensors` under `key`.

        Raises:
            ValueError: the folder cannot be written to.
        """
        from safetensors.torch import save

        data = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, {"key": key})
        with whole_file(self.path(key)) as path:
            path.write_bytes(data)
