"""Splits a prompt into tags: words and phrases of a language, each with all of its possible readings.

Which reading applies is decided later, when phrases are parsed.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from leanlens.reason import lexicon
from leanlens.reason.emoji import Piece, split_emoji
from leanlens.reason.measures import split_measures
from leanlens.reason.nearest import LONG, SHORTEST_TYPO, correct, count_edits, is_word, nearest, read_words
from leanlens.reason.spelling import fold, is_unspaced, lower, nearest_form, script_of, without_ending
from leanlens.scenes.icons import PARTS
from leanlens.scenes.names import pluralize, read_vocabulary
from leanlens.scenes.shapes import CONTAINERS, SUPPORTS

LANGUAGES = Path(__file__).parent / "languages"
NAMES = Path(__file__).parent / "names.txt"  # drawable things that the model does not know, one per line
SIGNS = ("sign", "label")
MAX_SPELLED = 80  # words of a prompt that are checked for typing errors
# A word, a number, a mark, or one letter of a script without spaces.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Combining characters of a word: accents, Hebrew and Arabic points, the vowels of Indic scripts.
_MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0981-\u0983"
    "\u09bc-\u09d7\u0a01-\u0a4d\u0a70\u0a71\u0a81-\u0a83\u0abc-\u0acd\u0b01-\u0b03\u0b3c-\u0b57\u0b82\u0bbe-\u0bd7"
    "\u0c00-\u0c04\u0c3e-\u0c56\u0c81-\u0c83\u0cbc-\u0cd6\u0d00-\u0d03\u0d3b-\u0d57\u0d82-\u0d83\u0dca-\u0df3"
)
_WORD = f"(?:[^\\W\\d_{_UNSPACED}]|[{_MARKS}])"
_TOKEN = re.compile(rf"\d+|[{_UNSPACED}]|{_WORD}+(?:['’]{_WORD}+)*|[^\w\s]")
_ELISION = re.compile(r"(?<=[^\W\d_])['’](?=\w)")  # "l'ours", "d'une"
QUOTED = re.compile(
    r'"([^"]{1,80})"|“([^”]{1,80})”|„([^“”]{1,80})[“”]|«\s*([^»]{1,80}?)\s*»|「([^」]{1,80})」|『([^』]{1,80})』'
    r"|(?<![\w])'([^']{1,80})'(?!\w)|(?<!\w)‘([^’]{1,80})’(?!\w)"
)
_BREAKS = ".,;:!?)]}/|\n…-–—。，、；：！？）¿¡"
_JOINED = {"-", "‐", "‑"}


@dataclass(frozen=True)
class Tag:
    """A word or a phrase.

    Attributes:
        readings: kind -> value, as in the language's table: {"color": "red"}; empty for an unknown word.
        text: as typed.
        capital: all in capitals, with at least two letters or digits.
        glued: followed by a hyphen.
    """

    readings: Mapping[str, Any]
    text: str
    capital: bool = False
    glued: bool = False

    def get(self, kind: str) -> Any:
        """The value of a reading, or None."""
        return self.readings.get(kind)

    def has(self, *kinds: str) -> bool:
        """Whether it has one of these readings."""
        return any(kind in self.readings for kind in kinds)


@dataclass
class Words:
    """A language's phrases: first token -> (tokens, readings), the longest first.

    Attributes:
        adjectives: "before" the noun, "after" it or "both".
        localisers: the object of a preposition comes before it, as in Chinese.
        elided: an article may be joined to its noun by an apostrophe.
        stripped: inflectional endings, removed if a word is not found; "*" for any.
        prefixes: the same for prefixes, as in Arabic.
        plurals: plural endings.
        marked: accents distinguish words, as in Vietnamese.
        joined: words written together with the previous word, such as "and" in Korean.
    """

    code: str
    adjectives: str
    localisers: bool = False
    elided: bool = False
    stripped: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    plurals: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    marked: bool = False
    phrases: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = field(default_factory=dict)
    stems: dict[str, list[str]] = field(default_factory=dict)  # first three letters -> known words
    tokens: frozenset[str] = frozenset()

    def add(self, phrase: str, kind: str, value: Any, new: bool = False) -> None:
        """Add a reading to a phrase; the first value of a kind wins. With `new`, only if it has none."""
        tokens = tuple(split(phrase, self.elided, self.marked))
        if not tokens:
            return
        row = self.phrases.setdefault(tokens[0], [])
        for known, readings in row:
            if known == tokens:
                if not new:
                    readings.setdefault(kind, value)
                return
        row.append((tokens, {kind: value}))

    def longest(self, tokens: Sequence[str], start: int) -> tuple[int, dict[str, Any]] | None:
        """The length in tokens of the longest phrase at `start`, and its readings."""
        for phrase, readings in self.phrases.get(tokens[start], ()):
            if tuple(tokens[start : start + len(phrase)]) == phrase:
                return len(phrase), readings
        return self._inflected(tokens[start]) if self.stripped else None

    def _inflected(self, token: str) -> tuple[int, dict[str, Any]] | None:
        """A word that is found without its ending, or that has the same beginning as a known one."""
        stems = [token[len(prefix) :] for prefix in self.prefixes if token.startswith(prefix) and token != prefix]
        for stem in [*stems, *without_ending(token, self.stripped)]:
            for phrase, readings in self.phrases.get(stem, ()):
                if len(phrase) == 1:
                    return 1, readings
        if "*" not in self.stripped or token in self.phrases:
            return None
        for stem in [token, *stems]:
            if known := nearest_form(stem, self.stems.get(stem[:3], ())):
                return 1, self._as_form(stem, known, self.phrases[known][-1][1])
        return None

    def parts(self, token: str) -> list[str]:
        """The token, or the word and the words joined to it."""
        if token not in self.phrases:
            for ending in self.joined:
                if token.endswith(ending) and token[: -len(ending)] in self.phrases:
                    return [token[: -len(ending)], ending]
        return [token]

    def _as_form(self, word: str, known: str, readings: dict[str, Any]) -> dict[str, Any]:
        """The readings of a form of a known word: plural if the form is."""
        kind = "thing" if "thing" in readings else "name"
        if kind in readings and len(word) > len(known) and word.endswith(self.plurals):
            return {kind: (readings[kind][0], True)}
        return readings

    def finish(self) -> "Words":
        """Sort the longest phrases first, and count their words."""
        for first, row in self.phrases.items():
            row.sort(key=lambda entry: -len(entry[0]))
            if "*" in self.stripped and len(row[-1][0]) == 1 and len(first) > 2:
                self.stems.setdefault(first[:3], []).append(first)
        self.tokens = frozenset(token for row in self.phrases.values() for phrase, _ in row for token in phrase)
        return self


def split(phrase: str, elided: bool = False, marked: bool = False) -> list[str]:
    """Split a phrase into lookup tokens, without hyphens."""
    spell = lower if marked else fold
    if phrase.isalpha() and not is_unspaced(phrase):
        return [spell(phrase)]
    text = _ELISION.sub("' ", phrase) if elided else phrase
    return [spell(token) for token in _TOKEN.findall(text) if token not in _JOINED]


@cache
def known_things(library: str = "common") -> tuple[str, ...]:
    """Names of everything that a model trained on a library can draw, including signs and shapes."""
    concepts = tomllib.loads(PARTS[library].read_text(encoding="utf-8"))["concepts"]
    return (*concepts, *CONTAINERS, *SUPPORTS, *SIGNS)


@cache
def words_of(code: str) -> Words:
    """The word table of a language.

    Raises:
        ValueError: there is no such table.
    """
    path = LANGUAGES / f"{code}.toml"
    if not path.is_file() and code not in lexicon.languages():
        raise ValueError(f"unknown language {code!r}: expected one of {', '.join(sorted(lexicon.languages()))}")
    table = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    endings = table.get("endings", ())
    words = Words(
        code,
        table.get("adjectives", "both"),
        table.get("order") == "localisers",
        table.get("elided", False),
        tuple(fold(ending) for ending in (*endings, *table.get("stripped", ("*",) if not table else ())) if ending),
        tuple(fold(prefix) for prefix in table.get("prefixes", ())),
        tuple(table.get("plurals", ())),
        tuple(table.get("joined", ())),
        table.get("marked", False),
    )
    if code == "en":
        _add_names(words)
    for kind, value, phrases in _entries(table):
        for phrase in phrases:
            for form in _forms(phrase, endings):
                words.add(form, kind, value)
            if code == "en" and kind == "thing" and " of " not in value[0]:
                words.add(pluralize(phrase), kind, (value[0], True), new=True)
    if code != "en":
        _add_things(words, has_colors="colors" in table)
    return words.finish()


def _forms(phrase: str, endings: Sequence[str]) -> list[str]:
    """ "hell rot*" with each ending; a single word "rot*" without one, because endings of words are stripped."""
    stem = phrase.removesuffix("*")
    return [stem + ending for ending in endings] if stem != phrase and " " in stem else [stem]


def _add_things(words: Words, has_colors: bool) -> None:
    """Add a language's names of things: from its own list, then from Unicode."""
    path = LANGUAGES / "things" / f"{words.code}.txt"
    known = set(known_things())
    for line in path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else ():
        concept, _, forms = line.partition(": ")
        for at, phrases in enumerate(forms.split(" | ")):
            for phrase in phrases.split(", "):
                words.add(phrase, "thing" if concept in known else "name", (concept, at == 1))
    for phrase, concept in lexicon.words_in(words.code):
        if concept.startswith("="):
            if not has_colors:
                words.add(phrase, "color", concept[1:], new=True)
        else:
            words.add(phrase, "thing" if concept in known else "name", (concept, False), new=True)


