"""Normalises the spelling of a word for lookup (case, optional accents), and names its script."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_LATIN = {"ß": "ss", "ä": "ae", "ö": "oe", "ü": "ue", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d",
          "þ": "th", "ı": "i", "’": "'", "ʼ": "'", "`": "'", "أ": "ا", "إ": "ا", "آ": "ا", "ى": "ي", "ة": "ه", "ё": "е",
          "ک": "ك", "ی": "ي", "ـ": ""}  # fmt: skip
_SPELLED = str.maketrans(_LATIN | {chr(point): chr(point - 0x60) for point in range(0x30A1, 0x30F7)})
_KEPT = "\u0306"  # of й: another letter, not a mark
_SCRIPTS = (
    ("latin", 0x0041, 0x024F), ("latin", 0x1E00, 0x1EFF), ("greek", 0x0370, 0x03FF), ("cyrillic", 0x0400, 0x052F),
    ("armenian", 0x0530, 0x058F), ("hebrew", 0x0590, 0x05FF), ("arabic", 0x0600, 0x077F),
    ("indic", 0x0900, 0x0DFF), ("thai", 0x0E00, 0x0EFF), ("georgian", 0x10A0, 0x10FF), ("burmese", 0x1000, 0x109F),
    ("ethiopic", 0x1200, 0x139F), ("khmer", 0x1780, 0x17FF), ("kana", 0x3040, 0x30FF), ("hangul", 0xAC00, 0xD7AF),
    ("hangul", 0x1100, 0x11FF), ("han", 0x3400, 0x9FFF), ("han", 0xF900, 0xFAFF),
)  # fmt: skip
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def lower(text: str) -> str:
    """Lower case with all accents, each letter as one character (NFC)."""
    return unicodedata.normalize("NFC", text.lower())


@lru_cache(maxsize=8192)
def fold(text: str) -> str:
    """ "Äpfel" and "Aepfel" -> "aepfel", "corazón" -> "corazon", "ё" -> "е", "リンゴ" -> "りんご".

    Vowel signs of Indic scripts are kept, because they distinguish words.
    """
    text = lower(text)
    if text.isascii():
        return text
    text = text.translate(_SPELLED)
    if text.isascii():
        return text
    text = unicodedata.normalize("NFD", text)
    kept = [letter for letter in text if not _is_mark(letter)]
    return unicodedata.normalize("NFC", "".join(kept))


def _is_mark(letter: str) -> bool:
    """An accent of the European scripts, a vowel point of Arabic or Hebrew, the dot of borrowed Indic letters."""
    point = ord(letter)
    if 0x0300 <= point <= 0x036F:
        return letter != _KEPT
    return 0x0591 <= point <= 0x05C7 or 0x064B <= point <= 0x065F or point == 0x093C


def script_of(text: str) -> str:
    """The script of the first letter, such as "latin", "han", "kana"; "other" if there is none."""
    found = "other"
    for letter in text:
        point = ord(letter)
        for name, first, last in _SCRIPTS:
            if first <= point <= last and letter.isalpha():
                if name != "han":
                    return name
                found = "han"  # unless kana follow, which make it Japanese
                break
    return found


def is_unspaced(text: str) -> bool:
    """Whether its script has no spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese."""
    return _UNSPACED.search(text) is not None


def without_ending(word: str, endings: tuple[str, ...]) -> list[str]:
    """The word without each of its endings, the longest ending first."""
    found = [ending for ending in endings if word.endswith(ending) and len(word) > len(ending)]
    return [word[: -len(ending)] for ending in sorted(found, key=len, reverse=True)]


def nearest_form(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` is most likely an inflection of: same beginning, another ending."""
    best, most = None, 0
    for other in known:
        same = _same_letters(word, other)
        rest = max(len(word), len(other)) - same
        least = max(3, len(other) - 2)
        if same >= least and rest <= (2 if same < 5 else 3) and same > most:
            best, most = other, same
    return best


def _same_letters(one: str, other: str) -> int:
    """Length of the common prefix of two words."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))
