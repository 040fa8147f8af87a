"""Lets the page's own requests through to Gradio and answers 404 to all others.

Gradio has sixty routes, among them some that fetch addresses, record processes or write the page's code, and each
version adds more, so the allowed routes are listed.
"""

import logging
import re
import sys
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("leanlens.serve")
_OWN = Path(__file__).parents[1]
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
# As the page in Chromium asks for them, beside `config`, which it reads again once a server was started anew.
_READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico)|/(assets|static)/[^\\]+"
    r"|/gradio_api/(queue/data|upload_progress|heartbeat/\w{1,64}|file=.+)",
    re.ASCII,
)
_WRITTEN = re.compile(r"/gradio_api/(queue/join|run/predict|upload|component_server/?)", re.ASCII)
_FILE = "/gradio_api/file="


class PageRoutes:
    """Lets the page's requests through to Gradio.

    Args:
        app: Gradio's.
        uploads: the folder whose files may be read back.
    """

    def __init__(self, app: ASGIApp, uploads: Path):
        self.app = app
        self.uploads = uploads.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the page opens none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and not self.is_used(scope["method"], scope["path"]):
            await PlainTextResponse("there is no such route", 404)(scope, receive, send)
            return
        is_wrong = is_begun = False

        async def tell(message: Message) -> None:
            nonlocal is_wrong, is_begun
            if message["type"] == "http.response.start":
                is_begun = is_begun or message["status"] < 500
                is_wrong = message["status"] >= 500
                MutableHeaders(scope=message)["content-security-policy"] = _POLICY
            if not is_wrong:
                await send(message)

        try:
            await self.app(scope, receive, tell)
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:
            note_mistake(error)
            is_wrong = True
        if is_wrong and not is_begun:  # Gradio trusts its page: any other request may fail with any error
            await PlainTextResponse("the page did not send this request", 400)(scope, receive, send)

    def is_used(self, method: str, path: str) -> bool:
        """Whether the page makes such a request."""
        if method == "POST":
            return _WRITTEN.fullmatch(path) is not None
        if method not in ("GET", "HEAD") or _READ.fullmatch(path) is None:
            return False
        return not path.startswith(_FILE) or self._is_upload(path.removeprefix(_FILE))

    def _is_upload(self, name: str) -> bool:
        """Whether it is a file below the folder of uploads, however often its name is quoted, and not a URL."""
        try:
            return all(Path(one).resolve().is_relative_to(self.uploads) for one in (name, unquote(name)))
        except (OSError, ValueError):
            return False


def note_mistake(error: BaseException | None) -> None:
    """Log one line for an error that a client's wrong request causes in Gradio; a traceback for a bug in leanlens."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    last = frames[-1] if frames else None
    if last is not None and Path(last.filename).is_relative_to(_OWN) and not isinstance(error, ValueError):
        log.error("the page made a mistake", exc_info=error)
        return
    where = "?" if last is None else f"{Path(last.filename).name}:{last.lineno}"
    log.warning("the page cannot answer: %s in %s", type(error).__name__, where)


class _Brief:
    """Replaces `traceback` in Gradio's modules, which print the traceback of every failed event."""

    def __getattr__(self, name: str) -> Any:
        return getattr(traceback, name)

    def print_exc(self, *_: Any, **__: Any) -> None:
        """Log the error with `note_mistake`."""
        note_mistake(sys.exc_info()[1])


def log_briefly() -> None:
    """Let Gradio's modules log errors with `note_mistake` instead of printing tracebacks."""
    import gradio.queueing
    import gradio.routes

    for module in (gradio.queueing, gradio.routes):
        module.traceback = _Brief()  # type: ignore[attr-defined]
