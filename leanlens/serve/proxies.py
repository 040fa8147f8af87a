"""What a proxy says of the client behind it: believed from the operator's own proxies, taken away from everybody else.

Comes in: requests. Goes out: requests whose client and scheme are those that a trusted proxy has named, or those of the
connection itself, without headers by which a client could name others.
"""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

_NAMES = (b"forwarded", b"x-real-ip", b"true-client-ip", b"x-client-ip")
_START = b"x-forwarded-"


class Proxies:
    """Middleware, the outermost.

    Args:
        app: what is served.
        trusted: addresses and networks of the operator's proxies.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str] = ()):
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        self.app = app
        self._networks = [ip_network(one, strict=False) for one in trusted]
        self._believing = ProxyHeadersMiddleware(app, trusted_hosts=list(trusted))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif self._is_trusted(scope):
            await self._believing(scope, receive, send)  # type: ignore[arg-type]
        else:
            headers = [(name, value) for name, value in scope["headers"] if not _is_said_by_proxies(name)]
            await self.app({**scope, "headers": headers}, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        try:
            address = ip_address((scope.get("client") or ("",))[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _is_said_by_proxies(name: bytes) -> bool:
    return name.lower().startswith(_START) or name.lower() in _NAMES
