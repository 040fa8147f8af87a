"""Finds emoji in a prompt and the English words for each.

"🍎🍎🍎" is three apples. Skin tones and variation selectors are ignored.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from leanlens.reason import lexicon

_BASE = "\u203c\u2049\u231a-\u23ff\u25aa-\u27bf\u2b05-\u2b55\u3030\u303d\U0001f000-\U0001f3fa\U0001f400-\U0001faff"
_TAIL = "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
_ONE = re.compile(f"[{_BASE}]{_TAIL}(?:\u200d[{_BASE}]{_TAIL})*")
_CHANGES = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")
_KEYCAP = re.compile("([0-9])\ufe0f?\u20e3")


class Piece(NamedTuple):
    """A run of one emoji, or plain text.

    Attributes:
        text: as typed.
        words: English words for one emoji; empty for plain text.
        times: the length of the run.
        known: whether the words name a drawable thing; a smile is only a mood.
    """

    text: str
    words: str = ""
    times: int = 1
    known: bool = True


def split_emoji(text: str) -> list[Piece]:
    """Split a text into emoji and plain pieces."""
    text = _KEYCAP.sub(r"\1 ", text)
    found: list[Piece] = []
    for piece in _pieces(text):
        last = found[-1] if found else None
        if piece.words and last is not None and last.words == piece.words:
            found[-1] = last._replace(text=last.text + piece.text, times=last.times + 1)
        else:
            found.append(piece)
    return found


def _pieces(text: str) -> Iterator[Piece]:
    at = 0
    for match in _ONE.finditer(text):
        if text[at : match.start()].strip():
            yield Piece(text[at : match.start()])
        yield _read(match[0])
        at = match.end()
    if text[at:].strip():
        yield Piece(text[at:])


def _read(typed: str) -> Piece:
    """The longest part of a joined emoji that has a name: a black cat, or a dog for a service dog."""
    parts = _CHANGES.sub("", typed).split("\u200d")
    for length in range(len(parts), 0, -1):
        words = lexicon.emoji().get("\u200d".join(parts[:length]))
        if words:
            return Piece(typed, words.removeprefix("~"), known=not words.startswith("~"))
    return Piece(typed, typed, known=False)
