import threading
import time
from email.utils import formatdate

import pytest

from leanlens.pacing import LONGEST_BACKOFF, Pace, backoff, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 0), ({"Retry-After": "7"}, 7), ({"Retry-After": " 1.5 "}, 1.5), ({"retry-after-ms": "250"}, 0.25),
     ({"Retry-After": "soon"}, 0), ({"Retry-After": "-3"}, 0), ({"retry-after-ms": "x", "Retry-After": "2"}, 0),
     ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0)],
)  # fmt: skip
def test_what_a_server_asks_for(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_date_to_come():
    assert 58 <= retry_after({"Retry-After": formatdate(time.time() + 60, usegmt=True)}) <= 60


def test_the_wait_doubles_with_jitter_and_has_an_end():
    for attempt, whole in enumerate((1, 2, 4, 8), 1):
        waits = [backoff(1.0, attempt) for _ in range(50)]
        assert all(whole / 2 <= wait <= whole for wait in waits)
        assert len(set(waits)) > 40
    assert backoff(1.0, 30) <= LONGEST_BACKOFF
    assert backoff(0.0, 3) == 0


def test_a_stopped_run_does_not_wait():
    stopped = threading.Event()
    pace = Pace(1.0, None, stopped)
    pace.wait(1)
    stopped.set()
    began = time.monotonic()
    pace.wait(1)
    assert time.monotonic() - began < 1
