"""Removes the prompt weights of AUTOMATIC1111, which Lens does not have.

`(word:1.3)`, `((word))`, `[word]`, `BREAK` and `AND` become plain words. Quoted strings stay unchanged.

Source: the prompt syntax of AUTOMATIC1111's web UI.
"""

import re

from leanlens.reason.words import QUOTED

_ESCAPED = re.compile(r"\\([()\[\]])")
_WEIGHTED = re.compile(r"\(([^()\[\]:]*):\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*\)")
_DOUBLED = re.compile(r"\(\s*\(([^()]*)\)\s*\)")
_BRACKETED = re.compile(r"\[([^\[\]:|]*)\]")
_BREAK = re.compile(r"\b(?:BREAK|AND)\b")
_MOST_NESTED = 8


def without_weights(prompt: str) -> str:
    """Remove prompt weights; a prompt without any is returned unchanged."""
    quoted = [match.span() for match in QUOTED.finditer(prompt)]
    starts, ends = [0, *(end for _, end in quoted)], [*(start for start, _ in quoted), len(prompt)]
    plain = [_plain(prompt[start:end]) for start, end in zip(starts, ends, strict=True)]
    kept = [*(prompt[start:end] for start, end in quoted), ""]
    return "".join(part for pair in zip(plain, kept, strict=True) for part in pair)


def _plain(text: str) -> str:
    if _BREAK.search(text):
        text = ", ".join(part.strip() for part in _BREAK.split(text))
    for pattern in (_WEIGHTED, _DOUBLED, _BRACKETED):
        for _ in range(_MOST_NESTED):
            text, count = pattern.subn(r"\1", text)
            if not count:
                break
    return _ESCAPED.sub(r"\1", text)
