"""Reads the text that AUTOMATIC1111 writes into images: the `parameters` text of any program's image.

One pass from left to right: the text may come from a stranger, so the time grows linearly with its length.

Source: `parse_generation_parameters` of AUTOMATIC1111's web UI. The last line holds `Name: value` pairs with commas
between them; a value with a comma in it is written as a JSON string.
"""

import json
import re
from collections.abc import Iterator

MOST_CHARACTERS = 1_000_000
"""Limit for all text inside one image; the settings of a program take a thousandth of that."""
_NEGATIVE = "Negative prompt:"
_FEWEST = 3  # pairs, at least, that make the last line settings rather than part of the prompt
_NAME = re.compile(r"\w[\w \-/]+")
_NAME_MARKS = frozenset(" -/_")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])++"')
_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})", re.ASCII)


def read_parameters(text: str) -> dict[str, str]:
    """Prompt, negative prompt and settings under AUTOMATIC1111's names; a size also as `Size-1` and `Size-2`."""
    if not text.strip():
        return {}
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < _FEWEST:
        lines, pairs = [*lines, last], []
    prompt, negative = _prompts("\n".join(lines))
    found = {"Prompt": prompt, "Negative prompt": negative}
    for name, value in pairs:
        size = _SIZE.fullmatch(value)
        found |= {name: value} if size is None else {f"{name}-1": size[1], f"{name}-2": size[2]}
    return found


def _prompts(text: str) -> tuple[str, str]:
    """The prompt, and the negative prompt after the first line that begins with its name."""
    if text.startswith(_NEGATIVE):
        return "", text.removeprefix(_NEGATIVE).strip()
    prompt, _, negative = text.partition(f"\n{_NEGATIVE}")
    return prompt.strip(), negative.strip()


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """The names and values of a line of settings; anything else is skipped."""
    place = 0
    while (colon := line.find(":", place)) >= 0:
        name = _name_before(line, place, colon)
        if name is None:
            place = colon + 1
            continue
        value, place = _value_after(line, colon + 1)
        yield name, value


def _name_before(line: str, start: int, end: int) -> str | None:
    """The longest name that ends at a colon; None if there is none."""
    first = end
    while first > start and (line[first - 1].isalnum() or line[first - 1] in _NAME_MARKS):
        first -= 1
    name = line[first:end].lstrip(" -/")
    return name if _NAME.fullmatch(name) else None


def _value_after(line: str, start: int) -> tuple[str, int]:
    """A value, and the position after the comma that ends it."""
    while start < len(line) and line[start].isspace():
        start += 1
    quoted = _QUOTED.match(line, start)
    if quoted is not None and line[quoted.end() : quoted.end() + 1] in ("", ","):
        return _unquoted(quoted[0]), quoted.end() + 1
    end = line.find(",", start)
    end = len(line) if end < 0 else end
    return line[start:end].strip(), end + 1


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)).strip()
    except ValueError:
        return value.strip('"').strip()
