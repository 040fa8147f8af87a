"""Parses tags into a meaning with a small grammar of noun phrases and connectives.

It makes one pass from left to right. Each noun phrase becomes a thing, a background, or a colour of an earlier thing;
relations, positions, texts and styles are attached on the way. If the words do not form a whole, the meaning is marked
as unsure.
"""

from collections.abc import Callable

from leanlens.reason.corrections import CorrectionReader
from leanlens.reason.meaning import Meaning, Noun, Written
from leanlens.reason.order import put_relations_first
from leanlens.reason.phrases import Lookup
from leanlens.reason.words import Tag, Words
from leanlens.scenes.shapes import CONTAINERS

MAX_KINDS = 6  # kinds of things in one caption


def parse(tags: list[Tag], words: Words, lookup: Lookup = lambda word: None) -> Meaning:
    """Parse a prompt.

    Args:
        lookup: maps one or two unknown words to a known thing, or None.
    """
    if words.localisers:
        tags = put_relations_first(tags)
    return _Reader(tags, words, lookup).read()


class _Reader(CorrectionReader):
    """One pass over the tags; the reading of each tag or noun phrase chooses the action."""

    # -- looking around

    def read(self) -> Meaning:
        while (tag := self.tag()) is not None:
            before = self.at
            self._step(tag)
            if self.at == before:
                self._leave_out(tag)
                self.at += 1
        self._settle()
        return self.meaning

    # -- one tag, or one phrase

    def _step(self, tag: Tag) -> None:
        for kind, do in self._actions():
            if tag.has(kind) and do(tag):
                return
        if tag.has("filler", "person") and not tag.has("article", "number", "color", "thing", "size"):
            self.at += 1
            return
        if self._starts_here(tag):
            self._noun_phrase()

    def _starts_here(self, tag: Tag) -> bool:
        return self.starts_phrase(self.at)

    def _actions(self) -> list[tuple[str, Callable[[Tag], bool]]]:
        return [
            ("break", self._break), ("quote", self._quote), ("says", self._says), ("trigger", self._trigger),
            ("opening", self._pass_over), ("taken back", self._take_back_said),
            ("scratched", self._change), ("sorry", self._change), ("sorry", self._correct),
            ("wish", self._wish), ("row", self._row), ("style", self._style),
            ("other style", self._other_style), ("background night", self._night), ("relation", self._relate),
            ("adverb", self._adverb), ("side", self._place), ("background on", self._ground_on),
            ("not", self._negate), ("purpose", self._skip_clause), ("wants", self._wants), ("article", self._pronoun),
            ("and", self._join), ("but", self._but), ("of", self._pass_over), ("qualities", self._pass_over),
            ("preposition", self._pass_over),
        ]  # fmt: skip

    def _pass_over(self, tag: Tag) -> bool:
        if tag.has("color", "thing", "number", "sky", "ground", "pattern"):
            return False
        self.at += 1
        return True

    def _break(self, tag: Tag) -> bool:
        mark = tag.readings["break"]
        self.at += 1
        if mark in ":：" and self._is_sign(self.subject) and (capitals := self._capitals(self.at)):
            self.says = self.at
            self.at += len(capitals)
            self._write(" ".join(capitals))
            return True
        if mark == ":" and self.says is not None:
            return True
        if tag.has("end"):
            self.asked = mark in "?？" and len(self.meaning.things) > self.since
            if not self.asked and len(self.meaning.things) > self.since:
                self.since_before = self.since
                self.topic = self.topic if self.keeps else self.since
                self.since = len(self.meaning.things)
            self.host, self.hosted, self.related, self.keeps = None, False, None, False
            self.placed = None
            self.each = False
        self.linked = "," if mark in ",，、" and self.group else ""
        if not self.linked:
            self.group, self.joins = [], False
        self.clause = len(self.meaning.things)
        self.pointed = False
        self.relation, self.replaces, self.says, self.joined = None, False, None, False
        self.fresh = len(self.meaning.things)
        return True

    def _join(self, tag: Tag) -> bool:
        if (
            tag.has("relation")
            and self.starts_phrase(self.at + 1)
            and self.subject is not None
            and not tag.has("joins")
        ):
            return False
        self.at += 1
        self.joined = True
        if tag.has("part") or not self.hosted:
            self.host = self.subject
        self.hosted = self.hosted or tag.has("part")
        if tag.has("part"):
            self.group, self.linked, self.joins = [], "", False
        else:
            self.linked = "and"
        self.fresh = len(self.meaning.things)
        if self._is_sign(self.subject) and tag.has("part") and (capitals := self._capitals(self.at)):
            self.says = self.at
            self.at += len(capitals)
            self._write(" ".join(capitals))
        return True

    def _but(self, tag: Tag) -> bool:
        if tag.has("sorry"):
            return False
        self.at += 1
        self.replaces = True
        return True

    def _pronoun(self, tag: Tag) -> bool:
        word = tag.readings["article"]
        if word == "each":
            self.each, self.at = len(self.meaning.things) > self.since, self.at + 1  # not "both a cat and a dog"
            return True
        if word == "it":
            if self._part_of_them():
                return True
            self.at += 1
            if self.at > 1 and self.tags[self.at - 2].has("end") and self.since == len(self.meaning.things):
                self.pointed = True  # "A cat sits on a bed. It is grey."
                self.keeps = True
                self._reach(min(self.topic, len(self.meaning.things) - 1))
                if tag.has("they"):
                    self.group = list(range(self.topic, self.since))
                    self.joins = len(self.group) > 1
            else:
                self._reach(len(self.meaning.things) - 1 if self.subject is None else self.subject)
            return True
        return False

    def _wants(self, tag: Tag) -> bool:
        """ "my daughter wants a unicorn": the daughter is not drawn."""
        first = self.clause
        if all(not noun.known for noun in self.meaning.things[first:]):
            self.meaning.unread += [noun.name for noun in self.meaning.things[first:]]
            del self.meaning.things[first:]
            self.subject = first - 1 if first else None
        self.at += 1
        return True

    def _skip_clause(self, tag: Tag) -> bool:
        if tag.has("relation", "of") and self.starts_phrase(self.at + 1):
            return False
        self.at += 1
        if self._is_style(self.at):  # "as a flat illustration"
            return True
        while (later := self.tag()) is not None and not later.has("break"):
            self._leave_out(later)
            self.at += 1
        return True

    def _is_style(self, at: int) -> bool:
        while at < len(self.tags) and self.tags[at].has("article", "filler") and not self.tags[at].has("style"):
            at += 1
        return at < len(self.tags) and self.tags[at].has("style", "other style")

    def _ground_on(self, tag: Tag) -> bool:
        """ "against charcoal", "on a light blue backdrop"."""
        self.at += 1
        if not self.starts_phrase(self.at):
            return True
        phrase = self._read_phrase(surface=True)
        if phrase.head in ("thing", "unknown"):
            self._attach(phrase)
        elif not self._set_background(phrase, bare=True):
            self._bare(phrase)
        return True

    # -- things

    def _noun_phrase(self) -> None:
        phrase = self._read_phrase()
        if phrase.is_empty:
            return
        if not phrase.head and self._is_fade(phrase):
            self._fade(phrase)
        elif phrase.head in ("background", "ground", "sky", "pattern"):
            self._set_background(phrase)
            self.relation = None
        elif phrase.head:
            self._attach(phrase)
        else:
            self._bare(phrase)

    # -- relations and places

    def _relate(self, tag: Tag) -> bool:
        word = tag.readings["relation"]
        following = self.tag(1)
        if following is not None and following.has("which") and self.subject is not None:
            self.fronted = (word, self.subject)  # "a table on which there is an apple"
            self.at += 2
            return True
        if not self.starts_phrase(self.at + 1) and not self._refers(self.at + 1):
            return self._after_phrase(tag)
        if word in ("on", "inside", "above", "below", "behind", "in front of") and self._is_surface(tag, word):
            return True
        start = self.at
        self.at += 1
        if tag.has("adverb", "side") and self.joined and self.clause < len(self.meaning.things):
            pass
        texts = [text for text in self.meaning.texts if text.on is None]
        if word == "on" and texts and self.says is None and self._sign_follows():
            return True
        if self._refers(self.at) and self.subject is not None and len(self.meaning.things) == self.fresh:
            self.fronted = (word, self.subject)
            self.at += 1
            return True
        subject = self.subject if self._has_subject() else None
        before = self.tags[start - 1] if start else None
        if before is not None and before.has("break", "and") and not before.has("part"):
            if self._opens_clause():
                subject = None
            elif before.has("and") and self.related is not None and len(self.meaning.things) == self.fresh:
                subject = self.related  # "to the right of the pear and above the banana"
        self.relation = (word, subject)
        self.says = None
        return self.at > start

    def _has_subject(self) -> bool:
        if self.subject is None:
            return False
        return len(self.meaning.things) > self.clause or self.subject >= self.since or self.pointed

    def _opens_clause(self) -> bool:
        """Whether a verb and a thing follow the position: "and to the right of the teapot there are two cookies"."""
        at, named = self.at, False
        while at < len(self.tags) and not self.tags[at].has("break", "relation", "and", "says", "quote"):
            tag = self.tags[at]
            if named and tag.has("stands"):
                return self.starts_phrase(at + 1)
            named = named or tag.has("thing", "name") or not tag.readings
            at += 1
        return False

    def _refers(self, at: int) -> bool:
        return at < len(self.tags) and self.tags[at].get("article") == "it"

    def _sign_follows(self) -> bool:
        """Put pending texts on the sign that follows: '"OPEN" on a red sign'."""
        at = self.at
        phrase = self._read_phrase()
        if phrase.head != "thing":
            self.at = at
            return False
        known = self._spoken_of(phrase)
        index = self._add(phrase) if known is None else known
        self.meaning.texts = [
            Written(text.string, index if text.on is None else text.on) for text in self.meaning.texts
        ]
        self.subject = index
        return True

    def _is_surface(self, tag: Tag, word: str) -> bool:
        """ "on navy blue", "in front of a striped wall", "on green grass under a light blue sky"."""
        start = self.at
        self.at += 1
        phrase = self._read_phrase(surface=True)
        if phrase.head in ("background", "ground", "sky", "pattern"):
            self._set_background(phrase)
            return True
        on = tag.has("background on") or word in ("on", "in front of")
        if not phrase.head and phrase.colors and not phrase.number and on and self._has_background_colors(phrase):
            return self._set_background(phrase, bare=True)
        if not phrase.head and phrase.colors and word == "inside":  # "a sign in red"
            self._bare(phrase)
            return True
        self.at = start
        return False

    def _after_phrase(self, tag: Tag) -> bool:
        """A relation without an object: an adverb, a side, or nothing."""
        if tag.has("adverb"):
            return self._adverb(tag)
        if tag.has("side"):
            return self._place(tag)
        self.at += 1
        return True

    def _adverb(self, tag: Tag) -> bool:
        """ "a stack of books with an apple on top", "a house with a tree on each side"."""
        word = tag.readings["adverb"]
        if tag.has("side") and (self.host is None or self.host == self.subject):
            return self._place(tag)
        self.at += 1
        if self.subject is not None and len(self.meaning.things) == self.fresh and self.starts_phrase(self.at):
            self.fronted = (word, self.subject)  # "and behind it a tree"
            return True
        host, subject = self.host, self.subject
        if word == "behind" and self.tags[self.at - 2].has("pattern"):  # "stripes in the background"
            return True
        if word in ("on", "inside") and any(text.on == subject for text in self.meaning.texts):
            return True  # "a label with TEA on it"
        if subject is None or host is None or host == subject:
            host = subject - 1 if subject else None
        if subject is None or host is None:
            return True
        holds = self.meaning.things[host].name in CONTAINERS
        if word == "inside" and not holds and any(before.has("canvas") for before in self.tags[: self.at]):
            return True  # "a picture with a cat in it"
        if word == "each side":
            self._put_on_each_side(subject, host)
        else:
            together = self.joins and self.hosted and subject in self.group and word not in ("behind", "beside")
            for each in self.group if together else [subject]:
                self._relate_things(each, word, host)
            self.subject, self.group, self.joins = subject, [], False
        return True

    def _place(self, tag: Tag) -> bool:
        self.at += 1
        side = tag.readings["side"]
        if self._is_the_one(self.at - 2, self.at) and self._single_out(side):  # "the left one"
            self.at += 1
            return True
        if self._is_the_one(self.at - 3, self.at - 2) and self._single_out(side):  # "the one on the left"
            return True
        fresh = len(self.meaning.things) > self.clause and not self.joined
        if self.joined and self.subject is not None and self.meaning.things and self.tags[self.at - 2].has("and"):
            fresh = False
        elif (self.joined and len(self.meaning.things) > self.clause) or self._refers_back():
            fresh = True
        if fresh and self.subject is not None and self.meaning.things[self.subject].side is None:
            self.meaning.change(self.subject, side=side)
            self.group, self.joins = [], False
            if self.hosted and self.host is not None and self.host < self.subject:
                self._place_beside(self.host, self.subject)
        elif self.starts_phrase(self.at) or (self.at < len(self.tags)):
            self.side = side
        return True

    def _is_the_one(self, the: int, one: int) -> bool:
        if the < 0 or one >= len(self.tags):
            return False
        return self.tags[the].get("article") == "the" and self.tags[one].get("number") == 1

    def _place_beside(self, host: int, last: int) -> None:
        """ "a house with a tree on the left and a car on the right": to the left and the right of the house."""
        things = self.meaning.things
        opposite = {"left": "right", "right": "left"}
        for first in range(host + 1, last):
            if things[host].side is None and things[first].side == opposite.get(things[last].side or ""):
                for index in (first, last):
                    self._relate_things(index, f"{things[index].side} of", host)
                    self.meaning.change(index, side=None)

    def _refers_back(self) -> bool:
        """Whether the clause so far refers to an earlier thing: "the cat is on the left"."""
        at = self.at - 2
        while at >= 0 and not self.tags[at].has("break", "and"):
            if self.tags[at].has("thing") or self.tags[at].get("article") == "it":
                return True
            at -= 1
        return False

    def _row(self, tag: Tag) -> bool:
        self.at += 1
        shape = self.words.longest([tag.text.lower().split()[-1]], 0)
        if self.subject is not None and self.meaning.things[self.subject].count == 1 and shape and "thing" in shape[1]:
            self.meaning.things.append(Noun(shape[1]["thing"][0], True, 1))  # "a house in a circle"
            self._relate_things(self.subject, "inside", len(self.meaning.things) - 1)
            return True
        self.meaning.row = tag.readings["row"]
        return True

    def _trigger(self, tag: Tag) -> bool:
        """A LoRA's trigger word: kept in its noun phrase if it is in one, otherwise appended to the caption."""
        if self.clause == len(self.meaning.things) == 0 or self._is_named(self.at + 1):
            return False
        self.at += 1
        self.meaning.triggers.append(tag.text)
        return True

    # -- at the end

    def _settle(self) -> None:
        meaning = self.meaning
        if self.fronted is not None and 0 < self.fronted[1] < len(meaning.things):
            self._relate_things(0, *self.fronted)
        self._merge_repeated()
        if self.early and len(meaning.things) == 1 and meaning.things[0].color is None:
            meaning.change(0, color=self.early)
        for phrase in self.shared:
            meaning.unread += [tag.text for tag in phrase.colors]
        if any(text.on is None for text in meaning.texts):
            self._give_signs()
        meaning.relations = [row for row in meaning.relations if max(row[0], row[2]) < len(meaning.things)]
        if not meaning.things:
            meaning.unsure = "no thing to draw is found in it"
        elif len(meaning.things) > MAX_KINDS:
            meaning.unsure = f"it names {len(meaning.things)} kinds of things; at most {MAX_KINDS} are arranged"
