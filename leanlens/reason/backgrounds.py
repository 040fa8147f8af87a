"""Parses backgrounds: colours, patterns, gradients, and ground with sky."""

from leanlens.reason.meaning import Backdrop
from leanlens.reason.phrases import COLORS, Phrase, PhraseReader, color_as
from leanlens.reason.words import Tag

SHADES = 2  # number of colours of a pattern or gradient


class BackgroundReader(PhraseReader):
    """Parses the background of a meaning."""

    def _night(self, tag: Tag) -> bool:
        if self.meaning.background is None:
            self.meaning.background = Backdrop("plain", ("navy blue",))
        self.at += 1
        return True

    def _set_background(self, phrase: Phrase, bare: bool = False) -> bool:
        """Use a phrase as the background if possible, and return whether it is one."""
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
        if not colors:
            colors, after, turned = self._colors_after(kind if phrase.head == "pattern" else "")
            kind = kind or after
            phrase.turned = turned if phrase.turned is None else phrase.turned
        if not colors and not kind:
            return phrase.head == "background"
        if kind and len(colors) == 1 and self._second_color_follows():
            colors += [name for name in self._from_to_colors() if name not in colors]
        known = self.meaning.background
        if kind and known is not None and known.kind == "plain" and len(colors) == 1 and known.colors != (colors[0],):
            colors = [*(name for name in known.colors if name), colors[0]]  # "a blue background with white dots"
        if kind and known is not None and known.kind == "plain" and not colors:
            colors = [name for name in known.colors if name]  # "a white background with dots"
        if not kind and len(colors) > 1:
            kind = "gradient" if phrase.head == "background" else ""
        if known is not None and known.kind not in ("plain", "ground") and not kind and len(colors) == 1:
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
            if tag.has("plain color", "color"):
                if self._is_named(at + 1) and not self.tags[at + 1].has("plain color", "color"):
                    break  # "stripes in white and a red car", unlike "in white and peach"
                found += [name] if (name := color_as(tag, "plain color")) else []
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
            if not colors and kind and (tag := self.tag()) is not None and tag.has("of", "background from"):
                colors = self._from_to_colors()  # "checkerboard of white and teal"
            if (tag := self.tag()) is not None and tag.has("background to"):  # "purple to pink"
                colors, kind = colors + self._from_to_colors(), "gradient"
            return colors, kind, phrase.turned
        self.at = start
        return [], "", None

    def _set_landscape(self, phrase: Phrase) -> None:
        known = self.meaning.background
        ground, sky = known.colors if known is not None and known.kind == "ground" else (None, None)
        kind = f"{phrase.head} color"
        named = phrase.colors_as(kind) or self._color_after(kind)
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
        found: list[str] = []
        first = self.at
        if self.at == start and not self._color_closes(kind):
            return found
        while (tag := self.tag()) is not None and tag.has(kind, "color"):
            found += [name] if (name := color_as(tag, kind)) else []
            self.at += 1
        self.at = self.at if self.at > first else start
        return found

    def _color_closes(self, kind: str) -> bool:
        """ "the sky pink", if no thing follows that the colour could belong to."""
        at = self.at
        while at < len(self.tags) and self.tags[at].has(kind, "color"):
            at += 1
        return at > self.at and (at == len(self.tags) or self._closes(at))

    def _closes(self, at: int) -> bool:
        """Whether there is no noun at a tag."""
        return bool(self.tags[at].readings) and not self.tags[at].has("thing", "name", "article", "number")

    def _second_color_follows(self) -> bool:
        """ "stripes in pale yellow and teal", if the second colour does not belong to a thing."""
        at = self.at
        if not (at + 1 < len(self.tags) and self.tags[at].has("and", "background to")):
            return False
        while at + 1 < len(self.tags) and self.tags[at + 1].has("plain color"):
            at += 1
        return at > self.at and not (at + 1 < len(self.tags) and self._is_named(at + 1))

    def _is_fade(self, phrase: Phrase) -> bool:
        """ "peach to light blue gradient", "dark purple to pale yellow background": read up to the "to"."""
        tag = self.tag()
        if not phrase.colors or tag is None or not tag.has("background to"):
            return False
        at = self.at + 1
        while at < len(self.tags) and self.tags[at].has("plain color") and not self.tags[at].has("pattern"):
            at += 1
        return self.at + 1 < at < len(self.tags) and self.tags[at].has("pattern", "background noun")

    def _fade(self, phrase: Phrase) -> None:
        self.meaning.background = Backdrop(
            "gradient", tuple([*phrase.colors_as("plain color"), *self._from_to_colors()][:SHADES]), phrase.turned
        )
        while (tag := self.tag()) is not None and tag.has("pattern", "background noun", "adverb"):
            self.at += 1  # "gradient behind"

    def _has_background_colors(self, phrase: Phrase) -> bool:
        return all(tag.has("plain color", "color") for tag in phrase.colors)
