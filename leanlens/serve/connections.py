"""Limits connections in number and in time, in a subclass of uvicorn's HTTP protocol.

A connection whose request does not arrive in time is closed, and one that only waits makes room for a new one. uvicorn
has a time-out for idle connections alone, and its limit on their number also rejects health checks.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import h11
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("leanlens.serve")
# Bytes read before other connections have their turn, by whether they parse fast.
_AT_ONCE = {False: 4 << 10, True: 256 << 10}
_OVERHEAD = 32 << 10  # bytes of a body's chunk headers; more must be at most an eighth of the body
_FOR_HEALTH = 16  # connections beyond the limit, for health checks
_FULL = "the server has no free connection"
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: 33\r\n\r\nthe server has no free connection"
)
_FRAGMENTED = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 39\r\n\r\nthe chunks of the request are too small"
)
_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 33\r\n\r\nthe request did not come in time."
)


@dataclass(frozen=True)
class Bounds:
    """Limits on connections.

    Attributes:
        connections: open at a time; half of them from one address that is not a trusted proxy.
        proxies: addresses that forward for many clients.
        head: seconds until the head of a request has arrived.
        body: seconds until its body has arrived, and one more for each `rate` bytes of it.
    """

    connections: int = 512
    proxies: tuple[str, ...] = ()
    head: float = 15.0
    body: float = 30.0
    rate: float = 16384.0


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol within `bounds`, which a subclass for each server sets."""

    bounds = Bounds()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; another connection may be closed for it."""
        super().connection_made(transport)
        self.phase: str | None = None
        self.since = 0.0
        self._came = self._kept = 0
        self._timer: asyncio.TimerHandle | None = None
        self._start_timer()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        cycle, before = self.cycle, len(self.cycle.body) if self.cycle else 0
        super().data_received(data)
        self._came += len(data)
        if cycle is not None and cycle is self.cycle:  # nobody has taken from its body meanwhile
            self._kept += len(cycle.body) - before
        if self._is_fragmented():
            log.info("a connection of %s is closed: the chunks of its body are too small", self._address)
            self.transport.write(b"" if self.cycle.response_started else _FRAGMENTED)
            self.transport.close()
        self._start_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP once, and tell a running response that the connection has ended."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer is on its way already
            self.transport.close()

    def on_response_complete(self) -> None:
        """The next request may come."""
        self.phase = None
        super().on_response_complete()
        self._start_timer()

    def _is_fragmented(self) -> bool:
        """Whether a body comes in chunks so small that parsing them is most of the work."""
        if self.phase != "body" or self.conn.our_state is h11.DONE or self.transport.is_closing():
            return False
        overhead = self._came - self._kept
        return overhead > _OVERHEAD and overhead * 8 > self._kept

    # ---------------------------------------------------------------------------------------- in time

    def _start_timer(self) -> None:
        """Start the timer when a head or a body is expected."""
        phases: dict[Any, str] = {h11.IDLE: "head", h11.SEND_BODY: "body"}
        phase = phases.get(self.conn.their_state)
        if phase == self.phase or self.transport.is_closing():
            return
        self._stop_timer()
        if hasattr(self.transport, "max_size"):  # 256 KiB of small chunks are half a second of parsing
            has_length = phase == "body" and any(name == b"content-length" for name, _ in self.headers)
            self.transport.max_size = _AT_ONCE[has_length]
        self.phase, self.since, self._came, self._kept = phase, self.loop.time(), 0, 0
        if phase is not None:
            self._timer = self.loop.call_later(getattr(self.bounds, phase), self._check_time)

    def _check_time(self) -> None:
        """Close the connection when the time is up; a body that comes fast enough gets more."""
        self._timer = None
        if self.phase == "body":
            left = self.since + self.bounds.body + self._came / self.bounds.rate - self.loop.time()
            if left > 0:
                self._timer = self.loop.call_later(left + 0.1, self._check_time)
                return
        log.info("connection from %s closed: the %s of its request did not arrive in time", self._address, self.phase)
        if self.phase == "head":
            self.transport.write(_LATE)
            self.transport.close()
        else:
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---------------------------------------------------------------------------------------- in number

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else "local"

    def _make_room(self) -> None:
        """Over the limit, close a connection that waits for a request; if none does, reject this one."""
        everyone = [one for one in self.connections if isinstance(one, BoundedProtocol) and one is not self]
        mine = [one for one in everyone if one._address == self._address]
        few = self.bounds.connections // 2
        if self._address not in self.bounds.proxies and len(mine) >= few:
            self._take_place_of(mine, everyone)
        elif len(everyone) >= self.bounds.connections:
            self._take_place_of(everyone, everyone)

    def _take_place_of(self, others: "list[BoundedProtocol]", everyone: "list[BoundedProtocol]") -> None:
        for phase in ("head", "body"):
            waiting = [one for one in others if one.phase == phase]
            if waiting:
                oldest = min(waiting, key=lambda one: one.since)
                self.connections.discard(oldest)
                oldest.transport.abort()
                return
        if sum(isinstance(one.app, HealthOnly) for one in everyone) < _FOR_HEALTH:
            self.app = HealthOnly(self.app)
            return
        self.transport.write(_BUSY)
        self.transport.close()


class HealthOnly:
    """An app of which only the health checks are answered.

    Args:
        app: the whole app.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in ("/health", "/ready"):
            await self.app(scope, receive, send)
            return
        await PlainTextResponse(_FULL, 503, {"retry-after": "5", "connection": "close"})(scope, receive, send)


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """The protocol class of one server."""
    return type("BoundedProtocol", (BoundedProtocol,), {"bounds": bounds})
