"""Batches that are known by a number alone, as an endless, resumable stream."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Numbered:
    """Batches 0, 1, 2 and so on; its state is the number of the next one.

    Args:
        batches: number of a batch -> iterator over it and all that come after it.
    """

    def __init__(self, batches: Callable[[int], Iterator[Any]]):
        self.batches, self.next = batches, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches(self.next):
            self.next += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the next iterator begins."""
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iterator begin there."""
        self.next = state["next"]
