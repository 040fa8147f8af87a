"""Who a client is, and which forms a request may have."""

import asyncio

import pytest

from leanlens.serve.proxies import Proxies
from leanlens.serve.settings import ServerSettings

SAID = [
    (b"host", b"x"), (b"x-forwarded-for", b"9.9.9.9"), (b"x-forwarded-proto", b"https"), (b"x-real-ip", b"9.9.9.9"),
    (b"Forwarded", b"for=9.9.9.9"), (b"x-forwarded-host", b"evil.example"),
]  # fmt: skip


def seen_by_the_app(client, trusted):
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope)

    scope = {"type": "http", "client": (client, 5), "scheme": "http", "headers": list(SAID)}
    asyncio.run(Proxies(app, trusted)(scope, None, None))
    return seen


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "10.0.0.7", "testclient"])
def test_nobody_is_believed_unless_the_operator_says_so(client):
    for trusted in ((), ("10.1.0.0/16", "192.168.0.1")):
        seen = seen_by_the_app(client, trusted)
        assert (seen["client"][0], seen["scheme"], seen["headers"]) == (client, "http", [(b"host", b"x")])


@pytest.mark.parametrize(
    ("client", "trusted"), [("127.0.0.1", "127.0.0.1"), ("10.0.0.7", "10.0.0.0/8"), ("::1", "::1")]
)
def test_a_trusted_proxy_names_its_clients(client, trusted):
    seen = seen_by_the_app(client, (trusted,))
    assert (seen["client"][0], seen["scheme"]) == ("9.9.9.9", "https")


def test_a_proxy_is_an_address(tmp_path):
    with pytest.raises(ValueError, match=r"trusted_proxies holds 'proxy\.example': expected an address"):
        ServerSettings.checked(output=tmp_path, trusted_proxies=("proxy.example",))


def _raw(client, method, path, headers=()):
    """What the app answers to a target that no client library sends."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "scheme": "http",
        "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    client.portal.call(client.app, scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def test_every_form_of_target_is_answered(server):
    client = server(loopback_only=True)
    assert _raw(client, "OPTIONS", "*")[0] == 204
    assert _raw(client, "GET", "http://localhost/health")[0] == 200
    assert _raw(client, "GET", "HTTP://LOCALHOST:80/health")[0] == 200
    assert _raw(client, "GET", "http://evil.example/health")[0] == 403  # the target counts, not the header
    for method, path in (
        ("CONNECT", "example.com:443"), ("CONNECT", "/"), ("TRACE", "/health"), ("TRACE", "*"), ("GET", "*"),
        ("GET", "health"), ("GET", "ftp://x/health"), ("GET", "http://"), ("OPTIONS", "a"), ("BREW", "/health"),
        ("GET", ""), ("GET", "http://[::1"), ("GET", "//"),
    ):  # fmt: skip
        status, _ = _raw(client, method, path)
        assert 400 <= status < 500, (method, path, status)
