"""Measures the bytes of live tensors while code runs under `LiveBytes`, and their peak.

It counts what operators return, on any device and also for
fake tensors, which have sizes and no memory; what an operator needs only inside itself (scratch of a convolution) is
not seen.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages that appear within the block; those that were there before count nothing.

    Attributes:
        peak: the most bytes that were alive at once.
        at: the operator that reached it.
    """

    def __init__(self, known: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self.peak, self.at = 0, ""
        self._live: dict[StorageWeakRef, int] = {}
        self._known = {StorageWeakRef(tensor.untyped_storage()) for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference not in self._known:
                    self._live[reference] = storage.nbytes()
        self._live = {reference: size for reference, size in self._live.items() if not reference.expired()}
        if (total := sum(self._live.values())) > self.peak:
            self.peak, self.at = total, str(func)
        return result
