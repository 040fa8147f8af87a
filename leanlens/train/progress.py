"""Shows the progress of a run: a bar on a terminal, a log line every half minute elsewhere."""

import sys
import time
from collections import deque
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from leanlens.log import logger

LOG_SECONDS = 30  # between two lines


class ProgressLine:
    """The progress of a run, with the time that is left.

    Args:
        steps: number of the run's last step.
        done: steps that earlier processes made.
        minutes: time limit, counted from now; None if only steps count.
        silent: for processes that do not lead.
    """

    def __init__(self, steps: int, done: int, minutes: float | None = None, silent: bool = False):
        self.steps, self.minutes, self.silent = steps, minutes, silent
        self._began, self._said = time.monotonic(), -float("inf")
        self._times: deque[tuple[float, int]] = deque([(self._began, done)], maxlen=64)
        self._stack = ExitStack()
        self._bar: Any = None
        if not silent and sys.stderr.isatty() and done < steps:
            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, leave=False)
            if self._bar.disable:
                self._bar = None
            else:
                self._stack.enter_context(logging_redirect_tqdm())

    def tell(self, step: int, words: str, always: bool = False) -> None:
        """Report that `step` is done, with `words` about it. `always` also writes a line where a bar is shown."""
        now = time.monotonic()
        self._times.append((now, step))
        if self.silent:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(step - self._bar.n)
        if always or (self._bar is None and now - self._said > LOG_SECONDS):
            self._said = now
            left = self.seconds_left()
            logger.info(
                "step %d of %d: %s%s",
                step,
                self.steps,
                words,
                f", {_clock(left)} left" if left and step < self.steps else "",
            )

    def seconds_left(self) -> float | None:
        """Seconds to the last step at the pace of the recent ones, or to the time limit; None if no pace is known."""
        (first, start), (last, end) = self._times[0], self._times[-1]
        by_clock = None if self.minutes is None else max(0.0, 60 * self.minutes - (last - self._began))
        by_steps = (self.steps - end) * (last - first) / (end - start) if end > start else None
        known = [value for value in (by_clock, by_steps) if value is not None]
        return min(known) if known else None

    def close(self) -> None:
        """Remove the bar."""
        self._stack.close()
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
