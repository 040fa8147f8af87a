"""Believes what the operator's own proxies say of the client behind them, and drops such headers from everyone else."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

_NAMES = (b"forwarded", b"x-real-ip", b"true-client-ip", b"x-client-ip")
_START = b"x-forwarded-"


class Proxies:
    """The outermost middleware.

    Args:
        app: the app inside.
        trusted: addresses and networks of the operator's proxies.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str] = ()):
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        self.app = app
        self._networks = [ip_network(one, strict=False) for one in trusted]
        self._with_proxy_headers = ProxyHeadersMiddleware(app, trusted_hosts=list(trusted))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif self._is_trusted(scope):
            await self._with_proxy_headers(scope, receive, send)  # type: ignore[arg-type]
        else:
            headers = [(name, value) for name, value in scope["headers"] if not _is_of_proxies(name)]
            await self.app({**scope, "headers": headers}, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        try:
            address = ip_address((scope.get("client") or ("",))[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _is_of_proxies(name: bytes) -> bool:
    return name.lower().startswith(_START) or name.lower() in _NAMES
