"""Tags to meaning: a small grammar over noun phrases and what joins them.

Comes in: the tags of a prompt. Goes out: a `Meaning`. One pass from left to right: each noun phrase becomes a thing, a
background or a colour of what came before; relations, places, texts and styles are attached as they come. Where the
words do not make a whole, the meaning says that it is unsure.
"""

from collections.abc import Callable
from dataclasses import replace

from leanlens.reason.letters import LetterReader
from leanlens.reason.meaning import Meaning, Noun, Written
from leanlens.reason.order import put_relations_first
from leanlens.reason.phrases import Lookup, Phrase
from leanlens.reason.words import SIGNS, Tag, Words
from leanlens.scenes.shapes import CONTAINERS

MOST_KINDS = 6  # of things that one caption holds


def parse(tags: list[Tag], words: Words, lookup: Lookup = lambda word: None) -> Meaning:
    """What a prompt means.

    Args:
        lookup: an unknown word or two -> the known thing that it means, or None.
    """
    if words.localisers:
        tags = put_relations_first(tags)
    return _Reader(tags, words, lookup).read()


class _Reader(LetterReader):
    """One pass: each tag, or each noun phrase, does what its reading says."""

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
            ("opening", self._pass_over), ("taken back", self._take_back_said), ("sorry", self._correct),
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
                self.since = len(self.meaning.things)
            self.host = None
            self.each = False
        self.clause = len(self.meaning.things)
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
        self.host, self.fresh = self.subject, len(self.meaning.things)
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
            self.at += 1
            self._reach(len(self.meaning.things) - 1 if self.subject is None else self.subject)
            return True
        return False

    def _correct(self, tag: Tag) -> bool:
        """ "hot air? no, just a parachute": what was asked before is taken back."""
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

    def _wish(self, tag: Tag) -> bool:
        """ "a vase would be nice but": taken back where a "but" follows in the sentence."""
        for later in self.tags[self.at :]:
            if later.has("end"):
                break
            if later.has("but", "sorry"):
                self._take_back()
                break
        self.at += 1
        return True

    def _wants(self, tag: Tag) -> bool:
        """ "my daughter wants a unicorn": whoever wants it is not drawn."""
        first = self.clause
        if all(not noun.known for noun in self.meaning.things[first:]):
            self.meaning.unread += [noun.name for noun in self.meaning.things[first:]]
            del self.meaning.things[first:]
            self.subject = first - 1 if first else None
        self.at += 1
        return True

    def _take_back(self) -> None:
        """Forget the things of this sentence, or of the question before it."""
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

    def _negate(self, tag: Tag) -> bool:
        self.at += 1
        if not self.starts_phrase(self.at):
            return True
        phrase = self._read_phrase()
        if phrase.head in ("thing", "unknown"):
            self.meaning.without.append(phrase.name)
        return True

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

    def _attach(self, phrase: Phrase) -> None:
        """A thing, new or spoken of before, in whatever relation waits for it."""
        known = self._spoken_of(phrase)
        if known is not None and not self.shared:
            if (color := phrase.object_color()) and self.meaning.things[known].color is None:
                self.meaning.change(known, color=color)
            self._reach(known)
            return
        if phrase.head == "unknown" and self._is_part(phrase):
            return
        for earlier in self.shared:  # "a red and a blue ball"
            earlier.head, earlier.name, earlier.plural = phrase.head, phrase.name, (earlier.number or 1) > 1
            self._reach(self._add(earlier))
        self.shared = []
        self._reach(self._add(phrase))

    def _is_part(self, phrase: Phrase) -> bool:
        """Whether an unknown thing is one of a known one, "a gift box with a ribbon"; it is then said beside that."""
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
        """The thing that "the cat" means, where there is one already."""
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
        )
        self.side = None
        self.meaning.things.append(noun)
        if phrase.capitals:
            self.meaning.texts.append(Written(" ".join(phrase.capitals), len(self.meaning.things) - 1))
        return len(self.meaning.things) - 1

    def _reach(self, index: int) -> None:
        """Thing `index` is spoken of: settle what waited for it."""
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
                self._relate_things(subject, word, index)
        elif self.fronted is not None and self.fronted[1] != index:
            word, target = self.fronted
            self.fronted = None
            self._relate_things(index, word, target)
        self.subject = index

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

    # -- relations and places

    def _relate(self, tag: Tag) -> bool:
        word = tag.readings["relation"]
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
        self.relation = (word, subject)
        self.says = None
        return self.at > start

    def _has_subject(self) -> bool:
        return self.subject is not None and (len(self.meaning.things) > self.clause or self.subject >= self.since)

    def _refers(self, at: int) -> bool:
        return at < len(self.tags) and self.tags[at].get("article") == "it"

    def _sign_follows(self) -> bool:
        """Put words that wait for a place on the sign that comes: '"OPEN" on a red sign'."""
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
        """A relation that nothing follows: an adverb, a side, or nothing."""
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
        if word == "on" and any(text.on == subject for text in self.meaning.texts):  # "a label with TEA on it"
            return True
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
            self._relate_things(subject, word, host)
            self.subject = subject
        return True

    def _put_on_each_side(self, index: int, middle: int) -> None:
        noun = self.meaning.things[index]
        if noun.number in (None, 1, 2):
            self.meaning.change(index, number=2)
            self.meaning.relations.append((middle, "between", index))

    def _place(self, tag: Tag) -> bool:
        self.at += 1
        side = tag.readings["side"]
        fresh = len(self.meaning.things) > self.clause and not self.joined
        if self.joined and self.subject is not None and self.meaning.things and self.tags[self.at - 2].has("and"):
            fresh = False
        elif (self.joined and len(self.meaning.things) > self.clause) or self._refers_back():
            fresh = True
        if fresh and self.subject is not None and self.meaning.things[self.subject].side is None:
            self.meaning.change(self.subject, side=side)
        elif self.starts_phrase(self.at) or (self.at < len(self.tags)):
            self.side = side
        return True

    def _refers_back(self) -> bool:
        """Whether the clause so far spoke of a thing again: "the cat is on the left"."""
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

    # -- colours that stand alone

    def _bare(self, phrase: Phrase) -> None:
        """Colours, a number or words without a head: of what came before, or shared with what comes."""
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
        if not things or (color is None and not (phrase.size or phrase.number)):
            return
        if color and (phrase.number or phrase.article == "one") and self._split_colors(phrase, color):
            return
        if color and phrase.pronoun and things and things[-1].color not in (None, color) and not self.replaces:
            count = phrase.number or 1  # "two green apples and a red one"
            things.append(replace(things[-1], number=count, plural=count > 1, color=color, side=None))
            return
        target = len(things) - 1 if self.subject is None else self.subject
        targets = range(self.since, len(things)) if self.each and self.since < len(things) else [target]
        for index in targets:
            if color and (things[index].color is None or self.replaces):
                self.meaning.change(index, color=color)
            if phrase.number and things[index].number is None and not color:
                self.meaning.change(index, number=phrase.number)
            if phrase.size and things[index].size is None:
                self.meaning.change(index, size=phrase.size)

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
        """ "two hearts, one red one blue": as many things as colours."""
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
        if len(found) < 2 or noun.count not in (sum(count for count, _ in found), 2) or noun.color is not None:
            self.at = first
            return False
        self.meaning.change(last, number=found[0][0], color=found[0][1], plural=found[0][0] > 1)
        for count, name in found[1:]:
            self.meaning.things.append(Noun(noun.name, noun.known, count, count > 1, name, noun.size))
        return True

    def _trigger(self, tag: Tag) -> bool:
        """A LoRA's word: a thing or beside one where a phrase holds it, else said at the end, as styles are."""
        if self.clause == len(self.meaning.things) == 0 or self._is_named(self.at + 1):
            return False
        self.at += 1
        self.meaning.triggers.append(tag.text)
        return True

    # -- at the end

    def _settle(self) -> None:
        meaning = self.meaning
        self._merge_repeated()
        if self.early and len(meaning.things) == 1 and meaning.things[0].color is None:
            meaning.change(0, color=self.early)
        for phrase in self.shared:
            meaning.unread += [tag.text for tag in phrase.colors]
        if self.fronted is not None and self.fronted[1] > 0:
            self._relate_things(0, self.fronted[0], self.fronted[1])
        if any(text.on is None for text in meaning.texts):
            self._give_signs()
        meaning.relations = [row for row in meaning.relations if max(row[0], row[2]) < len(meaning.things)]
        if not meaning.things:
            meaning.unsure = "no thing to draw is found in it"
        elif len(meaning.things) > MOST_KINDS:
            meaning.unsure = f"it names {len(meaning.things)} kinds of things; at most {MOST_KINDS} are arranged"

    def _merge_repeated(self) -> None:
        """What is named twice alike is one thing, said again."""
        things = self.meaning.things
        for last in range(len(things) - 1, 0, -1):
            for first in range(last):
                one, other = things[first], things[last]
                if (one.name, one.color, one.side) == (
                    other.name,
                    other.color,
                    other.side,
                ) and not self.meaning.relations:
                    things[first] = other
                    del things[last]
                    break
