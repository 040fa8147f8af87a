"""Limits how many requests each client may make in a minute."""

import threading
import time
from collections import deque

from leanlens.serve.errors import APIError

_WINDOW = 60.0  # seconds


class RateLimit:
    """A sliding window of one minute for each client.

    Args:
        most: requests per minute; None sets no limit.
    """

    def __init__(self, most: int | None):
        self.most = most
        self._calls: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, owner: str) -> None:
        """Count a request of `owner`.

        Raises:
            APIError: of kind rate, with the time after which a request is accepted again.
        """
        if self.most is None:
            return
        now = time.monotonic()
        with self._lock:
            for other in [other for other, calls in self._calls.items() if calls[-1] < now - _WINDOW]:
                del self._calls[other]
            calls = self._calls.setdefault(owner, deque())
            while calls and calls[0] < now - _WINDOW:
                calls.popleft()
            if len(calls) >= self.most:
                wait = max(1.0, calls[0] + _WINDOW - now)
                raise APIError(
                    "rate", f"more than {self.most} requests in a minute; try again in {wait:.0f} s", retry_after=wait
                )
            calls.append(now)
