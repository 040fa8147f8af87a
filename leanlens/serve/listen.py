"""Runs an app on uvicorn until SIGTERM, SIGINT or SIGHUP, and then stops within eight seconds with exit code 0.

Clients that wait for an image get 503, or an event that closes their stream. Finished images are written. The process
ends in time whatever the model is doing.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from leanlens.serve.connections import Bounds, bounded
from leanlens.serve.service import ImageService
from leanlens.serve.settings import ServerSettings

_GRACE = 2  # seconds for responses that are being sent, and for streams that do not end
_LAST = 7.0  # seconds after which the process exits, whatever still runs
_SPARE = 128  # descriptors for the model's files, images and the index
log = logging.getLogger("leanlens.serve")


class Server(uvicorn.Server):
    """uvicorn's server, which stops the image service first.

    Args:
        config: uvicorn's.
        service: the app's.
    """

    def __init__(self, config: uvicorn.Config, service: ImageService):
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles SIGHUP too, unless it was ignored when the process started, as under nohup.

        uvicorn would raise the same signal again at the end; here a requested stop is a success.
        """
        with super().capture_signals(), self._hangup():
            try:
                yield
            finally:
                self._captured_signals.clear()

    @contextmanager
    def _hangup(self) -> Iterator[None]:
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN or not _in_main_thread():
            yield
            return
        before = signal.signal(hangup, self.handle_exit)
        try:
            yield
        finally:
            signal.signal(hangup, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, and start the timer after which the process exits whatever still runs."""
        if not self.should_exit:
            last = threading.Timer(_LAST, os._exit, [0])
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer every waiting client, then close what is left."""
        await asyncio.to_thread(self.service.stop)
        await super().shutdown(sockets)


def configured(app: ASGIApp, settings: ServerSettings, host: str, port: int) -> uvicorn.Config:
    """uvicorn's configuration with the operator's limits."""
    bounds = Bounds(
        connections=_descriptors(settings.max_connections), proxies=settings.trusted_proxies,
        head=settings.header_timeout, body=settings.body_timeout,
    )  # fmt: skip
    return uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, server_header=False, loop="asyncio", ws="none",
        http=bounded(bounds), h11_max_incomplete_event_size=64 << 10, timeout_keep_alive=5, backlog=1024,
        timeout_graceful_shutdown=_GRACE, proxy_headers=False,
    )  # fmt: skip


def _descriptors(wanted: int) -> int:
    """Connections that this process may hold open. Its limit on descriptors is raised where that is allowed."""
    try:
        import resource
    except ImportError:  # not on Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            log.warning("at most %d connections: this process may open %d files", max(8, soft - _SPARE), soft)
            return max(8, soft - _SPARE)
    return wanted


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
