"""Reorders the tags of languages that put a preposition after its noun into the order that the grammar reads.

For example "苹果 在 桌子 上" (apple, at, table, top) becomes apple, on, table. The readings involved are "localiser",
the word after the noun ("上"); "at", which stands between a thing and its place ("在", "は"); "there", which introduces
a thing ("有"); and "particle", which joins a noun to its attribute ("的").
"""

from collections.abc import Sequence

from leanlens.reason.words import Tag

HEADS = ("thing", "name", "background noun", "sky", "ground")
MODIFIERS = ("article", "number", "size", "color", "plain color", "pattern", "background plain")


def put_relations_first(tags: Sequence[Tag]) -> list[Tag]:
    """Put the relations of every clause before their objects."""
    found: list[Tag] = []
    clause: list[Tag] = []
    for tag in [*tags, None]:
        if tag is None or tag.has("break", "quote"):
            found += _Clause(clause).arranged()
            clause = []
            if tag is not None:
                found.append(tag)
        else:
            clause.append(tag)
    return found


class _Clause:
    """One clause, read from left to right; `done` are the tags already in order."""

    def __init__(self, tags: list[Tag]) -> None:
        self.tags = tags
        self.done: list[Tag] = []

    def arranged(self) -> list[Tag]:
        self._drop_measures()
        self._put_articles_first()
        self._put_gradient_first()
        at = 0
        while at < len(self.tags):
            tag = self.tags[at]
            is_head = tag.has(*HEADS) and not self._modifies(at)
            if tag.has("localiser") and not is_head and (start := self._ground_start(tag.get("localiser"))) is not None:
                at = self._place(tag, start, at + 1)
                continue
            self.done.append(tag)
            at += 1
        return [tag for tag in self.done if not _is_only(tag, "at", "there", "localiser", "particle")]

    def _drop_measures(self) -> None:
        """Remove Chinese measure words between a number and a noun."""
        kept: list[Tag] = []
        for tag in self.tags:
            if not (kept and kept[-1].has("number") and _is_only(tag, "filler")):
                kept.append(tag)
        self.tags = kept

    def _put_articles_first(self) -> None:
        """Turkish "siyah bir kedi": an article before the colours of its noun."""
        for at in range(1, len(self.tags)):
            if self.tags[at].get("article") == "one":
                start = at
                while start and self.tags[start - 1].has("color", "size") and not self.tags[start - 1].has(*HEADS):
                    start -= 1
                self.tags.insert(start, self.tags.pop(at))

    def _put_gradient_first(self) -> None:
        """ "从 粉色 到 紫色 的 渐变 背景": put the gradient before its colours."""
        start = next((at for at, tag in enumerate(self.tags) if tag.has("background from")), None)
        stop = next((at for at, tag in enumerate(self.tags) if tag.get("pattern") == "gradient"), None)
        if start is not None and stop is not None and start < stop:
            after = stop + 1
            while after < len(self.tags) and self.tags[after].has("background noun"):
                after += 1
            self.tags[start:after] = [*self.tags[stop:after], *self.tags[start:stop]]

    def _modifies(self, at: int) -> bool:
        """A colour that is a noun too, "金", is an adjective before a noun."""
        return self.tags[at].has("color") and at + 1 < len(self.tags)

    def _ground_start(self, word: str) -> int | None:
        """The start in `done` of the noun phrase that a localiser belongs to; None if there is none."""
        at = len(self.done)
        while at and self.done[at - 1].has("particle"):
            at -= 1
        start = self._phrase_start(at)
        if start is not None and word == "between" and start and self.done[start - 1].has("and"):
            first = self._phrase_start(start - 1)
            start = start if first is None else first
        return start

    def _phrase_start(self, end: int) -> int | None:
        """The start of the noun phrase that ends before `end`."""
        at = end - 1
        if at < 0 or self.done[at].has("at", "there", "and", "relation"):
            return None
        if not (self.done[at].has(*HEADS) or not self.done[at].readings):
            return None
        while at and self._belongs(self.done[at - 1]):
            at -= 1
        return at

    def _belongs(self, tag: Tag) -> bool:
        """Whether a tag before a noun is part of its phrase."""
        if tag.has("at", "there", "and", "relation", "localiser"):
            return False
        if tag.has(*MODIFIERS):
            return True
        if tag.has(*HEADS):
            return False
        return tag.has("filler", "particle") or not tag.readings

    def _place(self, localiser: Tag, start: int, after: int) -> int:
        """Append a relation, its object and its subject to `done`, and return the index of the next tag."""
        ground = [tag for tag in self.done[start:] if not _is_only(tag, "particle")]
        before = self.done[:start]
        while before and before[-1].has("at") and not before[-1].has(*HEADS):
            before.pop()
        loose: list[Tag] = []
        while before and not before[-1].has(*HEADS, "and", "relation", "there", "at") and before[-1].readings:
            loose.insert(0, before.pop())  # "一只 在 桌子 上 的 猫"
        if before and before[-1].has(*HEADS) and not _has_modifiers(loose):
            self.done = [*before, *self._relation(localiser, ground)]
            return after
        while after < len(self.tags) and _opens(self.tags[after]):
            after += 1
        end = after
        while end < len(self.tags) and not self.tags[end].has("at", "and", "localiser"):
            end += 1
        subject = [*loose, *self.tags[after:end]]
        if any(tag.has(*HEADS) or not tag.readings for tag in subject):
            if localiser.get("localiser") == "each side":
                joint = Tag({"and": "and", "part": "part"}, "with")
                self.done = [*before, *ground, joint, *subject, Tag({"adverb": "each side"}, localiser.text)]
            else:
                self.done = [*before, *subject, *self._relation(localiser, ground)]
            return end
        self.done = [*before, *loose, *self._relation(localiser, ground)]
        return after

    def _relation(self, localiser: Tag, ground: list[Tag]) -> list[Tag]:
        word = localiser.get("localiser")
        if word == "each side":
            return ground
        readings = {"relation": word}
        if word in ("on", "in front of"):
            readings["background on"] = "on"
        return [Tag(readings, localiser.text), *ground]


def _opens(tag: Tag) -> bool:
    """Whether a tag connects a place with the thing there: "有", "的"."""
    return tag.has("there", "at", "particle", "of", "filler") and not tag.has(*HEADS, *MODIFIERS)


def _has_modifiers(tags: Sequence[Tag]) -> bool:
    return any(tag.has(*MODIFIERS) for tag in tags)


def _is_only(tag: Tag, *kinds: str) -> bool:
    return bool(tag.readings) and set(tag.readings) <= set(kinds)