@cache
def languages() -> tuple[str, ...]:
    """Codes of the languages with a grammar table."""
    return tuple(sorted(path.stem for path in LANGUAGES.glob("*.toml")))


# Table -> kind of reading; in [words] and [background] each line is a kind of its own.
_KINDS = {
    "numbers": "number", "colors": "color", "backgrounds": "plain color", "skies": "sky color",
    "grounds": "ground color", "ground": "ground", "sky": "sky", "patterns": "pattern", "relations": "relation",
    "adverbs": "adverb", "sides": "side", "rows": "row", "sizes": "size", "styles": "style",
    "other_styles": "other style", "articles": "article", "things": "thing", "localisers": "localiser",
}  # fmt: skip


def _entries(table: dict[str, Any]) -> Iterator[tuple[str, Any, list[str]]]:
    for section, rows in table.items():
        if not isinstance(rows, dict):
            continue
        for name, phrases in rows.items():
            if section in ("words", "background"):
                yield ("background " * (section == "background") + name, name, phrases)
            elif section == "patterns" and name in ("vertical", "horizontal"):
                yield (f"background {name}", name, phrases)
            elif section == "things":
                yield ("thing", (name, False), phrases)
            else:
                yield (_KINDS[section], int(name) if name.isdigit() else name, phrases)


