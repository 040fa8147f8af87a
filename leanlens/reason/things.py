"""Turns noun phrases into things, new or mentioned before, with their colours and relations."""

from dataclasses import replace

from leanlens.reason.letters import LetterReader
from leanlens.reason.meaning import Noun, Written
from leanlens.reason.phrases import Lookup, Phrase
from leanlens.reason.words import SIGNS, Tag, Words
from leanlens.scenes.shapes import CONTAINERS


class ThingReader(LetterReader):
    """Parses the things and relations of a meaning.

    Attributes:
        group: numbers of the things connected by "and", in order; a following relation applies to all.
        linked: "and" or "," if that precedes the next phrase.
        hosted: whether the host comes from a "with", which an "and" continues.
        joins: whether the group has two or more things, the last after an "and".
        related: the subject of the previous relation.
        pointed: whether the clause starts with a pronoun; keeps: whether the sentence does.
        placed: a position before its thing, "on the table are an apple and a pear".
        topic: what a pronoun at the start of a sentence refers to.
        swap: the thing to be corrected, "a dog, actually a cat", until its replacement is read.
        others: numbers of things introduced by "another", which are not earlier things repeated.
    """

    def __init__(self, tags: list[Tag], words: Words, lookup: Lookup) -> None:
        super().__init__(tags, words, lookup)
        self.others: set[int] = set()
        self.group: list[int] = []
        self.linked = ""
        self.hosted = self.joins = self.pointed = False
        self.swap: int | None = None
        self.keeps = False
        self.placed: tuple[str, int] | None = None
        self.topic = 0
        self.related: int | None = None

    def _quote(self, tag: Tag) -> bool:
        self.at += 1
        following = self.tag()
        if following is not None and following.has("thing") and following.readings["thing"][0] in SIGNS:
            self._name_sign(tag.readings["quote"])
        else:
            self._write(tag.readings["quote"])
        return True

    def _name_sign(self, string: str) -> None:
        """'a red "STOP" sign'."""
        first = self.at - 1
        while first and self.tags[first - 1].has("color", "article"):
            first -= 1
        before = self.tags[first : self.at - 1]
        phrase = self._read_phrase()
        phrase.capitals = [string]
        phrase.colors = [tag for tag in before if tag.has("color")]
        phrase.article = next((tag.readings["article"] for tag in before if tag.has("article")), None)
        self._attach(phrase)

    def _attach(self, phrase: Phrase) -> None:
        """Add a thing, or refer to an earlier one, and complete pending relations with it."""
        if phrase.name in SIGNS and not phrase.capitals and not self.tags[self.at - 1].capital:
            within = self.tags[phrase.first : self.at]  # "a GO sign", though "go" is a word without meaning elsewhere
            phrase.capitals = [tag.text for tag in within if tag.capital and set(tag.readings) == {"filler"}]
        if phrase.number == 0:
            self.meaning.without.append(phrase.name)
            return
        known = self._spoken_of(phrase) if self.swap is None else None
        if known is not None and not self.shared:
            if (color := phrase.object_color()) and self.meaning.things[known].color is None:
                self.meaning.change(known, color=color)
            if phrase.capitals:
                self.meaning.texts.append(Written(" ".join(phrase.capitals), known))
            self._reach(known)
            return
        if phrase.head == "unknown" and self._is_part(phrase):
            return
        self.shared += phrase.split_colors()
        for earlier in self.shared:  # "a red and a blue ball"
            earlier.head, earlier.name, earlier.plural = phrase.head, phrase.name, (earlier.number or 1) > 1
            self._reach(self._add(earlier))
        self.shared = []
        self._reach(self._add(phrase))

    def _is_part(self, phrase: Phrase) -> bool:
        """Whether an unknown thing is part of a known one, "a gift box with a ribbon", and is described with it."""
        host = self.subject
        before = self.tags[phrase.first - 1] if phrase.first else None
        within = self.relation is not None and self.relation[0] == "inside" and phrase.article != "one"
        if before is None or host is None or self.side or not (within or (before.has("part") and not self.relation)):
            return False
        if phrase.colors or phrase.number:
            return False
        if not self.meaning.things[host].known or self.meaning.things[host].part:
            return False
        while (tag := self.tag()) is not None and not tag.readings:  # "with a rainbow mane"
            self.at += 1
        words = " ".join(tag.text.lower() for tag in self.tags[phrase.first - 1 : self.at])
        self.meaning.change(host, part=words)
        self.relation = None
        return True

    def _spoken_of(self, phrase: Phrase) -> int | None:
        """The earlier thing that "the cat" refers to, if any."""
        color = phrase.object_color()
        for index, noun in enumerate(self.meaning.things):
            same = noun.name == phrase.name
            if (
                same
                and phrase.article == "the"
                and color in (None, noun.color)
                and phrase.number in (None, noun.number)
            ):
                return index
        for index, noun in enumerate(self.meaning.things):  # "the apple is red"; "a sign ... write it on the sign"
            if noun.name == phrase.name and noun.name in SIGNS and not phrase.colors and not phrase.number:
                told = any(text.on == index for text in self.meaning.texts)
                if not (told and (phrase.article == "one" or phrase.capitals)):  # "a STOP sign and a GO sign"
                    return index
        return None

    def _add(self, phrase: Phrase) -> int:
        number, plural = phrase.number, phrase.plural or phrase.several
        if number is None and phrase.article == "one":
            number = 1
        if (
            phrase.name.startswith("pair of ") and (number == 2 or phrase.several or phrase.some) and not phrase.plural
        ):  # "two socks", "a pair of socks"
            number, plural = phrase.pairs or 1, False
        elif phrase.pairs:
            number = 2 * phrase.pairs
        elif " of " in phrase.name and phrase.several:
            plural = phrase.plural
        noun = Noun(
            phrase.name,
            phrase.head == "thing",
            number,
            plural,
            phrase.object_color(),
            phrase.size,
            self.side,
            tuple(phrase.adjectives),
            many=phrase.several,
        )
        self.side = None
        if any(tag.has("another") for tag in self.tags[max(phrase.first - 1, 0) : self.at]):
            self.others.add(len(self.meaning.things))
        index = self._put(noun)
        if phrase.capitals:
            self.meaning.texts.append(Written(" ".join(phrase.capitals), index))
        return index

    def _put(self, noun: Noun) -> int:
        """Add a thing."""
        self.meaning.things.append(noun)
        return len(self.meaning.things) - 1

    def _reach(self, index: int) -> None:
        """Complete everything that was waiting for thing `index`."""
        if index < 0:
            return
        waits, self.relation = self.relation, None
        if self.between:
            self._reach_between(index)
            return
        if waits is not None:
            word, subject = waits
            if subject is None:
                self.fronted = (word, index)
            elif subject != index:
                self._relate_all(subject, word, index)
                self.related, self.group, self.linked, self.subject = subject, [], "", index
                self.placed = None
                return
        elif self.fronted is not None and self.fronted[1] != index:
            word, target = self.fronted
            self.fronted = None
            self._relate_things(index, word, target)
            self.placed = (word, target)
        elif self.placed is not None and self.linked == "and" and index not in self.placed and self._ends_here():
            self._gather(index)
            for each in self.group:
                self._relate_things(each, *self.placed)
        self._gather(index)
        self.subject = index

    def _ends_here(self) -> bool:
        """Whether the description of the thing just read ends here."""
        tag = self.tag()
        return tag is None or tag.has("break") or (tag.has("and") and not tag.has("part"))

    def _gather(self, index: int) -> None:
        """Add thing `index` to the group that "and" or a comma connects it to, or start a new group."""
        if index in self.group:
            return
        self.group = [*self.group, index] if self.linked else [index]
        self.joins = self.linked == "and" and len(self.group) > 1
        self.linked = ""

    def _relate_all(self, subject: int, word: str, index: int) -> None:
        """Apply a relation to the subject and everything connected to it by "and": "a cat and a dog under a tree"."""
        alone = not self.joins or self.hosted or subject not in self.group or word in ("between", "each side")
        related = {row[0] for row in self.meaning.relations}
        for each in [subject] if alone else self.group:
            if each == subject or each not in related:
                self._relate_things(each, word, index)

    def _relate_things(self, a: int, word: str, b: int) -> None:
        if word == "each side":
            self._put_on_each_side(a, b)
            return
        if word == "on" and self.meaning.things[b].name in CONTAINERS:
            word = "inside"
        if word == "behind":
            a, word, b = b, "in front of", a
        if word == "between":
            self.between = [a, b]
            if self.meaning.things[b].count >= 2:
                self.meaning.relations.append((a, "between", b))
                self.between = []
            return
        for text in list(self.meaning.texts):  # "the word HELLO on a sign"
            if word == "on" and text.on is None:
                self.meaning.texts[self.meaning.texts.index(text)] = Written(text.string, b)
        row = (a, word, b)
        if row not in self.meaning.relations and a != b:
            self.meaning.relations.append(row)

    def _reach_between(self, index: int) -> None:
        middle, *ends = self.between
        if index in self.between:
            return
        if ends:
            self.meaning.relations += [(ends[0], "left of", middle), (middle, "left of", index)]
            self.between = []
        self.subject = middle

    def _put_on_each_side(self, index: int, middle: int) -> None:
        noun = self.meaning.things[index]
        if noun.number in (None, 1, 2):
            self.meaning.change(index, number=2)
            self.meaning.relations.append((middle, "between", index))

    def _bare(self, phrase: Phrase) -> None:
        """Colours, a number or words without a head: they belong to an earlier thing or are shared with the next."""
        self.meaning.unread += phrase.adjectives
        following = self.tag()
        things = self.meaning.things
        counted = phrase.article == "one" or phrase.number is not None
        goes_on = following is not None and (following.has("and") or following.get("break") in (",", "，", "、"))
        if phrase.colors and counted and goes_on and self._head_follows():
            self.shared.append(phrase)
            return
        color = phrase.object_color()
        if not things and (color or phrase.number) and self.taken is not None:
            count = phrase.number or self.taken.number  # "a pink elephant! no, a blue one", "two cats, no wait, three"
            things.append(replace(self.taken, color=color or self.taken.color, number=count))
            return
        if not things:
            self.early = self.early or color
        if things and phrase.article and self._ends_at(self.at) and self._is_another_kind(phrase, color):
            return  # "a dog and another"
        if not things or (color is None and not (phrase.size or phrase.number)):
            return
        if color and (phrase.number or phrase.article == "one") and self._split_colors(phrase, color):
            return
        if len(phrase.colors) > 1 and things[-1].count == len(phrase.colors) and things[-1].color is None:
            noun = things.pop()  # "two apples, red and green"
            things += [replace(noun, number=1, plural=False, color=tag.get("color")) for tag in phrase.colors]
            return
        if self._is_another_kind(phrase, color):
            return
        target = len(things) - 1 if self.subject is None else self.subject
        targets = list(range(self.since, len(things))) if self.each and self.since < len(things) else [target]
        if self.pointed and self.joins:
            targets = self.group  # "a cat and a dog. They are black."
        for index in targets:
            if color and (things[index].color is None or self.replaces):
                self.meaning.change(index, color=color)
            if phrase.number and things[index].number is None and not color:
                self.meaning.change(index, number=phrase.number)
            if phrase.size and things[index].size is None:
                self.meaning.change(index, size=phrase.size)

    def _is_another_kind(self, phrase: Phrase, color: str | None) -> bool:
        """ "a red apple and two green ones", "a big apple and two small ones": a variant of the thing before."""
        last, tags = self.meaning.things[-1], self.tags[phrase.first : self.at]
        several = any(tag.has("ones") for tag in tags)
        if any(tag.has("another") for tag in tags) and not self.replaces:  # "a red car and another one in blue"
            self.others.add(len(self.meaning.things))
            another = replace(last, number=1, plural=False, color=color, size=phrase.size, part="", side=None)
            self._reach(self._put(another))
            return True
        counted = several or phrase.number is not None or (phrase.article == "one" and phrase.pronoun)
        other_color = color is not None and last.color not in (None, color)
        other_size = phrase.size is not None and last.size not in (None, phrase.size)
        if self.replaces or not counted or not (other_color or other_size):
            return False
        count = phrase.number or (None if several else 1)
        noun = replace(last, number=count, plural=several or (count or 1) > 1, part="", side=None)
        self._reach(self._put(replace(noun, color=color or last.color, size=phrase.size or last.size)))
        return True

    def _ends_at(self, at: int) -> bool:
        return at >= len(self.tags) or self.tags[at].has("break")

    def _part_of_them(self) -> bool:
        """ "three stars, two of them yellow": some of the last things have a different colour."""
        before = self.tags[max(self.at - 2, 0) : self.at]
        count = 1 if before and before[-1].has("one of") else before[0].get("number") if len(before) == 2 else None
        last = len(self.meaning.things) - 1
        at = self.at + 1
        while at < len(self.tags) and self.tags[at].has("copula"):
            at += 1
        color = self.tags[at].get("color") if at < len(self.tags) else None
        if last < 0 or color is None or not isinstance(count, int) or not before[-1].has("of", "one of"):
            return False
        noun = self.meaning.things[last]
        if not self._ends_at(at + 1) or count >= noun.count or noun.color == color:
            return False
        rest = noun.number - count if noun.number else None
        self.meaning.change(last, number=rest, plural=rest != 1)
        self._reach(self._put(replace(noun, number=count, plural=count > 1, color=color, part="", side=None)))
        self.at = at + 1
        return True

    def _single_out(self, side: str) -> bool:
        """ "two signs, the left one says YES": each of the two becomes a thing with its side."""
        things = self.meaning.things
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
        if not things or side not in opposite:
            return False
        found = [index for index, noun in enumerate(things) if (noun.name, noun.side) == (things[-1].name, side)]
        if not found and things[-1].number == 2:
            found = [len(things) - 1]
            self.meaning.change(found[0], number=1, plural=False, side=side)
            things.append(replace(things[-1], side=opposite[side]))
        if found:
            self._reach(found[0])
        return bool(found)

    def _head_follows(self) -> bool:
        at = self.at + 1
        while at < len(self.tags) and not self.tags[at].has("end", "relation"):
            if self.tags[at].has("thing", "name"):
                return not self.tags[at].has("color") or at + 1 == len(self.tags)
            if self.tags[at].has("and") or self.tags[at].get("break") in (",", "，", "、"):
                at += 1
                continue
            if not (self.tags[at].has("article", "number", "color", "filler", "size") or not self.tags[at].readings):
                return False
            at += 1
        return False

    def _split_colors(self, phrase: Phrase, color: str) -> bool:
        """ "two hearts, one red one blue": one thing per colour."""
        found = [(phrase.number or 1, color)]
        first = start = self.at
        while (tag := self.tag()) is not None and not tag.has("end"):
            if tag.has("and", "break") or tag.has("filler"):
                self.at += 1
                continue
            if not self.starts_phrase(self.at):
                break
            begin = self.at
            other = self._read_phrase()
            if other.head or not (other.number or other.article) or not other.object_color():
                self.at = begin
                break
            found.append((other.number or 1, other.object_color() or ""))
            start = self.at
        self.at = start
        last = len(self.meaning.things) - 1
        noun = self.meaning.things[last]
        if len(found) < 2 or (noun.number or 2 * noun.plural) not in (sum(n for n, _ in found), 2) or noun.color:
            self.at = first
            return False
        self.meaning.change(last, number=found[0][0], color=found[0][1], plural=found[0][0] > 1)
        for count, name in found[1:]:
            self.meaning.things.append(Noun(noun.name, noun.known, count, count > 1, name, noun.size))
        return True

    def _merge_repeated(self) -> None:
        """Merge things that are named twice in the same way."""
        meaning = self.meaning
        for last in range(len(meaning.things) - 1, 0, -1):
            for first in range(last):
                if not meaning.relations and self._is_same(first, last):
                    one, other = meaning.things[first], meaning.things[last]
                    meaning.things[first] = replace(other, size=other.size or one.size)
                    meaning.texts = [replace(text, on=first) if text.on == last else text for text in meaning.texts]
                    meaning.keep([index for index in range(len(meaning.things)) if index != last])
                    break

    def _is_same(self, first: int, last: int) -> bool:
        """Whether the later of two things adds nothing to the earlier, and is not "another"."""
        one, other = self.meaning.things[first], self.meaning.things[last]
        if (one.name, one.color, one.side) != (other.name, other.color, other.side) or last in self.others:
            return False
        if None not in (one.number, other.number) and one.number != other.number:
            return False
        if None not in (one.size, other.size) and one.size != other.size:
            return False
        return not {first, last} <= {text.on for text in self.meaning.texts}
