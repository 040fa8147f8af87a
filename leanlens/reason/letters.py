"""Parses text to be rendered: in quotation marks, in capitals, or after "that says".

Each text is attached to the thing that bears it, or to a sign of its own.
"""

from leanlens.reason.backgrounds import BackgroundReader
from leanlens.reason.meaning import Noun, Written
from leanlens.reason.words import SIGNS, Tag


class LetterReader(BackgroundReader):
    """Parses the texts to be rendered."""

    def _write(self, string: str) -> None:
        """Put a text on the sign that follows ("write BOO on a sign"), on the thing that says it, or on any sign."""
        on = self.tag()
        comes = (
            on is not None and "on" in (on.get("relation"), on.get("background on")) and self._names_sign(self.at + 1)
        )
        borne = self.says is not None or self._is_sign(self.subject) or self._is_borne()
        owner = self.subject if borne else None
        if comes and not self._is_sign(self.subject):
            self.meaning.texts = [text for text in self.meaning.texts if text.string != string]
            owner = None
        for index, text in enumerate(self.meaning.texts):
            if text.string == string:  # repeated: the later place counts
                self.meaning.texts[index] = Written(string, text.on if owner is None else owner)
                self.says = None
                return
        self.meaning.texts.append(Written(string, owner))
        self.says = None

    def _is_borne(self) -> bool:
        """Whether "with" connects the text just read to the thing before it: 'a mug with "coffee" on it'."""
        before, joins = self.tags[: self.at][-2:-1], self.tags[: self.at][-3:-2]
        return bool(before and before[0].has("part") and joins and not joins[0].has("break"))

    def _names_sign(self, at: int) -> bool:
        """Whether the noun phrase starting here is a sign."""
        while at < len(self.tags) and not self.tags[at].has("break", "relation", "and"):
            if self.tags[at].has("thing"):
                return self.tags[at].readings["thing"][0] in SIGNS
            at += 1
        return False

    def _is_sign(self, index: int | None) -> bool:
        return index is not None and self.meaning.things[index].name in SIGNS

    def _says(self, tag: Tag) -> bool:
        at = self.at + 1
        while at < len(self.tags) and (self.tags[at].has("says") or self.tags[at].get("break") == ":"):
            at += 1
        if at >= len(self.tags) or self.tags[at].has("quote"):
            self.says, self.at = at, at
            return True
        capitals = self._capitals(at)
        if capitals:
            self.says, self.at = at, at + len(capitals)
            self._write(" ".join(capitals))
            return True
        told = any(text.on == self.subject for text in self.meaning.texts)  # '"OPEN" written on it'
        tells = self._is_sign(self.subject) or tag.has("tells")
        letters = self._letters(at) if (tells and not told) or tag.has("of") else []
        if letters:
            self.says, self.at = at, at + len(letters)
            self._write(" ".join(letters))
            return True
        if tag.has("thing", "color", "filler"):
            return False
        self.at += 1
        return True

    def _capitals(self, at: int) -> list[str]:
        """Words in capitals, or a number, starting at a tag."""
        found: list[str] = []
        while at < len(self.tags):
            tag = self.tags[at]
            if not (tag.capital or (tag.text.isdigit() and not found) or (found and tag.text.isupper())):
                break
            found.append(tag.text)
            at += 1
        return found

    def _letters(self, at: int) -> list[str]:
        """Up to three words that do not form a sentence."""
        found: list[str] = []
        while at < len(self.tags) and len(found) < 3:
            tag = self.tags[at]
            if tag.has("break", "relation", "and", "article", "side", "adverb", "quote"):
                break
            found.append(tag.text)
            at += 1
        return found

    def _give_signs(self) -> None:
        """Put each text without a thing on an existing sign, or on a new one."""
        meaning = self.meaning
        taken = {text.on for text in meaning.texts}
        free = [index for index, noun in enumerate(meaning.things) if noun.name in SIGNS and index not in taken]
        for at, text in enumerate(meaning.texts):
            if text.on is None:
                if free:
                    index = free.pop(0)
                else:
                    meaning.things.append(Noun("sign", True, 1))
                    index = len(meaning.things) - 1
                meaning.texts[at] = Written(text.string, index)
