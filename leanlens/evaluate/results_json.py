"""Writes JSON in the one form of all evaluation files."""

import json
import math
from typing import Any


def as_text(value: Any) -> str:
    """Indented JSON with a line feed at the end; numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def rounded(value: float | None, digits: int = 6) -> float | None:
    """A number for a file; None where it is missing or not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
