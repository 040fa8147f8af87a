"""The data structure for what a prompt means: things with numbers, colours, sizes and positions, and their relations.

It holds only what the prompt states; `choose` fills in the rest.
"""

from dataclasses import dataclass, field, replace
from typing import Any

MANY = 4  # number of things for "several"


@dataclass(frozen=True)
class Noun:
    """One kind of thing.

    Attributes:
        name: of the known thing, or the words as typed.
        number: how many; None if not stated (`plural` then tells whether it is one).
        color: one of the twelve, or words for two of them; None for its natural colour.
        side: "left", "upper right" and so on, if the prompt states a position.
        adjectives: unknown words that stand before it.
        part: unknown words that stand after it: "with a ribbon".
        many: the prompt says several without a number.
    """

    name: str
    known: bool = True
    number: int | None = None
    plural: bool = False
    color: str | None = None
    size: str | None = None
    side: str | None = None
    adjectives: tuple[str, ...] = ()
    part: str = ""
    many: bool = False

    @property
    def count(self) -> int:
        return self.number or (MANY if self.many and self.plural else 2 if self.plural else 1)


@dataclass(frozen=True)
class Backdrop:
    """kind: plain, gradient, ground, dots, stripes or checks; colours with the names of `scenes`, possibly fewer than
    the kind has if the rest is open."""

    kind: str
    colors: tuple[str | None, ...] = ()
    turned: bool | None = None


@dataclass(frozen=True)
class Written:
    """A text to render, and the index of the thing that bears it, or None."""

    string: str
    on: int | None = None


@dataclass
class Meaning:
    """The meaning of a prompt.

    Attributes:
        relations: (number of a thing, word of `scenes`, number of a thing).
        row: "row" or "column" if all things are arranged that way.
        without: things that must not appear.
        other_style: a requested style that is not known.
        unread: ignored words.
        decided_places: indices of things whose position was set by the caller, not by the prompt.
        unsure: why the parse is unreliable; empty if it is reliable.
        keys: "thing", "relation" or "text" -> the original indices of the remaining ones.
    """

    things: list[Noun] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    background: Backdrop | None = None
    style: str | None = None
    other_style: str | None = None
    texts: list[Written] = field(default_factory=list)
    row: str | None = None
    without: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    decided_places: set[int] = field(default_factory=set)
    unsure: str = ""
    keys: dict[str, list[int]] = field(default_factory=dict)

    def key(self, kind: str, index: int) -> int:
        """The index of a thing, relation or text as its fact keys use it."""
        return self.keys[kind][index] if kind in self.keys else index + 1

    def keep(self, indices: list[int]) -> None:
        """Keep only some of the things, with everything about them."""
        place = {old: new for new, old in enumerate(indices)}
        self.things = [self.things[index] for index in indices]
        self.decided_places = {place[index] for index in self.decided_places if index in place}
        self.relations = [(place[a], word, place[b]) for a, word, b in self.relations if a in place and b in place]
        self.texts = [
            replace(text, on=None if text.on is None else place[text.on])
            for text in self.texts
            if text.on is None or text.on in place
        ]

    def change(self, index: int, **values: Any) -> None:
        """Replace fields of a thing."""
        self.things[index] = replace(self.things[index], **values)
