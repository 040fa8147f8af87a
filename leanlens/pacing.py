"""When a request may go to a server, and how long to wait before it is sent again."""

import random
import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_BACKOFF = 60.0  # seconds, where a server asks for nothing
_LOT = random.Random()  # of its own, so that no seeded numbers are used up


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks for; 0 where it does not, or not in a form that is known."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("Retry-After", "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time()) if text else 0.0
    except (ValueError, TypeError):
        return 0.0


def backoff(first: float, attempt: int) -> float:
    """Seconds before the next try: twice as many each time, of which half is left to chance."""
    whole = min(LONGEST_BACKOFF, first * 2 ** (attempt - 1))
    return whole * _LOT.uniform(0.5, 1.0)


class Pace:
    """Lets requests through no faster than two limits allow, and not while the server asks for a pause."""

    def __init__(self, requests: float | None, tokens: float | None, stopped: threading.Event):
        self._requests, self._tokens, self._stopped = requests, tokens, stopped
        self._lock = threading.Lock()
        self._next_request = self._next_token = self._paused_until = 0.0

    def wait(self, tokens: int) -> None:
        """Return when a request of so many tokens may go; at once when the run is stopped."""
        while not self._stopped.is_set():
            with self._lock:
                now = time.monotonic()
                ready = max(self._next_request, self._next_token, self._paused_until)
                if ready <= now:
                    if self._requests is not None:
                        self._next_request = now + 60 / self._requests
                    if self._tokens is not None:
                        self._next_token = now + tokens * 60 / self._tokens
                    return
            self._stopped.wait(min(1.0, ready - now))

    def correct(self, estimated: int, counted: int) -> None:
        """Replace the estimate by what the server counted, where it did."""
        if self._tokens is not None and counted:
            with self._lock:
                self._next_token += (counted - estimated) * 60 / self._tokens

    def pause(self, seconds: float) -> None:
        """Let nothing through for so long."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)
