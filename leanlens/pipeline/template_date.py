"""Defines what a request says about its text: the date in the template, and the limit of tokens.

It does not import torch, so that a request can be read without it.
"""

import datetime
import re

DEFAULT_DATE = "2026-05-23"  # the day before the release; other ports froze it too
MAX_SEQUENCE_LENGTH = 512  # with the prefix, as the released pipeline counts


def resolve_date(date: str) -> str:
    """`date` as YYYY-MM-DD; "today" is the current day.

    Raises:
        ValueError: anything else.
    """
    if date == "today":
        return datetime.date.today().isoformat()
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
            raise ValueError
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError:
        raise ValueError(f"invalid template_date {date!r}: expected YYYY-MM-DD, or today") from None
