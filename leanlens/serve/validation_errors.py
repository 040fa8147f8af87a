"""Errors of pydantic as errors of an API, in one sentence that names the field and what it expects."""

from collections.abc import Sequence
from typing import Any

from leanlens.serve.errors import APIError

# What is expected -> pydantic's types of the errors for anything else.
_EXPECTED = {
    "a whole number": ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
    "a number": ("float_type", "float_parsing", "finite_number"),
    "true or false": ("bool_type", "bool_parsing"),
    "text": ("string_type",),
    "a list": ("list_type",),
    "at most {max_length} of them": ("too_long",),
    "an object with named fields": ("model_type", "model_attributes_type", "dict_type"),
    "{ge} or more": ("greater_than_equal",),
    "{le} or less": ("less_than_equal",),
}


def validation_error(errors: Sequence[Any]) -> APIError:
    """The first of pydantic's errors."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path") and not _is_branch(part)]
    field = ".".join(place) or None
    if first["type"] == "missing":
        return APIError("missing", f"{field or 'the body'} is missing", field)
    if first["type"] == "json_invalid":
        return APIError(
            "invalid", "the body is not JSON: " + str(first.get("ctx", {}).get("error", first["msg"]))[:200]
        )
    given = first.get("input")
    value = f" {given!r}"[:60] if isinstance(given, str | int | float | bool) else ""
    if first["type"] == "value_error":  # of a validator of our own
        return APIError("invalid", f"{field or 'the body'}{value} {first['ctx']['error']}"[:300], field)
    wanted = first["msg"][0].lower() + first["msg"][1:]
    for words, kinds in _EXPECTED.items():
        if first["type"] in kinds:
            wanted = f"expected {words.format(**first.get('ctx', {}))}"
    return APIError("invalid", f"invalid {field or 'body'}{value}: {wanted}"[:300], field)


def _is_branch(part: object) -> bool:
    """Whether pydantic names one of several types that a field may have, and no field."""
    return str(part) in ("str", "PictureReference") or str(part).startswith("list[")
