"""Backgrounds read from tags: colours, patterns, gradients, and ground with sky.

Comes in: noun phrases whose head is a background, a pattern, the ground or the sky. Goes out: the meaning's `Backdrop`.
"""

from leanlens.reason.meaning import Backdrop
from leanlens.reason.phrases import COLORS, Phrase, PhraseReader
from leanlens.reason.words import Tag

SHADES = 2  # colours that a pattern or a gradient has


class BackgroundReader(PhraseReader):
    """Sets the background of the meaning."""

    def _night(self, tag: Tag) -> bool:
        if self.meaning.background is None:
            self.meaning.background = Backdrop("plain", ("navy blue",))
        self.at += 1
        return True

    def _set_background(self, phrase: Phrase, bare: bool = False) -> bool:
        """Take a phrase for the background, where it can be."""
        if phrase.head in ("ground", "sky"):
            self._set_landscape(phrase)
            return True
        if phrase.head not in ("background", "pattern") and not bare:
            return False
        kind = phrase.pattern or phrase.name if phrase.head == "pattern" else phrase.pattern or ""
        colors = phrase.colors_as("plain color")
        if kind == "gradient" or (phrase.head in ("pattern", "background") and self._from_to(phrase)):
            colors += [name for name in self._from_to_colors() if name not in colors]
            kind = kind or "gradient"
        if not colors and (phrase.head == "pattern" or not kind):
            colors, after, turned = self._colors_after(kind)
            kind = kind or after
            phrase.turned = turned if phrase.turned is None else phrase.turned
        if not colors and not kind:
            return phrase.head == "background"
        known = self.meaning.background
        if kind and known is not None and known.kind == "plain" and len(colors) == 1 and known.colors != (colors[0],):
            colors = [*(name for name in known.colors if name), colors[0]]  # "a blue background with white dots"
        if not kind and len(colors) > 1:
            kind = "gradient" if phrase.head == "background" else ""
        if known is not None and known.kind not in ("plain", "") and not kind and len(colors) == 1:
            kind = known.kind
            colors = list(dict.fromkeys([*colors, *(name for name in known.colors if name)]))[:SHADES]
        self.meaning.background = Backdrop(
            kind or "plain", tuple(colors[:SHADES]) if kind else (colors[0],), phrase.turned
        )
        return True

    def _from_to(self, phrase: Phrase) -> bool:
        tag = self.tag()
        return tag is not None and tag.has("background from")

    def _from_to_colors(self) -> list[str]:
        """ "from pale pink to lavender", "of blue and green" after "gradient"."""
        found: list[str] = []
        at = self.at
        while at < len(self.tags) and len(found) < SHADES:
            tag = self.tags[at]
            if tag.has("plain color"):
                found.append(tag.readings["plain color"])
                self.at = at + 1
            elif not tag.has("background from", "background to", "of", "and", "article", "filler", "relation", "side"):
                break
            at += 1
        return found

    def _colors_after(self, kind: str = "") -> tuple[list[str], str, bool | None]:
        """ "background: light blue", "the background is white with red dots"."""
        start = self.at
        tag = self.tag()
        marks = (":", "=", "-", "：", ",") if kind else (":", "=", "-", "：")
        while tag is not None and (tag.get("break") in marks or tag.has("of", "filler", "relation")):
            if tag.has("thing", "color", "background from"):
                break
            self.at += 1
            tag = self.tag()
        if tag is not None and tag.has("background from"):
            return self._from_to_colors(), "gradient", None
        if tag is None or not self.starts_phrase(self.at):
            self.at = start
            return [], "", None
        phrase = self._read_phrase(surface=True)
        squares = phrase.head == "thing" and phrase.name == "square" and phrase.plural
        if (phrase.head in ("", "pattern") or squares) and (phrase.colors or phrase.pattern or phrase.head):
            kind = phrase.name if phrase.head == "pattern" else phrase.pattern or ""
            colors = phrase.colors_as("plain color")
            if (tag := self.tag()) is not None and tag.has("background to"):  # "purple to pink"
                colors, kind = colors + self._from_to_colors(), "gradient"
            return colors, kind, phrase.turned
        self.at = start
        return [], "", None

    def _set_landscape(self, phrase: Phrase) -> None:
        known = self.meaning.background
        ground, sky = known.colors if known is not None and known.kind == "ground" else (None, None)
        kind = f"{phrase.head} color"
        named = [tag.readings[kind] for tag in phrase.colors if tag.has(kind)] or self._color_after(kind)
        color = named[0] if named else None if phrase.name == "any" else phrase.name
        if phrase.head == "ground":
            ground = color or ground
        else:
            sky = color or sky
        self.meaning.background = Backdrop("ground", (ground, sky))

    def _color_after(self, kind: str) -> list[str]:
        """ "the sky is orange"."""
        start = self.at
        while (tag := self.tag()) is not None and tag.has("of", "filler", "background in") and not tag.has(*COLORS):
            self.at += 1
        found = []
        while self.at > start and (tag := self.tag()) is not None and tag.has(kind, "color"):
            found.append(tag.get(kind) or tag.text.lower())
            self.at += 1
        self.at = self.at if found else start
        return found

    def _has_background_colors(self, phrase: Phrase) -> bool:
        return all(tag.has("plain color", "color") for tag in phrase.colors)
