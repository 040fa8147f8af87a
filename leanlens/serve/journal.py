"""The server's log: one JSON object a line, with the id of the request that it is about.

Comes in: records of the standard `logging`. Goes out: lines. Knows nothing of what they say.
"""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
"""The request, or the requests of a batch, that this thread or task works for."""


class JsonLines(logging.Formatter):
    """time, level, logger; then the fields of `record.line`, or the message and the request it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        line |= getattr(record, "line", None) or {"message": record.getMessage(), "request": REQUEST.get()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None}, default=str)


def log_as_json() -> None:
    """Have everything that is logged in this process written so."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