def _add_names(words: Words) -> None:
    """Add the English names and plurals of everything known."""
    synonyms = read_vocabulary()["synonyms"]
    for concept in known_things():
        for name in (concept, *synonyms.get(concept, ())):
            words.add(name, "thing", (concept, False))
            words.add(pluralize(name), "thing", (concept, True))
    unknown = NAMES.read_text(encoding="utf-8").splitlines()
    for name in unknown:
        words.add(name, "name", (name, False))
        words.add(pluralize(name), "name", (name, True))
    for name, concept in read_words().names.items():  # single words are looked up where nothing else is known of them
        if " " in name and name not in unknown:
            words.add(name, "thing", (concept, False))
            words.add(pluralize(name), "thing", (concept, True))


def tag(prompt: str, words: Words, triggers: Sequence[str] = ()) -> list[Tag]:
    """Tag a prompt: words, phrases, quoted strings and punctuation, in order.

    Args:
        triggers: known phrases in addition to the table's, kept as typed, with the reading "trigger".

    A quoted string has the reading "quote". Punctuation that ends a clause has the reading "break"; "?", "." and a new
    line also have "end".
    """
    found: list[Tag] = []
    at = 0
    for match in QUOTED.finditer(prompt):
        found += _tag_outside_quotes(prompt[at : match.start()], words, triggers)
        string = next(group for group in match.groups() if group is not None)
        found.append(Tag({"quote": string}, string))
        at = match.end()
    return _without_repeated(found + _tag_outside_quotes(prompt[at:], words, triggers))


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
    pieces = split_emoji(text)
    if not any(piece.words for piece in pieces):
        return _tag_words(text, words)
    found: list[Tag] = []
    for at, piece in enumerate(pieces):
        if not piece.words:
            found += _tag_words(piece.text, words)
            continue
        if at and pieces[at - 1].words:
            found.append(Tag({"and": "and"}, "and"))
        found += _tag_emoji(piece)
    return found


def _tag_emoji(piece: Piece) -> list[Tag]:
    """The English words of an emoji, with "emoji" in addition to their readings; "unknown" for a mood."""
    if not piece.known:
        return [Tag({"unknown": "unknown"}, piece.words)]
    tags = _tag_words(piece.words, words_of("en"))
    if not any(tag.has("thing", "name") for tag in tags):
        tags = [Tag({"name": (piece.words, False)}, piece.words)]
    number = [Tag({"number": piece.times}, str(piece.times))] if piece.times > 1 else []
    return [Tag({**tag.readings, "emoji": piece.text}, tag.text) for tag in [*number, *tags]]


def _without_repeated(tags: list[Tag]) -> list[Tag]:
    """Drop emoji of things that are also named in words: "a red apple 🍎"."""
    named = {tag.readings["thing"][0] for tag in tags if tag.has("thing") and not tag.has("emoji")}
    drawn = [tag for tag in tags if tag.has("emoji") and tag.has("thing")]
    doubled = {tag.readings["emoji"] for tag in drawn if tag.readings["thing"][0] in named}
    return [tag for tag in tags if tag.get("emoji") is None or tag.get("emoji") not in doubled]


