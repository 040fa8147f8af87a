"""The words of a language, and a prompt cut into tokens that carry what each word may mean.

Comes in: a prompt, the code of a language. Goes out: `Tag`s, each a word or a phrase with its readings. Knows nothing
of grammar: which reading holds is decided where phrases are put together.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from leanlens.scenes.icons import PARTS
from leanlens.scenes.names import pluralize, read_vocabulary
from leanlens.scenes.shapes import CONTAINERS, SUPPORTS

LANGUAGES = Path(__file__).parent / "languages"
NAMES = Path(__file__).parent / "names.txt"  # of drawable things that the model does not know, one a line
SIGNS = ("sign", "label")
# A word, a number, a mark, or one letter of a script that is written without spaces.
_TOKEN = re.compile(
    r"\d+|[぀-ヿ㐀-鿿豈-﫿]|[^\W\d_぀-ヿ㐀-鿿豈-﫿]+(?:['’][^\W\d_]+)*"
    r"|[^\w\s]"
)
QUOTED = re.compile(
    r'"([^"]{1,80})"|“([^”]{1,80})”|„([^“”]{1,80})[“”]|«\s*([^»]{1,80}?)\s*»|「([^」]{1,80})」|『([^』]{1,80})』'
    r"|(?<![\w])'([^']{1,80})'(?!\w)|(?<!\w)‘([^’]{1,80})’(?!\w)"
)
_BREAKS = ".,;:!?)]}/|\n…-–—。，、；：！？）"
_JOINED = {"-", "‐", "‑"}


@dataclass(frozen=True)
class Tag:
    """A word or a phrase.

    Attributes:
        readings: kind -> value, as the language's table has them: {"color": "red"}; empty for an unknown word.
        text: as it was typed.
        capital: it is typed in capitals throughout, and has two letters or digits at least.
        glued: a hyphen ties it to what follows.
    """

    readings: Mapping[str, Any]
    text: str
    capital: bool = False
    glued: bool = False

    def get(self, kind: str) -> Any:
        """The value of a reading, or None."""
        return self.readings.get(kind)

    def has(self, *kinds: str) -> bool:
        """Whether it can be read as one of these."""
        return any(kind in self.readings for kind in kinds)


@dataclass
class Words:
    """A language's phrases: first token -> (tokens, readings), the longest first."""

    code: str
    adjectives: str
    phrases: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = field(default_factory=dict)

    def add(self, phrase: str, kind: str, value: Any) -> None:
        """Give a phrase a reading; the first value of a kind stays."""
        tokens = tuple(split(phrase))
        row = self.phrases.setdefault(tokens[0], [])
        for known, readings in row:
            if known == tokens:
                readings.setdefault(kind, value)
                return
        row.append((tokens, {kind: value}))

    def longest(self, tokens: Sequence[str], start: int) -> tuple[int, dict[str, Any]] | None:
        """How many tokens the longest phrase at `start` has, and its readings."""
        for phrase, readings in self.phrases.get(tokens[start], ()):
            if tuple(tokens[start : start + len(phrase)]) == phrase:
                return len(phrase), readings
        return None

    def finish(self) -> "Words":
        for row in self.phrases.values():
            row.sort(key=lambda entry: -len(entry[0]))
        return self


def split(phrase: str) -> list[str]:
    """Tokens of a phrase, hyphens left out."""
    return [token for token in _TOKEN.findall(phrase.lower()) if token not in _JOINED]


@cache
def known_things() -> tuple[str, ...]:
    """Names of all that the model can be asked for, signs and shapes among them."""
    concepts = tomllib.loads(PARTS["common"].read_text(encoding="utf-8"))["concepts"]
    return (*concepts, *CONTAINERS, *SUPPORTS, *SIGNS)


@cache
def words_of(code: str) -> Words:
    """The table of a language.

    Raises:
        ValueError: there is none.
    """
    path = LANGUAGES / f"{code}.toml"
    if not path.is_file():
        raise ValueError(f"language {code!r} has no table; there are {', '.join(sorted(languages()))}")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    words = Words(code, table["adjectives"])
    if code == "en":
        _add_names(words)
    for kind, value, phrases in _entries(table):
        for phrase in phrases:
            words.add(phrase, kind, value)
    return words.finish()


@cache
def languages() -> tuple[str, ...]:
    """Codes of the languages that have a table with grammar."""
    return tuple(sorted(path.stem for path in LANGUAGES.glob("*.toml")))


# Table -> kind of reading; in [words] and [background] each line is a kind of its own.
_KINDS = {
    "numbers": "number", "colors": "color", "backgrounds": "plain color", "skies": "sky color",
    "grounds": "ground color", "ground": "ground", "sky": "sky", "patterns": "pattern", "relations": "relation",
    "adverbs": "adverb", "sides": "side", "rows": "row", "sizes": "size", "styles": "style",
    "other_styles": "other style", "articles": "article", "things": "thing",
}  # fmt: skip


