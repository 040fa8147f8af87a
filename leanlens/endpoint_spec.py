"""Reads the address of a model at an endpoint, `URL#MODEL[,KEY=VALUE]...`, as the command line takes it."""

import re
from typing import Any

from leanlens.endpoint import Endpoint
from leanlens.key_values import read_settings, split_settings

FORM = "URL#MODEL[,KEY=VALUE]..."
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

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def parse_endpoint(text: str, what: str, form: str = FORM) -> Endpoint:
    """Read an address, such as `http://localhost:8000/v1#Qwen/Qwen3-4B,concurrency=8`.

    Args:
        what: names the whole in messages, such as "judge 'http://localhost'".
        form: of the whole, for messages.

    Raises:
        ValueError: it is not of the form, or a setting is unknown or invalid.
    """
    source, rest = split_settings(text)
    url, _, model = source.strip().partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ValueError(f"invalid {what}: expected {form}, such as http://localhost:8000/v1#MODEL")
    given = {FIELDS[key]: _checked(key, value, what) for key, value in read_settings(rest, what, FIELDS, form).items()}
    return Endpoint(url, model, **given)


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