def _tag_words(text: str, words: Words) -> list[Tag]:
    if words.code != "en":
        return _tag_part(text, words)
    found: list[Tag] = []
    for part, counts_nothing in split_measures(text):
        if counts_nothing:
            found.append(Tag({"filler": "filler", "measure": part}, part))
        else:
            found += _tag_part(part, words)
    return found


def _tag_part(text: str, words: Words) -> list[Tag]:
    if words.elided:
        text = _ELISION.sub("' ", text)
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
        for part in words.parts(lower(token) if words.marked else fold(token)):
            tokens.append(part)
            kept.append(token if token.lower() == part or not words.joined else part)
            glued.append(False)
    if len(tokens) <= MAX_SPELLED:
        tokens = [_spell(token, words) if words.code == "en" else _spell_other(token, words) for token in tokens]
    return list(_match(tokens, kept, glued, words))


def _spell(token: str, words: Words) -> str:
    """The known word that a token is a typing error of; otherwise the token."""
    if len(token) < SHORTEST_TYPO or token in words.tokens or not token.isalpha():
        return token
    return correct(token) or _like(token, words)


def _spell_other(token: str, words: Words) -> str:
    """The same for another language, for long words only, because its vocabulary is incomplete."""
    if len(token) < LONG or not token.isalpha() or is_unspaced(token):
        return token
    return token if words.longest([token], 0) else _like(token, words)


def _like(token: str, words: Words) -> str:
    """The unique word of the table at edit distance one; English words are never corrected."""
    if words.code == "en" and is_word(token):
        return token
    near = [word for word in words.tokens if abs(len(word) - len(token)) <= 1 and word[0] == token[0]]
    near = [word for word in near if len(word) >= SHORTEST_TYPO and count_edits(word, token, 1) <= 1]
    return near[0] if len(near) == 1 else token


def _spaced_hyphens(text: str) -> list[bool]:
    """For each hyphen, whether it is surrounded by spaces, like a dash."""
    return [
        not (match.start() and _in_word(text[match.start() - 1]) and _in_word(text[match.end() : match.end() + 1]))
        for match in re.finditer("[-‐‑]", text)
    ]


def _in_word(letter: str) -> bool:
    """Whether a letter may be next to a hyphen inside a word: "jack-o'-lantern"."""
    return letter.isalnum() or letter in "'’"


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
        elif token in "([":
            yield Tag({"opening": token}, token)
        elif token.isdigit():
            yield Tag({"number": int(token)}, token, len(token) > 1, glued[at])
        elif re.match(r"\w", token) or not token.isascii():
            readings = {}
            if "'" in token or _has_suffix(tokens, glued, at + 1, words):
                readings = {"filler": "filler"}
            elif words.code == "en" and len(tokens) <= MAX_SPELLED:
                readings = _other_name(token)
            typed = kept[at]
            while is_unspaced(token) and at + 1 < len(tokens) and _continues(tokens, at + 1, words):
                at += 1
                typed += kept[at]
            readings = readings or _of_other_script(typed, words)
            yield Tag(readings, typed, _is_capital(kept[at]), glued[at])
        at += 1


def _of_other_script(word: str, words: Words) -> dict[str, Any]:
    """The reading of a word in a script that the language does not use: "a black 猫"."""
    script = script_of(word)
    if word.isascii() or script in ("latin", "other", *lexicon.languages().get(words.code, ())):
        return {}
    other = words_of(lexicon.FIRST[script]) if script in lexicon.FIRST else None
    hit = other.longest(split(word), 0) if other else None
    return hit[1] if hit and hit[0] == len(split(word)) and {"thing", "name", "color"} & hit[1].keys() else {}


def _continues(tokens: list[str], at: int, words: Words) -> bool:
    """Whether a token without surrounding spaces continues with an unknown word."""
    return is_unspaced(tokens[at]) and tokens[at] not in _BREAKS and words.longest(tokens, at) is None


def _other_name(word: str) -> dict[str, Any]:
    """The reading of a word that is a synonym or a kind of a known thing: "puppy"."""
    near = nearest(word)
    if near is None or not near.same:
        return {}
    single = word.endswith("s") and not word.endswith("ss") and nearest(word[:-1])
    return {"thing": (near.concept, bool(single and single.same and single.concept == near.concept))}


def _has_suffix(tokens: list[str], glued: list[bool], at: int, words: Words) -> bool:
    """Whether a hyphen connects the token before `at` to a suffix such as "-like"."""
    if at >= len(tokens) or not glued[at - 1]:
        return False
    hit = words.longest(tokens, at)
    return hit is not None and "suffix" in hit[1]


def _is_capital(typed: str) -> bool:
    letters = typed.replace(" ", "")
    return len(letters) > 1 and letters == letters.upper() and letters != letters.lower()
