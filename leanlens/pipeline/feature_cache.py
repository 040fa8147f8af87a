"""Caches text features by key: in memory up to a number of bytes, and on disk where a store is given."""

from collections import OrderedDict
from collections.abc import Callable

from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.template_date import resolve_date
from leanlens.store import Store, content_key

# The features of a text, or those of a prompt and of its negative prompt.
Entry = tuple[TextFeatures, ...]
_PREFIXES = {1: ("",), 2: ("positive.", "negative.")}  # of the names in a file, by the number of texts


class FeatureCache:
    """Text features by key, bit-equal to those that were put in, on the CPU.

    Args:
        store: where every entry is kept on disk as well; keys are then `content_key`s.
        memory: bytes of entries that are kept in memory. The latest entry always is, even where it takes more; those
            unused for the longest time are dropped first. None keeps nothing in memory.

    Attributes:
        size: bytes of entries that are in memory.
    """

    def __init__(self, store: Store | None = None, memory: float | None = 0):
        self.store = store
        self.memory = memory
        self.size = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._entries or (self.store is not None and key in self.store)

    def load(self, key: str) -> Entry | None:
        """The entry of a key, or None."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        tensors = self.store.load(key) if self.store is not None else None
        if tensors is None:
            return None
        count = 2 if any(name.startswith("positive.") for name in tensors) else 1
        entry = tuple(TextFeatures.from_tensors(tensors, prefix) for prefix in _PREFIXES[count])
        self._hold(key, entry)
        return entry

    def save(self, key: str, entry: Entry) -> Entry:
        """Keep an entry of one or two features under a key; returns it, on the CPU.

        Raises:
            ValueError: the store's folder cannot be written to.
        """
        entry = tuple(features.cpu() for features in entry)
        if self.store is not None:
            named = zip(_PREFIXES[len(entry)], entry, strict=True)
            self.store.save(key, {name: x for prefix, one in named for name, x in one.to_tensors(prefix).items()})
        self._hold(key, entry)
        return entry

    def find(self, key: str, encode: Callable[[], Entry]) -> Entry:
        """The entry of a key; it is encoded and kept where there is none yet."""
        entry = self.load(key)
        return self.save(key, encode()) if entry is None else entry

    def clear(self) -> None:
        """Drop what is held in memory."""
        self._entries.clear()
        self.size = 0

    def _hold(self, key: str, entry: Entry) -> None:
        if self.memory is None:
            return
        self._drop(key)
        self._entries[key] = entry
        self.size += _bytes(entry)
        while len(self._entries) > 1 and self.size > self.memory:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        if key in self._entries:
            self.size -= _bytes(self._entries.pop(key))


def _bytes(entry: Entry) -> int:
    return sum(features.size for features in entry)


def prompt_key(text: tuple[str, str, str, int], depends_on: dict[str, str]) -> str:
    """The key of (prompt, negative prompt, template date, most tokens).

    Args:
        depends_on: what else decides the features; may be empty where one encoder alone fills the cache.
    """
    prompt, negative, date, tokens = text
    return content_key(
        kind="prompt features", prompt=prompt, negative=negative, date=resolve_date(date), tokens=tokens, **depends_on
    )
