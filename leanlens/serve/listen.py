"""A server that listens until it is told to stop, and then stops within seconds.

Comes in: an app, its service, where to listen. Goes out: a server that can be run. SIGTERM, SIGINT and SIGHUP end it:
whoever waits for a picture is answered with 503, or an event that closes the stream, in the words of the API, what is
finished is written, and the process is gone within eight seconds whatever the model is doing. Its exit code is then 0.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from leanlens.serve.connections import Bounds, bounded
from leanlens.serve.service import ImageService
from leanlens.serve.settings import ServerSettings

_GRACE = 2  # seconds for answers that are being sent, and for streams that nobody ends
_LAST = 7.0  # seconds after which the process goes, whatever still runs
_SPARE = 128  # descriptors for the model's files, pictures and the index
log = logging.getLogger("leanlens.serve")


class Server(uvicorn.Server):
    """uvicorn's server, which tells the service first that it is to stop.

    Args:
        config: uvicorn's.
        service: of the app.
    """

    def __init__(self, config: uvicorn.Config, service: ImageService):
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGHUP too, unless whoever started the server has it ignored, as nohup does.

        uvicorn ends the process by the same signal once more; here the stop that was asked for is a success.
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
        """Begin to stop; from now on the time is counted, and once it is up the process goes with what still runs."""
        if not self.should_exit:
            last = threading.Timer(_LAST, os._exit, [0])
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: Any = None) -> None:
        """Answer everybody who waits, then end what is left."""
        await asyncio.to_thread(self.service.stop)
        await super().shutdown(sockets)


def configured(app: Any, settings: ServerSettings, host: str, port: int) -> uvicorn.Config:
    """uvicorn's configuration within the operator's bounds."""
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
    """Connections that this process may hold open; its bound on descriptors is raised where that is allowed."""
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
            log.warning("%d connections at most: this process may open %d files", max(8, soft - _SPARE), soft)
            return max(8, soft - _SPARE)
    return wanted


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
