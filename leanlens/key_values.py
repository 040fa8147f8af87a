"""Reads the `,KEY=VALUE` settings that follow a model, a judge or a reasoner on the command line."""

import difflib
import re
from collections.abc import Iterable

_NEXT_KEY = re.compile(r",(?=\s*[A-Za-z_]+\s*=)")


def split_settings(text: str) -> tuple[str, str]:
    """What stands before the first `,KEY=`, and the rest with its comma."""
    cut = next((match.start() for match in _NEXT_KEY.finditer(text)), len(text))
    return text[:cut], text[cut:]


def read_settings(text: str, what: str, keys: Iterable[str], form: str) -> dict[str, str]:
    """`,KEY=VALUE...` as key -> value. A comma that no key follows is part of the value.

    Args:
        what: names the whole in messages, such as "model 'nano,steps=4'".
        form: of the whole, for messages.

    Raises:
        ValueError: an unknown key, one that is given twice, or no KEY=VALUE.
    """
    keys, found = list(keys), {}
    for part in filter(None, _NEXT_KEY.split(text)):
        key, separator, value = part.partition("=")
        key = key.strip()
        if not separator:
            raise ValueError(f"invalid {what}: {part.lstrip(',')!r} is no KEY=VALUE; expected {form}")
        if key not in keys:
            raise ValueError(f"invalid {what}: there is no key {key!r}; {_nearest(key, keys)}")
        if key in found:
            raise ValueError(f"invalid {what}: {key} is given twice")
        found[key] = value.strip()
    return found


def _nearest(key: str, keys: list[str]) -> str:
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    return f"the nearest is {near[0]!r}" if near else f"there are {', '.join(keys)}"