def _entries(table: dict[str, Any]) -> Iterator[tuple[str, Any, list[str]]]:
    for section, rows in table.items():
        if not isinstance(rows, dict):
            continue
        for name, phrases in rows.items():
            if section in ("words", "background"):
                yield ("background " * (section == "background") + name, name, phrases)
            elif section == "things":
                yield ("thing", (name, False), phrases)
            else:
                yield (_KINDS[section], int(name) if name.isdigit() else name, phrases)


def _add_names(words: Words) -> None:
    """English names and plurals of everything that is known."""
    synonyms = read_vocabulary()["synonyms"]
    for concept in known_things():
        for name in (concept, *synonyms.get(concept, ())):
            words.add(name, "thing", (concept, False))
            words.add(pluralize(name), "thing", (concept, True))
    for name in NAMES.read_text(encoding="utf-8").splitlines():
        words.add(name, "name", (name, False))
        words.add(pluralize(name), "name", (name, True))


def tag(prompt: str, words: Words, triggers: Sequence[str] = ()) -> list[Tag]:
    """A prompt's words and phrases, its quoted strings and its marks, in order.

    Args:
        triggers: words that are known beside the table's, kept as they are typed; they have the reading "trigger".

    A quoted string is a tag with the reading "quote"; a mark that ends a clause has the reading "break", "?" and "."
    and a new line also "end".
    """
    found: list[Tag] = []
    at = 0
    for match in QUOTED.finditer(prompt):
        found += _tag_outside_quotes(prompt[at : match.start()], words, triggers)
        string = next(group for group in match.groups() if group is not None)
        found.append(Tag({"quote": string}, string))
        at = match.end()
    return found + _tag_outside_quotes(prompt[at:], words, triggers)


def _tag_outside_quotes(text: str, words: Words, triggers: Sequence[str]) -> list[Tag]:
    known = sorted((one.strip() for one in triggers if one.strip()), key=len, reverse=True)
    if not known:
        return _tag_plain(text, words)
    found: list[Tag] = []
    at = 0
    for match in re.finditer(rf"(?<!\w)(?:{'|'.join(map(re.escape, known))})(?!\w)", text, re.IGNORECASE):
        found += [*_tag_plain(text[at : match.start()], words), Tag({"trigger": match[0]}, match[0])]
        at = match.end()
    return found + _tag_plain(text[at:], words)


def _tag_plain(text: str, words: Words) -> list[Tag]:
    raw = [match[0] for match in _TOKEN.finditer(text.replace("\n", " ; "))]
    spaced = _spaced_hyphens(text)
    tokens: list[str] = []
    kept: list[str] = []
    glued: list[bool] = []
    hyphen = 0
    for token in raw:
        if token in _JOINED:
            is_dash = spaced[hyphen]
            hyphen += 1
            if not is_dash:
                if glued:
                    glued[-1] = True
                continue
        tokens.append(token.lower().replace("’", "'"))
        kept.append(token)
        glued.append(False)
    return list(_match(tokens, kept, glued, words))


def _spaced_hyphens(text: str) -> list[bool]:
    """For each hyphen, whether it stands between spaces, as a dash does."""
    return [
        not (match.start() and text[match.start() - 1].isalnum() and text[match.end() : match.end() + 1].isalnum())
        for match in re.finditer("[-‐‑]", text)
    ]


def _match(tokens: list[str], kept: list[str], glued: list[bool], words: Words) -> Iterator[Tag]:
    at = 0
    while at < len(tokens):
        token = tokens[at]
        hit = words.longest(tokens, at)
        if at and glued[at - 1] and hit is not None and "suffix" in hit[1]:
            at += hit[0]
            continue
        if hit is not None:
            length, readings = hit
            typed = " ".join(kept[at : at + length])
            if _has_suffix(tokens, glued, at + length, words) and not {"color", "plain color"} & readings.keys():
                readings = {"filler": "filler"}  # "book-ish", "plate-like"
            yield Tag(readings, typed, _is_capital(typed), glued[at + length - 1])
            at += length
            continue
        if token in _BREAKS:
            ends = token in ".?!;\n。；？！…"
            yield Tag({"break": token, **({"end": token} if ends else {})}, token)
        elif token.isdigit():
            yield Tag({"number": int(token)}, token, len(token) > 1, glued[at])
        elif re.match(r"\w", token) or not token.isascii():
            readings = {"filler": "filler"} if "'" in token or _has_suffix(tokens, glued, at + 1, words) else {}
            yield Tag(readings, kept[at], _is_capital(kept[at]), glued[at])
        at += 1


def _has_suffix(tokens: list[str], glued: list[bool], at: int, words: Words) -> bool:
    """Whether a hyphen ties the token before `at` to a suffix such as "-like"."""
    if at >= len(tokens) or not glued[at - 1]:
        return False
    hit = words.longest(tokens, at)
    return hit is not None and "suffix" in hit[1]


def _is_capital(typed: str) -> bool:
    letters = typed.replace(" ", "")
    return len(letters) > 1 and letters == letters.upper() and letters != letters.lower()
