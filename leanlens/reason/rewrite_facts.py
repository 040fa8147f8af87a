"""Lists what a prompt states in the terms that a rewrite is compared by: numbers, colours, quoted strings, names and
what is not to be seen."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from leanlens.reason.nearest import correct, is_word
from leanlens.reason.spelling import fold, is_unspaced
from leanlens.reason.weights import without_weights
from leanlens.reason.words import Tag, tag, words_of

_QUOTED = re.compile(
    r'(?<![0-9A-Za-z])"([^"]{1,400})"|“([^”]{1,400})”|„([^“”"]{1,400})[“”"]|«\s*([^»]{1,400}?)\s*»|»\s*([^«]{1,400}?)\s*«'
    r"|‹\s*([^›]{1,400}?)\s*›|「([^」]{1,400})」|『([^』]{1,400})』|《([^》]{1,400})》"
    r"|(?<![\w])'(?!n')([^']{1,400})'(?!\w)|(?<!\w)‘([^’]{1,400})’(?!\w)|``([^`']{1,400})''"
)
_FLAGS = re.compile(
    r"(?:^|\s)--\w+(?:\s+[\w:.]+)?|\b(?:2|4|8|12|16|32)k\b|\b[23]d\b"
    r"|\b\d+\s?:\s?\d+ (?:aspect|ratio)|aspect ratio \d+\s?:\s?\d+",
    re.I,
)
_THOUSANDS = re.compile(r"(?<=\d)[,.](?=\d{3}\b)")
_CAPITAL = re.compile(r"[^\W\d_][\w’'.&-]*[^\W_]|[^\W\d_]")
_ENDS = '.!?:;…。！？：；\n"“”«»()'
_HANDLE = re.compile(r"(?<!\w)@[A-Za-z0-9_.]{2,40}\b")
_MODEL = re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\b")
_MEASURE = re.compile(r"(?i)^\d+(?:st|nd|rd|th|s|mm|cm|m|km|px|k|x\d+|p|d|fps|years?|y|yo|iso|-?year-?olds?|-.*)$")
_CAMEL = re.compile(r"\b(?:[a-z]+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*)\b")
_ORDINALS = {
    word: number for number, word in enumerate(
        (
            "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
            "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
            "twentieth",
        ), 3,
    )
}  # fmt: skip
_COPULAS = {
    "is", "are", "was", "were", "ist", "sind", "est", "sont", "es", "son", "è", "sono", "é", "são", "zijn", "jest",
    "są", "это",
}  # fmt: skip
_NO_NAMES = {"i", "i'm", "i'd", "i've", "i'll", "ok"}
NEAR = 4  # tags after a number or a colour in which its thing is looked for
COMMON_NOUNS_HAVE_CAPITALS = ("de",)


@dataclass(frozen=True)
class Mention:
    """A thing in a text: its name, whether its form is plural, and where its tag is."""

    name: str
    plural: bool
    at: int


class Facts:
    """What a text in a language states.

    Attributes:
        quoted: the strings in quotation marks, as written.
        plain: the text without them, without weights and without the flags of other programs.
    """

    def __init__(self, text: str, language: str):
        self.text, self.language = text, language
        self.quoted = quoted_strings(text)
        self.plain = _FLAGS.sub(" ", without_weights(without_quoted(text)))

    @cached_property
    def tags(self) -> list[Tag]:
        """The words of the text outside of quotation marks."""
        return tag(_THOUSANDS.sub("", self.plain), words_of(self.language))

    @cached_property
    def mentions(self) -> list[Mention]:
        """The things of the text, known or not."""
        return [one for at, _ in enumerate(self.tags) if (one := self._mention(at)) is not None]

    def _mention(self, at: int) -> Mention | None:
        this = self.tags[at]
        reading = this.get("thing") or this.get("name")
        if reading is not None:
            plural = bool(reading[1]) or (
                self.language == "en" and fold(this.text).endswith("ies")
            )  # "puppies" of "dog"
            return Mention(str(reading[0]), plural, at)
        word = fold(this.text)
        if this.readings or not word.isalpha() or is_unspaced(word) or len(word) < 3:
            return None
        return Mention(stem(word), word.endswith("s"), at)

    @cached_property
    def numbers(self) -> dict[int, set[str]]:
        """Each number that is stated, with the names of the things that follow it."""
        found: dict[int, set[str]] = defaultdict(set)
        before = 0
        for at, this in enumerate(self.tags):
            value = self._number(this)
            if value is None:
                before = 0
                continue
            found[value] |= self._counted(at)
            if 20 <= before < 100 and before % 10 == 0 and 0 < value < 10:
                found[before + value] |= found[value]
            before = value
        for value in self.digits:
            found.setdefault(value, set())
        return dict(found)

    @cached_property
    def digits(self) -> set[int]:
        """The numbers that are written in digits, also in a unit or a date, outside of quotation marks."""
        return _digits(self.plain)

    @cached_property
    def all_digits(self) -> set[int]:
        """The numbers that are written in digits anywhere."""
        return _digits(self.text)

    def _number(self, this: Tag) -> int | None:
        value = this.get("number")
        if value == "pair" or (this.has("each") and fold(this.text) not in ("all", "alle", "allesamt")):
            return 2
        if isinstance(value, int):
            return value
        if this.text.isdecimal() and len(this.text) < 12:
            return int(this.text)
        return (
            _ORDINALS.get(fold(this.text))
            if self.language == "en" and fold(this.text) not in ("first", "second")
            else None
        )

    def _counted(self, at: int) -> set[str]:
        return {one.name for one in self._after(at) if not self.is_modifier(one)}

    def is_modifier(self, mention: Mention) -> bool:
        """Whether it is the first half of a compound, as in "four cat eyes"."""
        following = self._mention(mention.at + 1) if mention.at + 1 < len(self.tags) else None
        return not mention.plural and following is not None and following.plural

    def _after(self, at: int) -> Iterator[Mention]:
        for index in range(at + 1, min(at + 1 + NEAR, len(self.tags))):
            if self.tags[index].has("break", "relation", "and", "article", "number"):
                return
            if (one := self._mention(index)) is not None:
                yield one

    @cached_property
    def colors(self) -> dict[str, str]:
        """Each colour by its name in English, with the word of the text."""
        return {color: self.tags[at].text for at, color in self._colored()}

    def _colored(self) -> Iterator[tuple[int, str]]:
        for at, this in enumerate(self.tags):
            color = this.get("color") or this.get("plain color")
            if isinstance(color, str) and not self._is_a_thing_here(at):
                yield at, color

    def _is_a_thing_here(self, at: int) -> bool:
        """Whether a word that is a thing and a colour, such as "orange", is the thing."""
        if not self.tags[at].has("thing", "name"):
            return False
        following = self.tags[at + 1] if at + 1 < len(self.tags) else None
        return following is None or not (following.has("thing", "name") or not following.readings)

    @cached_property
    def colored(self) -> dict[str, set[str]]:
        """The colours of each thing that has one beside it."""
        found: dict[str, set[str]] = defaultdict(set)
        for at, color in self._colored():
            for name in self._owners(at):
                found[name].add(color)
        return dict(found)

    def _owners(self, at: int) -> set[str]:
        order = words_of(self.language).adjectives
        if order == "after":
            near = self._mention(at - 1) if at else None
            return {near.name} if near else set()
        if at > 1 and fold(self.tags[at - 1].text) in _COPULAS:
            near = self._mention(at - 2)
            return {near.name} if near else set()
        for one in self._after(at):
            if self.tags[one.at].has("thing", "name") and not self.is_modifier(one):
                return {one.name}
        return set()

    @cached_property
    def negated(self) -> list[str]:
        """Names of the things that are not to be seen."""
        found = []
        for at, this in enumerate(self.tags):
            if not this.has("not") or (at + 1 < len(self.tags) and self.tags[at + 1].text.isdecimal()):
                continue
            near = list(self._denied(at))
            if near:
                known = [one for one in near if self.tags[one.at].has("thing", "name")]
                found.append((known or near[-1:])[0].name)
        return found

    def _denied(self, at: int) -> Iterator[Mention]:
        for index in range(at + 1, min(at + 1 + NEAR, len(self.tags))):
            this = self.tags[index]
            if this.has("article") or fold(this.text) in ("any", "irgendein"):
                continue
            if this.has("break", "relation", "and", "number", "preposition", "not") or fold(this.text) in (
                "only",
                "just",
                "but",
            ):
                return
            if (one := self._mention(index)) is not None:
                yield one

    @cached_property
    def names(self) -> list[str]:
        """Handles, model designations and words with a capital where the language does not ask for one."""
        text = self.plain
        found = [
            *_HANDLE.findall(text),
            *(word for word in _MODEL.findall(text) if not _MEASURE.match(word)),
            *_CAMEL.findall(text),
        ]
        return list(dict.fromkeys([*found, *_capitalised(text, self.language)]))


def _capitalised(text: str, language: str) -> Iterator[str]:
    words = list(_CAPITAL.finditer(text))
    capitals = [match for match in words if match[0][0].isupper() and fold(match[0]) not in _NO_NAMES]
    if language not in COMMON_NOUNS_HAVE_CAPITALS and len(capitals) > 3 and 2 * len(capitals) > len(words):
        return  # a title, in which every word has a capital
    for match in capitals:
        first = _begins_sentence(text, match.start())
        if language in COMMON_NOUNS_HAVE_CAPITALS:
            beside = [other for other in capitals if other is not match and _adjoins(text, match, other)]
            if beside and not first and not any(_begins_sentence(text, other.start()) for other in beside):
                yield match[0]
        elif not first or (language == "en" and _is_no_word(match[0])):
            yield re.sub(r"['’]s?$", "", match[0])


def _adjoins(text: str, one: re.Match[str], other: re.Match[str]) -> bool:
    low, high = sorted((one, other), key=lambda match: match.start())
    return text[low.end() : high.start()] == " "


def _begins_sentence(text: str, at: int) -> bool:
    before = text[:at].rstrip(" \t*-–—([")
    return not before or before[-1] in _ENDS


def _is_no_word(word: str) -> bool:
    plain = re.sub(r"['’]s$", "", word).lower()
    return (
        plain.isalpha()
        and len(plain) > 3
        and not is_word(plain)
        and not is_word(plain.removesuffix("s"))
        and correct(plain) is None
        and not words_of("en").longest([plain], 0)
    )


def _digits(text: str) -> set[int]:
    return {int(digits) for digits in re.findall(r"[0-9]{1,12}", _THOUSANDS.sub("", text))}


def quoted_strings(text: str) -> list[str]:
    """The strings that stand in quotation marks of any style."""
    found = [next(filter(None, match.groups()), "").strip() for match in _QUOTED.finditer(text)]
    return [one for one in found if one]


def without_quoted(text: str) -> str:
    """A text with a space in place of each string in quotation marks."""
    return _QUOTED.sub(" ", text)


def stem(word: str) -> str:
    """The beginning of a word that its forms share; at least four letters."""
    return word[: max(4, len(word) - 2)]


def says(words: Sequence[str], text: str) -> bool:
    """Whether a text has one of the words as whole words."""
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words)
