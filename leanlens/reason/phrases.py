"""Parses noun phrases: the modifiers before a noun, the noun, and which reading of an ambiguous word applies."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from leanlens.reason.homonyms import settle
from leanlens.reason.meaning import Meaning, Noun
from leanlens.reason.nearest import nearest
from leanlens.reason.words import SIGNS, Tag, Words

COLORS = ("color", "plain color", "sky color", "ground color")  # kinds of readings
# The twelve colours -> the nearest colours of backgrounds, skies and grounds.
NEAREST = {
    "plain color": {
        "red": "maroon", "orange": "peach", "yellow": "pale yellow", "green": "mint green", "blue": "light blue",
        "purple": "lavender", "pink": "pale pink", "brown": "beige", "black": "charcoal", "white": "white",
        "grey": "light grey", "turquoise": "teal",
    },
    "sky color": {
        "red": "orange", "orange": "orange", "yellow": "orange", "blue": "light blue", "purple": "pink", "pink": "pink",
        "black": "navy blue", "white": "pale grey", "grey": "pale grey", "turquoise": "light blue",
    },
    "ground color": {
        "orange": "sandy", "yellow": "sandy", "green": "green", "brown": "brown", "black": "grey",
        "white": "snowy white", "grey": "grey",
    },
}  # fmt: skip
Lookup = Callable[[str], str | None]


@dataclass
class Phrase:
    """A noun phrase: its modifiers and its head."""

    article: str | None = None
    number: int | None = None
    several: bool = False
    some: bool = False  # "some cats" are several, "some cat" is one
    pair: bool = False
    pairs: int | None = None
    pronoun: bool = False  # "a red one"
    quality: bool = False  # ends in a word such as "mood"
    colors: list[Tag] = field(default_factory=list)
    listed: bool = False  # its colours are a list with commas
    size: str | None = None
    adjectives: list[str] = field(default_factory=list)
    capitals: list[str] = field(default_factory=list)  # letters of a sign: "a STOP sign"
    pattern: str | None = None
    turned: bool | None = None
    head: str = ""  # thing, unknown, background, ground, sky, pattern, or nothing
    name: str = ""
    plural: bool = False
    first: int = 0  # index of its first tag

    @property
    def is_empty(self) -> bool:
        return not (self.head or self.colors or self.adjectives or self.number or self.article or self.size)

    @property
    def is_begun(self) -> bool:
        """Whether an article, a number or a colour announces one thing."""
        return bool(self.article or self.number or self.colors)

    def lower_capitals(self) -> None:
        """Treat words in capitals like other words."""
        self.adjectives += [word.lower() for word in self.capitals]
        self.capitals = []

    def object_color(self) -> str | None:
        """The colours as a thing has them: one of the twelve, or two in words."""
        named = list(dict.fromkeys(tag.get("color") for tag in self.colors if tag.has("color")))
        return " and ".join(named) or None

    def split_colors(self) -> "list[Phrase]":
        """ "red, green and blue balloons": a phrase for each colour except the last, which this phrase keeps."""
        several = len(self.colors) if self.listed and self.plural else 0
        if several < 3 or self.article == "one" or self.number not in (None, several) or self.head != "thing":
            return []
        self.number, self.plural = 1, False
        *others, last = self.colors
        self.colors = [last]
        return [replace(self, colors=[color]) for color in others]

    def colors_as(self, kind: str) -> list[str]:
        """The colours as a background, sky or ground has them, in order; unknown ones are dropped."""
        named = [color_as(tag, kind) for tag in self.colors]
        return list(dict.fromkeys(name for name in named if name))


def color_as(tag: Tag, kind: str) -> str | None:
    """The nearest colour among the names for backgrounds, skies or grounds; None if none is near."""
    color = tag.get("color")
    return tag.get(kind) or NEAREST[kind].get(color)


class PhraseReader:
    """The state of one pass over the tags, and the reading of noun phrases.

    Attributes:
        at: index of the next tag.
        subject: the thing that a following relation or position belongs to.
        since, clause, fresh: number of the first thing of the sentence, of the clause, since the last mark or "and".
        relation: a relation that needs its object; fronted needs its subject: "on a table, a cat".
        between: the thing in between, then the one next to it.
        says: index of the tag after which words are text to write.
        host: "with": the thing that the following is on, in or next to.
        shared: phrases without a head, for "a red and a blue ball".
    """

    def __init__(self, tags: list[Tag], words: Words, lookup: Lookup) -> None:
        self.tags, self.words, self.lookup = settle(tags, words), words, lookup
        self.at = 0
        self.meaning = Meaning()
        self.subject: int | None = None
        self.relation: tuple[str, int | None] | None = None  # needs its object
        self.fronted: tuple[str, int] | None = None  # "on a table": needs its subject
        self.between: list[int] = []  # the thing in between, then the one next to it
        self.side: str | None = None
        self.says: int | None = None  # index of the tag after which words are text to write
        self.since = self.clause = 0
        self.asked = False  # the sentence before was a question
        self.joined = False
        self.replaces = False  # "but": the following colours replace earlier ones
        self.fresh = 0  # the first thing since the last mark or "and"
        self.early: str | None = None  # a colour before any thing
        self.each = False
        self.since_before = 0
        self.taken: Noun | None = None  # the discarded thing
        self.host: int | None = None  # "with": the thing that the following is on, in or next to
        self.shared: list[Phrase] = []  # phrases without a head, for "a red and a blue ball"

    def tag(self, ahead: int = 0) -> Tag | None:
        at = self.at + ahead
        return self.tags[at] if 0 <= at < len(self.tags) else None

    def starts_phrase(self, at: int) -> bool:
        """Whether a noun phrase can start at a tag."""
        while at < len(self.tags) and set(self.tags[at].readings) == {"filler"}:
            at += 1
        if at >= len(self.tags):
            return False
        tag = self.tags[at]
        if not tag.readings:
            return True
        kinds = ("article", "number", "thing", "name", "trigger", "size", "pattern", "ground", "sky", *COLORS)
        return tag.has(*kinds, "background noun", "background plain") and tag.get("article") not in ("it", "each")

    def _leave_out(self, tag: Tag) -> None:
        if not tag.readings or tag.has("unknown"):
            self.meaning.unread.append(tag.text)

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
            self.meaning.other_style = tag.text.lower().removesuffix(" of")
        self.at += 1
        return True

    def _colors_follow(self, at: int) -> bool:
        kinds = ("color", "plain color", "background noun", "pattern", "background plain")
        return at < len(self.tags) and self.tags[at].has(*kinds) and not self.tags[at].has("style")

    def _read_phrase(self, surface: bool = False) -> Phrase:
        """The noun phrase that starts here; `surface` if it may be a background."""
        phrase = Phrase(first=self.at)
        while (tag := self.tag()) is not None:
            if self._take_modifier(tag, phrase, surface):
                self.at += 1
                continue
            self._take_head(tag, phrase, surface)
            break
        if not phrase.head:
            phrase.lower_capitals()
        if not phrase.head and phrase.pattern:
            phrase.head, phrase.name = "pattern", phrase.pattern
        while len(phrase.adjectives) > 1 and not phrase.head and phrase.adjectives[-1].endswith(("ed", "ing")):
            self.meaning.unread.append(phrase.adjectives.pop())  # "a river flowed"
        if not phrase.head and phrase.adjectives and self._is_noun(phrase):
            phrase.head, phrase.name = "unknown", " ".join(phrase.adjectives)
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
        if tag.has("and", "break"):
            phrase.listed = phrase.listed or tag.has("break")
            return True
        if tag.has(*COLORS) and self._is_color(tag, phrase, surface):
            phrase.colors.append(tag)
        elif (
            tag.has("thing", "name")
            and self.words.adjectives == "before"
            and self._is_named(self.at + 1)
            and not self.tags[self.at + 1].has("color")  # "a goat (orange)"
            and (phrase.article or phrase.number or phrase.colors)
        ):
            phrase.adjectives.append(tag.text.lower())  # "a lemon tree"
        elif tag.has("thing", "name") and tag.glued and self._colors_follow(self.at + 1):
            phrase.adjectives.append(tag.text.lower())  # "goldfish-orange"
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
            phrase.several, phrase.some, phrase.pair = (value == word for word in ("several", "some", "pair"))
            phrase.number = {"several": None, "some": None, "pair": 2}.get(value, value)
        elif tag.has("size"):
            phrase.size = tag.readings["size"]
        elif tag.has("pattern"):
            phrase.pattern = tag.readings["pattern"]
        elif tag.has("background vertical", "background horizontal"):
            phrase.turned = tag.has("background vertical")
        elif tag.has("style"):
            if self._style(tag):
                self.at -= 1
        elif tag.has("other style"):
            if self._other_style(tag):
                self.at -= 1
        elif tag.has("person"):
            self.meaning.unread.append(tag.text)
            phrase.quality = True
        elif tag.has("filler", "background plain", "qualities"):
            if tag.has("side", "of", "not", "but", "sorry", "purpose"):
                return False
            phrase.quality = tag.has("qualities")
            if tag.has("measure"):
                self.meaning.unread.append(tag.text.strip())
            if tag.has("canvas"):
                phrase.article = None  # "an image with cats": it is the image that is one
        elif not tag.readings:
            (phrase.capitals if tag.capital else phrase.adjectives).append(
                tag.text if tag.capital else tag.text.lower()
            )
        elif tag.has("trigger") and self._is_named(self.at + 1):
            phrase.adjectives.append(tag.text)
        else:
            return False
        return True

    def _is_color_and(self, tag: Tag, phrase: Phrase) -> bool:
        """ "red and blue ball", "red, white and blue flag": whether this connects two colours of one thing."""
        if tag.get("break") in (",", "，") or phrase.listed:
            return bool(phrase.colors) and self._lists_colors(phrase)
        if not (tag.has("and") and not tag.has("part") and phrase.colors and self.at + 1 < len(self.tags)):
            return False
        following = self.tags[self.at + 1]
        rest = self.at + 2
        ends = rest < len(self.tags) and self.tags[rest].has("pattern", "background noun")
        if not following.has("color", "plain color") or (following.has("thing") and not ends):
            return False
        while (
            rest < len(self.tags)
            and self.tags[rest].has("color", "filler", "pattern")
            and not self.tags[rest].has("break")
        ):
            rest += 1
        ends = rest == len(self.tags) or self.tags[rest].has("break")
        if ends and self._is_said_of_things(phrase, len(phrase.colors) + 1):
            return True
        return (rest < len(self.tags) and self.tags[rest].has("thing", "background noun", "pattern", "name")) or (
            rest > 0 and self.tags[rest - 1].has("pattern")
        )

    def _is_said_of_things(self, phrase: Phrase, colors: int) -> bool:
        """Whether colours belong to an earlier thing: "a cat, black and white", "two apples, red and green"."""
        things = self.meaning.things
        said = len(things) - self.since == 1 and things[-1].count in (1, colors) and things[-1].color is None
        return said and not (phrase.article or phrase.number)

    def _lists_colors(self, phrase: Phrase) -> bool:
        """ "red, white and blue flag": whether this comma or "and" is in a list of colours before a noun."""
        at, ands, colors = self.at, 0, len(phrase.colors)
        while at < len(self.tags):
            comma, tag = self.tags[at].get("break") in (",", "，"), self.tags[at]
            joint = at + (comma and at + 1 < len(self.tags) and self.tags[at + 1].has("and"))  # ", and"
            color = self.tags[joint + 1] if joint + 1 < len(self.tags) else None
            if not (comma or tag.has("and")) or color is None or not color.has("color") or color.has("thing"):
                break
            ands += self.tags[joint].has("and")
            at, colors = joint + 2, colors + 1
        if not ands:
            return False
        if at >= len(self.tags) or self.tags[at].has("end"):
            return self._is_said_of_things(phrase, colors)
        tag = self.tags[at]
        return tag.has("thing", "name", "background noun", "pattern") or not tag.readings

    def _is_color(self, tag: Tag, phrase: Phrase, surface: bool) -> bool:
        """Whether a word that may also be a thing ("orange", "peach") is a colour here."""
        if not tag.has("color"):
            alone = surface and not tag.has("thing")
            return alone or self._ends_surface(surface, phrase) or self._heads_background(self.at + 1)
        if not tag.has("thing"):
            return True
        following = self.tags[self.at + 1] if self.at + 1 < len(self.tags) else None
        if self._ends_surface(surface, phrase) or self._is_said_of_it(phrase):
            return True
        if following is None:
            return False
        if following.has(
            "thing", "name", "background noun", "pattern", "sky", "ground", "color", "filler"
        ) and not following.has("of"):
            return True
        return not following.readings and not tag.glued

    def _is_said_of_it(self, phrase: Phrase) -> bool:
        """ "a goat, orange", "goats, all orange", "the goat is orange", unlike "a lemon and an orange"."""
        before = self.tags[self.at - 1] if self.at else None
        things = self.meaning.things
        if before is None or phrase.article or phrase.number:
            return False
        if not things:
            return self.taken is not None and before.has("but", "sorry")  # "a black pig? no, make it orange"
        if things[-1].color is not None:
            return False
        if before.has("copula", "but", "opening") or before.get("article") == "each":
            return True
        return before.get("break") in (",", "，") and things[-1].number is not None and self.clause == len(things)

    def _ends_surface(self, surface: bool, phrase: Phrase) -> bool:
        """ "on peach", "against peach for a card", if no noun follows."""
        following = self.tags[self.at + 1] if self.at + 1 < len(self.tags) else None
        if not surface or phrase.article is not None:
            return False
        return following is None or (bool(following.readings) and not following.has("thing", "name", *COLORS))

    def _heads_background(self, at: int) -> bool:
        """Whether the words from here on lead to a background."""
        while at < len(self.tags):
            tag = self.tags[at]
            if tag.has("background noun", "pattern", "sky", "ground", "background to", "background from"):
                return True
            if not tag.has("color", "plain color", "and", "background plain", "filler") or tag.has("thing"):
                return False
            at += 1
        return False

    def _take_head(self, tag: Tag, phrase: Phrase, surface: bool) -> None:
        if not (tag.has("thing") and tag.readings["thing"][0] in SIGNS):
            phrase.lower_capitals()
        if tag.has("trigger"):
            phrase.head, phrase.name = "thing", tag.text
            self.at += 1
        elif tag.has("thing"):
            if phrase.adjectives and (better := self.lookup(" ".join([*phrase.adjectives, tag.text]))):
                phrase.head, phrase.name, phrase.adjectives = "thing", better, []
            else:
                phrase.head = "thing"
                phrase.name, phrase.plural = tag.readings["thing"]
            self.at += 1
            self._take_compound(phrase, tag)
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

    def _take_compound(self, phrase: Phrase, tag: Tag) -> None:
        """ "cat food" is not a cat: a known thing before an unknown noun is part of a name."""
        following = self.tag()
        if following is None or following.readings or self.words.code != "en":
            return
        word = following.text.lower()
        if word.endswith(("ing", "ed")) or nearest(word) is None or phrase.plural:
            return
        phrase.head, phrase.name, phrase.plural = "unknown", f"{tag.text.lower()} {word}", False
        self.at += 1

    def _take_following(self, phrase: Phrase) -> None:
        """Adjectives after their noun: "una manzana roja"."""
        while (tag := self.tag()) is not None:
            kinds = ("plain color",) if phrase.head == "background" else ("color",)
            if not tag.has("break") and tag.has(*(kinds if tag.has("thing") else COLORS)):
                phrase.colors.append(tag)
            elif tag.has("and") and phrase.colors and self._ends_in_color(self.at + 1):
                pass
            elif tag.has("size"):
                phrase.size = tag.readings["size"]
            elif tag.has("pattern") and phrase.head == "background":
                phrase.pattern = tag.readings["pattern"]
            elif not (tag.has("filler", "background plain") and not tag.has("of", "relation", "side", "and", "break")):
                break
            self.at += 1

    def _ends_in_color(self, at: int) -> bool:
        """Whether there is a colour at a tag with no thing after it that it could modify: "una mela rossa e bianca"."""
        following = self.tags[at + 1] if at + 1 < len(self.tags) else None
        alone = following is None or not (following.has("thing", "name", "color") or not following.readings)
        return at < len(self.tags) and self.tags[at].has("color") and alone

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
        if phrase.article or phrase.number or phrase.colors or phrase.size or phrase.several or phrase.some:
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

    def _is_named(self, at: int) -> bool:
        """Whether a known thing follows immediately."""
        return at < len(self.tags) and self.tags[at].has("thing", "name")

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
