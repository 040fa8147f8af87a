"""Tags to meaning: a small grammar over noun phrases and what joins them.

Comes in: the tags of a prompt. Goes out: a `Meaning`. One pass from left to right: each noun phrase becomes a thing, a
background or a colour of what came before; relations, places, texts and styles are attached as they come. Where the
words do not make a whole, the meaning says that it is unsure.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from leanlens.reason.meaning import Backdrop, Meaning, Noun, Written
from leanlens.reason.words import SIGNS, Tag, Words
from leanlens.scenes.shapes import CONTAINERS

MOST_KINDS = 6  # of things that one caption holds
COLORS = ("color", "plain color", "sky color", "ground color")  # kinds of readings
SHADES = 2  # colours that a pattern or a gradient has
Lookup = Callable[[str], str | None]


@dataclass
class Phrase:
    """A noun phrase: its modifiers, and the head that it has."""

    article: str | None = None
    number: int | None = None
    several: bool = False
    pair: bool = False
    pairs: int | None = None
    pronoun: bool = False  # "a red one"
    quality: bool = False  # it ends in a word such as "mood"
    colors: list[Tag] = field(default_factory=list)
    size: str | None = None
    adjectives: list[str] = field(default_factory=list)
    pattern: str | None = None
    turned: bool | None = None
    head: str = ""  # thing, unknown, background, ground, sky, pattern, or nothing
    name: str = ""
    plural: bool = False
    first: int = 0  # tag it starts at

    @property
    def is_empty(self) -> bool:
        return not (self.head or self.colors or self.adjectives or self.number or self.article or self.size)

    def object_color(self) -> str | None:
        """The colours as those of a thing: one of the twelve, or two in words."""
        named = list(dict.fromkeys(tag.get("color") for tag in self.colors if tag.has("color")))
        return " and ".join(named) or None

    def colors_as(self, kind: str) -> list[str]:
        """The colours as those of a background, a sky or a ground, in the order given."""
        found = []
        for tag in self.colors:
            name = tag.get(kind) or tag.text.lower()
            if name not in found:
                found.append(name)
        return found


def parse(tags: list[Tag], words: Words, lookup: Lookup = lambda word: None) -> Meaning:
    """What a prompt means.

    Args:
        lookup: an unknown word or two -> the known thing that it means, or None.
    """
    return _Reader(tags, words, lookup).read()


class _Reader:
    """The state of one pass.

    `subject` is the thing that a relation or a place that follows belongs to; `since` the first thing of the sentence,
    `clause` of the clause.
    """

    def __init__(self, tags: list[Tag], words: Words, lookup: Lookup) -> None:
        self.tags, self.words, self.lookup = tags, words, lookup
        self.at = 0
        self.meaning = Meaning()
        self.subject: int | None = None
        self.relation: tuple[str, int | None] | None = None  # waits for what it is to
        self.fronted: tuple[str, int] | None = None  # "on a table": waits for what is there
        self.between: list[int] = []  # first the thing that is, then the one that it is beside
        self.side: str | None = None
        self.says: int | None = None  # tag number after which words are letters
        self.since = self.clause = 0
        self.asked = False  # the sentence before was a question
        self.joined = False
        self.replaces = False  # "but": colours that follow go before those said already
        self.fresh = 0  # the first thing since the last mark or "and"
        self.early: str | None = None  # a colour said before any thing
        self.each = False
        self.host: int | None = None  # "with": the thing that what follows stands on, in or beside
        self.shared: list[Phrase] = []  # phrases without a head, for "a red and a blue ball"
        self.known_heads = 0

    # -- looking around

    def tag(self, ahead: int = 0) -> Tag | None:
        at = self.at + ahead
        return self.tags[at] if 0 <= at < len(self.tags) else None

    def starts_phrase(self, at: int) -> bool:
        """Whether a noun phrase may start at a tag."""
        while at < len(self.tags) and set(self.tags[at].readings) == {"filler"}:
            at += 1
        if at >= len(self.tags):
            return False
        tag = self.tags[at]
        if not tag.readings:
            return True
        kinds = ("article", "number", "thing", "name", "size", "pattern", "ground", "sky", *COLORS)
        return tag.has(*kinds, "background noun", "background plain") and tag.get("article") not in ("it", "each")

    def read(self) -> Meaning:
        while (tag := self.tag()) is not None:
            before = self.at
            self._step(tag)
            if self.at == before:
                self._leave_out(tag)
                self.at += 1
        self._settle()
        return self.meaning

    def _leave_out(self, tag: Tag) -> None:
        if not tag.readings:
            self.meaning.unread.append(tag.text)

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
            ("sorry", self._correct), ("wish", self._wish), ("row", self._row), ("style", self._style),
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
            if not self.asked:
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
            self.each, self.at = True, self.at + 1
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
        first = self.since
        taken = self.meaning.things[first:]
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
        while (later := self.tag()) is not None and not later.has("break"):
            self._leave_out(later)
            self.at += 1
        return True

    def _negate(self, tag: Tag) -> bool:
        self.at += 1
        if not self.starts_phrase(self.at):
            return True
        phrase = self._read_phrase()
        if phrase.head in ("thing", "unknown"):
            self.meaning.without.append(phrase.name)
        return True

    # -- style, background

    def _style(self, tag: Tag) -> bool:
        if tag.has("background plain", "color") and self._colors_follow(self.at + 1):
            return False
        self.meaning.style = tag.readings["style"]
        self.meaning.other_style = None
        self.at += 1
        return True

    def _other_style(self, tag: Tag) -> bool:
        if tag.has("plain color", "color") and (self.relation or self._colors_follow(self.at)):
            return False
        if self.meaning.style is None:
            self.meaning.other_style = tag.text.lower()
        self.at += 1
        return True

    def _colors_follow(self, at: int) -> bool:
        kinds = ("color", "plain color", "background noun", "pattern", "background plain")
        return at < len(self.tags) and self.tags[at].has(*kinds) and not self.tags[at].has("style")

    def _night(self, tag: Tag) -> bool:
        if self.meaning.background is None:
            self.meaning.background = Backdrop("plain", ("navy blue",))
        self.at += 1
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

    def _set_background(self, phrase: Phrase, bare: bool = False) -> bool:
        """Take a phrase for the background, where it can be."""
        if phrase.head in ("ground", "sky"):
            self._set_landscape(phrase)
            return True
        if phrase.head not in ("background", "pattern") and not bare:
            return False
        kind = phrase.pattern or phrase.name if phrase.head == "pattern" else phrase.pattern or ""
        colors = [name for name in phrase.colors_as("plain color")]
        if kind == "gradient" or (phrase.head in ("pattern", "background") and self._from_to(phrase)):
            colors += [name for name in self._from_to_colors() if name not in colors]
            kind = kind or "gradient"
        if not colors and (phrase.head == "pattern" or not kind):
            colors, after, turned = self._colors_after()
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

    def _colors_after(self) -> tuple[list[str], str, bool | None]:
        """ "background: light blue", "the background is white with red dots"."""
        start = self.at
        tag = self.tag()
        while tag is not None and (tag.get("break") in (":", "=", "-", "：") or tag.has("of", "filler", "relation")):
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
            return phrase.colors_as("plain color"), kind, phrase.turned
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

    # -- phrases

    def _read_phrase(self, surface: bool = False) -> Phrase:
        """The noun phrase that starts here; `surface` where a background may be meant."""
        phrase = Phrase(first=self.at)
        while (tag := self.tag()) is not None:
            if self._take_modifier(tag, phrase, surface):
                self.at += 1
                continue
            self._take_head(tag, phrase, surface)
            break
        if not phrase.head and phrase.pattern:
            phrase.head, phrase.name = "pattern", phrase.pattern
        if not phrase.head and phrase.adjectives and self._is_noun(phrase):
            phrase.head, phrase.name = "unknown", " ".join(phrase.adjectives).lower()
            phrase.adjectives = []
            phrase.plural = phrase.several or (phrase.number or 1) > 1
            self._take_of(phrase)
        if self.words.adjectives != "before" and phrase.head:
            self._take_following(phrase)
        return phrase

    def _take_modifier(self, tag: Tag, phrase: Phrase, surface: bool) -> bool:
        """Whether a tag belongs to the phrase, before its head."""
        if tag.has("break", "quote", "relation", "and", "adverb", "row", "says") and not self._is_color_and(
            tag, phrase
        ):
            return False
        if tag.has("and"):
            return True
        if tag.has(*COLORS) and self._is_color(tag, phrase, surface):
            phrase.colors.append(tag)
        elif tag.has("thing", "name") or (tag.has("background noun", "sky", "ground") and not tag.has("pattern")):
            return False
        elif tag.has("article") and tag.readings["article"] in ("one", "the"):
            if phrase.colors or phrase.adjectives or phrase.number:
                return False
            phrase.article = tag.readings["article"]
        elif tag.has("number"):
            value = tag.readings["number"]
            if phrase.colors:
                phrase.pronoun = value == 1 and not self._colors_follow(self.at + 1)
                return phrase.pronoun
            if value == "pair":
                phrase.pairs = phrase.number
            phrase.several, phrase.pair = value == "several", value == "pair"
            phrase.number = {"several": None, "pair": 2}.get(value, value)
        elif tag.has("size"):
            phrase.size = tag.readings["size"]
        elif tag.has("pattern"):
            phrase.pattern = tag.readings["pattern"]
        elif tag.has("background vertical", "background horizontal"):
            phrase.turned = tag.has("background vertical")
        elif tag.has("style"):
            self._style(tag)
            self.at -= 1
        elif tag.has("other style"):
            self._other_style(tag)
            self.at -= 1
        elif tag.has("person"):
            self.meaning.unread.append(tag.text)
            phrase.quality = True
        elif tag.has("filler", "background plain", "qualities"):
            if tag.has("side", "of", "not", "but", "sorry", "purpose"):
                return False
            phrase.quality = tag.has("qualities")
        elif not tag.readings:
            phrase.adjectives.append(tag.text)
        else:
            return False
        return True

    def _is_color_and(self, tag: Tag, phrase: Phrase) -> bool:
        """ "red and blue ball": an "and" between two colours of one thing."""
        if not (tag.has("and") and phrase.colors and self.at + 1 < len(self.tags)):
            return False
        following = self.tags[self.at + 1]
        if not following.has("color", "plain color") or following.has("thing"):
            return False
        rest = self.at + 2
        while (
            rest < len(self.tags)
            and self.tags[rest].has("color", "filler", "pattern")
            and not self.tags[rest].has("break")
        ):
            rest += 1
        return (rest < len(self.tags) and self.tags[rest].has("thing", "background noun", "pattern", "name")) or (
            rest > 0 and self.tags[rest - 1].has("pattern")
        )

    def _is_color(self, tag: Tag, phrase: Phrase, surface: bool) -> bool:
        """Whether a word that may also be a thing ("orange", "peach") is a colour here."""
        if not tag.has("thing"):
            if tag.has("color"):
                return True
            return surface or self._heads_background(self.at + 1)
        following = self.tags[self.at + 1] if self.at + 1 < len(self.tags) else None
        if surface and phrase.article is None and (following is None or following.has("break")):
            return True
        if following is None:
            return False
        if following.has("thing", "name", "background noun", "pattern", "color", "filler") and not following.has("of"):
            return True
        return not following.readings and not tag.glued

    def _heads_background(self, at: int) -> bool:
        """Whether the words from here on run into a background."""
        while at < len(self.tags):
            tag = self.tags[at]
            if tag.has("background noun", "pattern", "sky", "ground", "background to", "background from"):
                return True
            if not tag.has("color", "plain color", "and", "background plain", "filler") or tag.has("thing"):
                return False
            at += 1
        return False

    def _take_head(self, tag: Tag, phrase: Phrase, surface: bool) -> None:
        if tag.has("thing"):
            if phrase.adjectives and (better := self.lookup(" ".join([*phrase.adjectives, tag.text]))):
                phrase.head, phrase.name, phrase.adjectives = "thing", better, []
            else:
                phrase.head = "thing"
                phrase.name, phrase.plural = tag.readings["thing"]
            self.at += 1
        elif tag.has("name"):
            phrase.head = "unknown"
            phrase.name, phrase.plural = tag.readings["name"]
            self.at += 1
        elif tag.has("background noun"):
            phrase.head, phrase.name = "background", "background"
            self.at += 1
        elif tag.has("sky"):
            phrase.head, phrase.name = "sky", tag.readings["sky"]
            self.at += 1
        elif tag.has("ground"):
            phrase.head, phrase.name = "ground", tag.readings["ground"]
            self.at += 1

    def _take_following(self, phrase: Phrase) -> None:
        """Adjectives that stand after their noun: "una manzana roja"."""
        while (tag := self.tag()) is not None:
            if tag.has(*COLORS) and not tag.has("thing", "break"):
                phrase.colors.append(tag)
            elif tag.has("size"):
                phrase.size = tag.readings["size"]
            elif tag.has("pattern") and phrase.head == "background":
                phrase.pattern = tag.readings["pattern"]
            elif not (tag.has("filler", "background plain") and not tag.has("of", "relation", "side", "and", "break")):
                break
            self.at += 1

    def _is_noun(self, phrase: Phrase) -> bool:
        """Whether unknown words without a known head are the name of a thing."""
        words = phrase.adjectives
        if phrase.quality or self._is_title():
            return False
        known = self.lookup(" ".join(words)) or self.lookup(words[-1])
        if known:
            phrase.adjectives = [known]
            return True
        if len(words) > 3:
            return False
        if phrase.article or phrase.number or phrase.colors or phrase.size or phrase.several:
            return True
        last = words[-1].lower()
        if last.endswith(("ing", "ly", "ed")) or len(words) > 2:
            return False
        if len(self.meaning.things) > self.clause and not (self.relation or self.joined):
            return False
        if self.since < len(self.meaning.things) == self.clause and not self._is_list():
            return False
        before = self.tags[phrase.first - 1] if phrase.first else None
        opens = before is None or before.has("break", "and", "relation", "filler", "style", "side")
        return opens and not ((after := self.tag()) is not None and after.has("wants", "quote"))

    def _is_list(self) -> bool:
        """Whether the sentence so far is a bare list, "sun, cloud"."""
        tags = self.tags[: self.at]
        return len(self.meaning.things) > 1 + self.since and not any(tag.has("article", "relation") for tag in tags)

    def _is_title(self) -> bool:
        """Whether a colon follows: "toolbox essentials: saw, wrench"."""
        tag = self.tag()
        after = self.tag(1)
        return tag is not None and after is not None and tag.get("break") in (":", "：") and not after.has("color")

    def _take_of(self, phrase: Phrase) -> None:
        """ "cup of coffee": an unknown name of two words."""
        of, last = self.tag(), self.tag(1)
        if of is not None and last is not None and of.text.lower() == "of" and not last.readings:
            phrase.name += f" of {last.text.lower()}"
            self.at += 2

    def _noun_phrase(self) -> None:
        phrase = self._read_phrase()
        if phrase.is_empty:
            return
        if phrase.head in ("background", "ground", "sky", "pattern"):
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
        before = self.tags[phrase.first - 1] if phrase.first else None
        host = self.subject
        if before is None or not before.has("part") or self.relation or self.side or host is None:
            return False
        if not self.meaning.things[host].known or self.meaning.things[host].part:
            return False
        words = " ".join(tag.text.lower() for tag in self.tags[phrase.first - 1 : self.at])
        self.meaning.change(host, part=words)
        return True

    def _spoken_of(self, phrase: Phrase) -> int | None:
        """The thing that "the cat" means, where there is one already."""
        color = phrase.object_color()
        for index, noun in enumerate(self.meaning.things):
            same = noun.name == (phrase.name if phrase.head == "thing" else phrase.name.lower())
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
            phrase.name.startswith("pair of ") and (number == 2 or phrase.several) and not phrase.plural
        ):  # "two socks", "a pair of socks"
            number, plural = phrase.pairs or 1, False
        elif phrase.pairs:
            number = 2 * phrase.pairs
        elif " of " in phrase.name and phrase.several:
            plural = phrase.plural
        noun = Noun(
            phrase.name if phrase.head == "thing" else phrase.name.lower(),
            phrase.head == "thing",
            number,
            plural,
            phrase.object_color(),
            phrase.size,
            self.side,
            tuple(word.lower() for word in phrase.adjectives),
        )
        self.side = None
        self.meaning.things.append(noun)
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

    def _has_background_colors(self, phrase: Phrase) -> bool:
        return all(tag.has("plain color", "color") for tag in phrase.colors)

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
        if word == "on" and any(text.on == subject for text in self.meaning.texts):  # "a label with TEA on it"
            return True
        if subject is None or host is None or host == subject:
            host = subject - 1 if subject else None
        if subject is None or host is None:
            return True
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
        self.meaning.row = tag.readings["row"]
        return True

    # -- colours that stand alone

    def _bare(self, phrase: Phrase) -> None:
        """Colours, a number or words without a head: of what came before, or shared with what comes."""
        self.meaning.unread += phrase.adjectives
        following = self.tag()
        things = self.meaning.things
        if phrase.colors and following is not None and following.has("and") and self._head_follows():
            self.shared.append(phrase)
            return
        color = phrase.object_color()
        if not things:
            self.early = self.early or color
        if not things or (color is None and not (phrase.size or phrase.number)):
            return
        if color and (phrase.number or phrase.article == "one") and self._split_colors(phrase, color):
            return
        if color and self.joined and phrase.pronoun and things[-1].color not in (None, color):
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
        while at < len(self.tags) and not self.tags[at].has("break", "relation"):
            if self.tags[at].has("thing", "name"):
                return not self.tags[at].has("color") or at + 1 == len(self.tags)
            if not (self.tags[at].has("article", "number", "color", "filler", "size") or not self.tags[at].readings):
                return False
            at += 1
        return False

    def _split_colors(self, phrase: Phrase, color: str) -> bool:
        """ "two hearts, one red one blue": as many things as colours."""
        found = [(phrase.number or 1, color)]
        start = self.at
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
            return False
        self.meaning.change(last, number=found[0][0], color=found[0][1], plural=found[0][0] > 1)
        for count, name in found[1:]:
            self.meaning.things.append(Noun(noun.name, noun.known, count, count > 1, name, noun.size))
        return True

    # -- words on things

    def _quote(self, tag: Tag) -> bool:
        self.at += 1
        self._write(tag.readings["quote"])
        return True

    def _write(self, string: str) -> None:
        """Letters: of the sign that comes, "write BOO on a sign", else of the thing that says them, or of any sign."""
        on = self.tag()
        comes = (
            on is not None and "on" in (on.get("relation"), on.get("background on")) and self._names_sign(self.at + 1)
        )
        owner = self.subject if self.says is not None or self._is_sign(self.subject) else None
        if comes and not self._is_sign(self.subject):
            self.meaning.texts = [text for text in self.meaning.texts if text.string != string]
            owner = None
        for index, text in enumerate(self.meaning.texts):
            if text.string == string:  # said twice: the later place counts
                self.meaning.texts[index] = Written(string, text.on if owner is None else owner)
                self.says = None
                return
        self.meaning.texts.append(Written(string, owner))
        self.says = None

    def _names_sign(self, at: int) -> bool:
        """Whether the noun phrase from here on is a sign."""
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
        letters = self._letters(at) if self._is_sign(self.subject) or tag.has("of") else []
        if letters:
            self.says, self.at = at, at + len(letters)
            self._write(" ".join(letters))
            return True
        if tag.has("thing", "color", "filler"):
            return False
        self.at += 1
        return True

    def _capitals(self, at: int) -> list[str]:
        """Words in capitals, or a number, from a tag on."""
        found = []
        while at < len(self.tags):
            tag = self.tags[at]
            if not (tag.capital or (tag.text.isdigit() and not found) or (found and tag.text.isupper())):
                break
            found.append(tag.text)
            at += 1
        return found

    def _letters(self, at: int) -> list[str]:
        """Up to three words that are no sentence."""
        found: list[str] = []
        while at < len(self.tags) and len(found) < 3:
            tag = self.tags[at]
            if tag.has("break", "relation", "and", "article", "side", "adverb", "quote"):
                break
            found.append(tag.text)
            at += 1
        return found

    def _trigger(self, tag: Tag) -> bool:
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
        if not (meaning.things or meaning.background):
            meaning.unsure = "nothing in it is known"
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

    def _give_signs(self) -> None:
        """A sign for each string that nothing bears: one that is there already, or a new one."""
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
