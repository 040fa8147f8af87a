"""What a prompt means: things with their numbers, colours, sizes and places, and how they stand to one another.

Only what was said stands here; what is left open is chosen later, in `choose`.
"""

from dataclasses import dataclass, field, replace
from typing import Any

MANY = 4  # of what is said to be several


@dataclass(frozen=True)
class Noun:
    """One kind of thing.

    Attributes:
        name: of the known thing, or the words as typed where it is none.
        number: how many; None where it is not said (`plural` tells whether it is one).
        color: one of the twelve, or words for two of them; None as it is by nature.
        side: "left", "upper right" and so on, where the prompt gives the place.
        adjectives: unknown words that stand before it.
        part: unknown words that stand after it: "with a ribbon".
        many: it is said that there are several, and not how many.
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
    """kind: plain, gradient, ground, dots, stripes or checks; colours as `scenes` names them, fewer than the kind has
    where the rest is open."""

    kind: str
    colors: tuple[str | None, ...] = ()
    turned: bool | None = None


@dataclass(frozen=True)
class Written:
    """A string, and the number of the thing that it stands on; None where nothing is said to bear it."""

    string: str
    on: int | None = None


@dataclass
class Meaning:
    """A prompt understood.

    Attributes:
        relations: (number of a thing, word of `scenes`, number of a thing).
        row: "row" or "column" where all things are said to stand so.
        without: what is said not to be there.
        other_style: a style that is asked for and not known.
        unread: words that were left out.
        decided_places: numbers of the things whose place is not the prompt's but was decided beforehand.
        unsure: why this reading is not to be trusted; empty where it is.
        keys: "thing", "relation" or "text" -> the numbers that those which are left had before some were taken away.
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
        """The number of a thing, a relation or a text in the keys of its facts."""
        return self.keys[kind][index] if kind in self.keys else index + 1

    def keep(self, indices: list[int]) -> None:
        """Only some of the things, with what is said of them."""
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
        """Say more of a thing."""
        self.things[index] = replace(self.things[index], **values)
