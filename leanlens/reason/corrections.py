"""Removes what a prompt corrects or excludes: "no wait, a dog", "actually a cat", "not on a table", "no cats"."""

from dataclasses import replace

from leanlens.reason.meaning import Noun
from leanlens.reason.things import ThingReader
from leanlens.reason.words import Tag

PASSED = ("filler", "copula", "of")  # kinds of words between a "not" and what it negates


class CorrectionReader(ThingReader):
    """Applies corrections and negations."""

    # -- corrections

    def _correct(self, tag: Tag) -> bool:
        """ "hot air? no, just a parachute": discard the earlier question."""
        following = self.tags[self.at + 1] if self.at + 1 < len(self.tags) else None
        taken_back = tag.has("not") and following is not None and following.has("break", "sorry")
        if self.asked or taken_back:
            self._take_back()
            self.asked = False
        elif tag.has("not"):
            return False
        self.at += 1
        self.replaces = True
        return True

    def _take_back_said(self, tag: Tag) -> bool:
        """ "a pink apple, sorry, I mean a white apple"."""
        self._take_back()
        self.at += 1
        self.replaces = True
        return True

    def _change(self, tag: Tag) -> bool:
        """ "a dog, actually a cat" replaces the last thing; "three apples. Make it four" changes its number."""
        last = len(self.meaning.things) - 1
        if self.asked or last < 0 or self.swap is not None or self._is_corrected():
            return False
        at = self.at + 1
        while at < len(self.tags) and self.tags[at].has("break", "but", "sorry") and not self.tags[at].has("article"):
            at += 1
        number = self.tags[at].get("number") if at < len(self.tags) else None
        if isinstance(number, int) and self._ends_at(at + 1):
            self.meaning.change(last, number=number, plural=number > 1)
            self.at = at + 1
            return True
        if at < len(self.tags) and self.tags[at].has("color") and self._ends_at(at + 1):
            self.meaning.change(last, color=self.tags[at].get("color"))  # "a red ball, scratch that, blue"
            self.at = at + 1
            return True
        if not self._names_new(at, needs_article=not tag.has("scratched")):
            return False
        self.swap, self.relation = last, None
        self.at = at
        return True

    def _is_corrected(self) -> bool:
        """Whether an earlier word already made the correction: "no, actually"."""
        at = self.at - 1
        while at >= 0 and self.tags[at].has("break") and not self.tags[at].has("end"):
            at -= 1
        return at >= 0 and self.tags[at].has("sorry", "taken back")

    def _names_new(self, at: int, needs_article: bool) -> bool:
        """Whether a new thing is named at a tag."""
        if at >= len(self.tags) or self.tags[at].get("article") == "the":
            return False
        if needs_article and not (self.tags[at].get("article") == "one" or self.tags[at].has("number")):
            return False
        while at < len(self.tags):
            tag = self.tags[at]
            if tag.has("thing", "name") and not tag.has("color"):
                return True
            if not tag.readings:
                following = self.tags[at + 1] if at + 1 < len(self.tags) else None
                if following is None or following.has("break", "relation", "and", "side"):
                    return True
            elif not tag.has("article", "number", "color", "size", "pattern") and set(tag.readings) != {"filler"}:
                return False
            at += 1
        return False

    def _wish(self, tag: Tag) -> bool:
        """ "a vase would be nice but": discarded if a "but" follows in the sentence."""
        for later in self.tags[self.at :]:
            if later.has("end"):
                break
            if later.has("but", "sorry"):
                self._take_back()
                break
        self.at += 1
        return True

    def _take_back(self) -> None:
        """Discard the things of this sentence, or of the question before it."""
        first = self.since if self.since < len(self.meaning.things) else self.since_before
        taken = self.meaning.things[first:]
        self.taken = taken[-1] if taken else None
        del self.meaning.things[first:]
        self.meaning.without += [noun.name for noun in taken]
        self.meaning.relations = [row for row in self.meaning.relations if max(row[0], row[2]) < first]
        self.meaning.texts = [text for text in self.meaning.texts if text.on is None or text.on < first]
        self.subject = first - 1 if first else None
        self.clause = min(self.clause, first)
        self.relation, self.fronted, self.host, self.between = None, None, None, []
        self.group, self.joins, self.swap, self.related, self.placed = [], False, None, None, None
        self.others = {index for index in self.others if index < first}

    # -- negations

    def _negate(self, tag: Tag) -> bool:
        """Exclude what follows: a thing, a colour, a style, a side, a place, a background or letters."""
        self.at += 1
        removes = tag.has("remove")
        start = self.at
        while (word := self.tag()) is not None and (self._is_passed(word) or word.get("article") == "it"):
            self.at += 1
        if word is None or word.has("break", "but"):
            self.at = min(self.at, len(self.tags))
            return True
        if word.has("says", "quote"):
            self._skip_letters()
            return True
        if self._is_bare_style(word):
            self.at += 1
            return True
        joins = word.has("part") or (word.has("and") and not word.has("either"))  # "not wearing a hat"
        if (
            (joins or word.has("relation", "background on"))
            and self.starts_phrase(self.at + 1)
            and not word.has("style")
        ):
            self.at += 1
        elif word.has("side", "adverb"):
            self.at += 1
            return True
        if not self.starts_phrase(self.at):
            self.at = start
            return True
        self._skip_phrase(removes)
        while (word := self.tag()) is not None and word.has("either") and self.starts_phrase(self.at + 1):
            self.at += 1
            self._skip_phrase()
        return True

    def _is_passed(self, word: Tag) -> bool:
        kinds = set(word.readings)
        return bool(kinds) and kinds <= set(PASSED)

    def _is_bare_style(self, word: Tag) -> bool:
        if not word.has("style", "other style") or word.has("thing"):
            return False
        return not self._colors_follow(self.at + 1)

    def _skip_phrase(self, removes: bool = False) -> None:
        """Read a phrase and record only that it is excluded."""
        style, other, background = self.meaning.style, self.meaning.other_style, self.meaning.background
        phrase = self._read_phrase(surface=True)
        if phrase.head in ("thing", "unknown"):
            known = self._spoken_of(phrase)
            if known is None or removes or phrase.article != "the":
                self.meaning.without.append(phrase.name)
            if known is not None and removes:
                self._drop(known)
        elif phrase.head == "background":
            while (tag := self.tag()) is not None and tag.has("pattern"):
                self.at += 1
        self.meaning.style, self.meaning.other_style, self.meaning.background = style, other, background

    def _drop(self, index: int) -> None:
        """ "a fox with a hat. Remove the hat"."""
        meaning = self.meaning
        meaning.keep([other for other in range(len(meaning.things)) if other != index])
        last = len(meaning.things)
        self.since, self.clause, self.fresh = min(self.since, last), min(self.clause, last), min(self.fresh, last)
        self.subject = last - 1 if last else None
        self.relation, self.fronted, self.host, self.between, self.swap = None, None, None, [], None
        self.group, self.joins, self.related, self.topic, self.placed = [], False, None, 0, None
        self.others = {other - (other > index) for other in self.others if other != index}

    def _skip_letters(self) -> None:
        """ "a sign without the word STOP"."""
        named = False
        while (tag := self.tag()) is not None and tag.has("says"):
            named = named or tag.has("tells")
            self.at += 1
        if tag is not None and tag.has("quote"):
            self.at += 1
            return
        capitals = self._capitals(self.at)
        self.at += len(capitals) or (len(self._letters(self.at)) if named else 0)

    def _put(self, noun: Noun) -> int:
        """Add a thing, or replace the one that it corrects."""
        if self.swap is None:
            return super()._put(noun)
        index, self.swap = self.swap, None
        old = self.meaning.things[index]
        if old.name != noun.name:
            self.meaning.without.append(old.name)
        self.meaning.things[index] = replace(noun, side=noun.side or old.side)
        return index
