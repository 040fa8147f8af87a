"""The server's log: one JSON object per line, or text for a terminal, with the id of the request that it is about."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
"""The id of the request that this thread or task works for; of a batch, all ids."""


class JsonLines(logging.Formatter):
    """time, level, logger; then the fields of `record.line`, or the message and the id of its request."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "logger": record.name}
        line |= getattr(record, "line", None) or {"message": record.getMessage(), "request": REQUEST.get()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None}, default=str)


class TextLines(logging.Formatter):
    """Time and message, then the id of the request if there is one.

    Further lines are indented and unprintable characters are escaped, so nothing that a client sends can look like a
    line of the log or move the cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line, with a traceback below it."""
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line, level = getattr(record, "line", None), record.levelname.lower()
        request = line.get("request") if line else REQUEST.get()
        text = _in_words(line) if line else record.getMessage()
        text = "\n    ".join(map(_printable, text.splitlines()))
        text = f"{when} {'' if record.levelno < logging.WARNING else f'{level}: '}{text}"
        text += f"  [{request}]" if request else ""
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _in_words(line: dict[str, Any]) -> str:
    """The line of one request: method, path, status and time."""
    said = f"{line.get('method')} {_printable(str(line.get('path')))} {line.get('status')} in {line.get('seconds')} s"
    return said + (f", job {line['job']}" if line.get("job") else "")


def log_format(wanted: str) -> str:
    """text or json; "auto" is text where the log goes to a terminal.

    Raises:
        ValueError: another format.
    """
    if wanted not in ("auto", "text", "json"):
        raise ValueError(f"invalid --log {wanted!r}: expected auto, text or json")
    return wanted if wanted != "auto" else "text" if sys.stderr.isatty() else "json"


def log_as(chosen: str) -> None:
    """Set the format of everything that this process logs."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines() if chosen == "json" else TextLines())
    if chosen == "text":  # our own lines report start, requests and stop
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
