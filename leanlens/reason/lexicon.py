"""Looks up names of things in other languages, by script, from Unicode's CLDR and our own tables.

docs/make_lexicon.py generates the files. Each is read when a prompt in its script arrives.
"""

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from leanlens.files import read_json

FOLDER = Path(__file__).parent / "languages" / "lexicon"
MARKER = "*"  # a word that is not a thing: "ein", "und", "rot"
NOUN = "-"  # a noun that is not a thing: "Hintergrund", "Wiese"

# Script -> its only, or most widely used, language.
FIRST = {
    "kana": "ja", "hangul": "ko", "han": "zh", "greek": "el", "hebrew": "he", "armenian": "hy", "georgian": "ka",
    "burmese": "my", "khmer": "km", "cyrillic": "ru", "arabic": "ar", "thai": "th",
}  # fmt: skip


@cache
def concepts() -> tuple[str, ...]:
    """The concept names that the lexicon refers to by index."""
    return tuple(read_json(FOLDER / "concepts.json")["concepts"])


@cache
def emoji() -> dict[str, str]:
    """Emoji without variation selectors -> English words for it."""
    return read_json(FOLDER / "emoji.json")["words"]


@cache
def languages() -> dict[str, list[str]]:
    """Language code -> scripts of its words, the main one first."""
    return read_json(FOLDER / "concepts.json")["languages"]


@cache
def lines(script: str) -> list[str]:
    """Sorted lines "phrase<tab>concept=language.language ..."; empty for a script without a file."""
    path = FOLDER / f"{script}.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


@lru_cache(maxsize=4096)
def speakers(phrase: str, script: str) -> dict[str, str]:
    """Language -> meaning of the phrase in it: a concept, "=red" for a colour, or MARKER."""
    rows = lines(script)
    at = bisect_left(rows, f"{phrase}\t")
    if at == len(rows) or not rows[at].startswith(f"{phrase}\t"):
        return {}
    found: dict[str, str] = {}
    for name, spoken in _cells(rows[at]):
        for language in spoken:
            if found.get(language, MARKER) in (MARKER, NOUN):
                found[language] = name
    return found


def words_in(language: str) -> Iterator[tuple[str, str]]:
    """All pairs (phrase, concept) and (phrase, "=red") of a language."""
    for script in languages().get(language, ()):
        first, later = f"={language}", f".{language}"
        for row in [row for row in lines(script) if first in row or later in row]:
            phrase = row.partition("\t")[0]
            for name, spoken in _cells(row):
                if language in spoken and name not in (MARKER, NOUN):
                    yield phrase, name


def _cells(row: str) -> Iterator[tuple[str, list[str]]]:
    for cell in row.partition("\t")[2].split():
        name, _, spoken = cell.rpartition("=")
        yield (concepts()[int(name)] if name.isdigit() else name), spoken.split(".")
