"""A client's requests in one minute."""

import pytest

from leanlens.serve import rate_limit
from leanlens.serve.errors import APIError
from leanlens.serve.rate_limit import RateLimit


def test_each_client_has_its_own_minute(monkeypatch):
    now = 100.0
    monkeypatch.setattr(rate_limit.time, "monotonic", lambda: now)
    limit = RateLimit(2)
    limit.check("ann")
    now = 110.0
    limit.check("ann")
    limit.check("bob")
    with pytest.raises(APIError, match="more than 2 requests in a minute; try again in 50 s") as raised:
        limit.check("ann")
    assert (raised.value.kind, raised.value.retry_after) == ("rate", 50.0)
    now = 160.5  # the first one is a minute ago
    limit.check("ann")
    with pytest.raises(APIError, match="try again in 10 s"):
        limit.check("ann")


def test_none_sets_no_limit():
    limit = RateLimit(None)
    for _ in range(100):
        limit.check("ann")
