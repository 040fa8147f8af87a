"""Reads what `--judge` says: at which endpoint a vision model is asked, how fast, and at what price."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges.families import family_notes
from leanlens.evaluate.settings import read_settings, split_settings

FORM = "[NAME=]URL#MODEL[,KEY=VALUE]..."
FIELDS = {
    "key": "key_variable",
    "concurrency": "concurrency",
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "tries": "tries",
    "timeout": "timeout",
    "price_in": "input_price",
    "price_out": "output_price",
}
"""Key of a setting -> the field of `Endpoint` that it sets."""

_NAME = re.compile(r"([^=+,:/\\#\s][^=+,:/\\#\n]{0,59})=(?=https?://)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


@dataclass(frozen=True)
class JudgeSpec:
    """A judge of the evaluation.

    Attributes:
        name: for tables, unique in an evaluation.
    """

    name: str
    endpoint: Endpoint


def parse_judges(texts: Sequence[str]) -> list[JudgeSpec]:
    """The judges of an evaluation, each with a name of its own.

    Raises:
        ValueError: as `parse_judge`, or two judges have the same name.
    """
    found = [parse_judge(text) for text in texts]
    names = [spec.name for spec in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two judges have the name {name!r}; give each its own, such as --judge first=URL#MODEL")
    return found


def parse_judge(text: str) -> JudgeSpec:
    """Read one judge, such as `http://localhost:8000/v1#Qwen/Qwen3-VL-8B-Instruct,concurrency=8`.

    The name of a judge without one is that of its model, without the owner.

    Raises:
        ValueError: it is not of the form FORM, or a setting is unknown or invalid.
    """
    what = f"judge {text!r}"
    match = _NAME.match(text)
    source, rest = split_settings(text[match.end() :] if match else text)
    url, _, model = source.strip().partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ValueError(f"invalid {what}: expected {FORM}, such as http://localhost:8000/v1#MODEL")
    given = {FIELDS[key]: _checked(key, value, what) for key, value in read_settings(rest, what, FIELDS, FORM).items()}
    return JudgeSpec(match[1].strip() if match else model.rsplit("/", 1)[-1], Endpoint(url, model, **given))


def judge_notes(endpoints: Sequence[Endpoint]) -> list[str]:
    """What a report must say of its judges: which family judged, and whom that may favour."""
    return family_notes(endpoint.model for endpoint in endpoints)


def _checked(key: str, value: str, what: str) -> Any:
    """The value of a key; `Endpoint` checks its range."""
    if key == "key":
        if not _VARIABLE.fullmatch(value):  # the value is not shown: it may be the key itself
            raise ValueError("invalid key: expected the name of the environment variable that holds it")
        return value
    if key in ("concurrency", "tries"):
        if not re.fullmatch(r"\d{1,4}", value):
            raise ValueError(f"invalid {what}: {key} {value[:20]!r}; expected a whole number")
        return int(value)
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"invalid {what}: {key} {value[:20]!r}; expected a number") from None
