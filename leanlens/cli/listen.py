"""Runs the server process and prints `ready: http://…` once clients can connect and the model is open."""

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

OPENING = "the model is being opened"
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def listen(app: Any, host: str, port: int, trouble: Callable[[], str | None], say: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        trouble: returns why images cannot be generated now, or None if they can.
        say: prints a line.
    """
    from leanlens.serve.listen import Server, configured

    class ReadyServer(Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                bound = self.servers[0].sockets[0].getsockname()[1]
                self.told = asyncio.create_task(_tell(self, address(host, bound), trouble, say))

    service = app.state.service
    server = ReadyServer(configured(app, service.settings, host, port), service)
    with suppress(KeyboardInterrupt):  # the app has already stopped
        server.run()
    if not server.started:
        sys.exit(3)  # uvicorn has logged why


async def _tell(server: Any, url: str, trouble: Callable[[], str | None], say: Callable[[str], None]) -> None:
    said = OPENING
    while not server.should_exit:
        now = trouble()
        if now is None:
            say(f"ready: {url}")
            return
        if now != said:
            say(f"not ready: {now}")
            said = now
        await asyncio.sleep(0.05)


def address(host: str, port: int) -> str:
    """The URL for a browser on this machine."""
    name = _EVERY_ADDRESS.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def is_local(host: str) -> bool:
    """Whether only programs on this machine can reach a host."""
    return host in ("127.0.0.1", "localhost", "::1")


def require_free(host: str, port: int) -> None:
    """Raise a ValueError where the server could not listen; better now than once a model is open."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ValueError(f"port {port} of host {host} cannot be listened to: {error.strerror}; give another") from None
