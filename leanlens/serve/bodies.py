"""The bodies of requests, bounded before anything is made of them.

Comes in: requests as they arrive. Goes out: requests whose JSON has few enough values and levels to be parsed, and at
no time more bytes together than the operator allows. A parser makes some hundred bytes of memory out of two bytes of
JSON, so what is small enough as an upload may still be far too much as JSON.
"""

import json
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leanlens.files import check_json_extent
from leanlens.serve.errors import APIError
from leanlens.serve.settings import ServerSettings

MOST_VALUES = 20_000
MOST_LEVELS = 64
# Routes that take pictures as base64 inside JSON, which is then as large as an upload.
_WITH_PICTURES = ("/sdapi/v1/img2img", "/sdapi/v1/png-info", "/sdapi/v1/extra-", "/v1/images/")
_AT_ONCE = 64 << 10  # bytes that are looked through in the event loop; more are in a thread
_WAIT = 5.0  # seconds after which it is worth to come again


class Bodies:
    """Middleware: the size and the structure of bodies, each and all together.

    Args:
        app: what reads them.
        settings: the bounds.
        error_response: a path and an error -> the response in the format of that path's API.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, error_response: Callable[[str, APIError], Response]):
        self.app = app
        self.settings = settings
        self.error_response = error_response
        self.held = 0
        """Bytes of the bodies that are being answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        headers, taken = Headers(scope=scope), 0

        def take(message: Message) -> Message:
            nonlocal taken
            size = len(message.get("body", b""))
            if self.held + size > self.settings.max_bodies:
                raise APIError("busy", "other requests fill the server's memory; try again soon", retry_after=_WAIT)
            self.held, taken = self.held + size, taken + size
            return message

        try:
            if headers.get("content-type", "").startswith("multipart/form-data"):
                await self.app(scope, _metered(receive, take), send)
                return
            try:
                body = await self._read(scope["path"], headers, receive, take)
            except HTTPException as error:  # the middleware has counted more than any body may have
                too_large = APIError("too_large", error.detail)
                await self.error_response(scope["path"], too_large)(scope, receive, send)
                return
            except APIError as error:
                await self.error_response(scope["path"], error)(scope, receive, send)
                return
            if body is not None:
                await self.app(scope, _again(body, receive), send)
        finally:
            self.held -= taken

    async def _read(
        self, path: str, headers: Headers, receive: Receive, take: Callable[[Message], Message]
    ) -> bytes | None:
        """The whole body; None from a client that went away.

        Raises:
            APIError: too many bytes, values or levels.
        """
        has_pictures = path.startswith(_WITH_PICTURES) and path != "/v1/images/generations"
        most = self.settings.max_body if has_pictures else min(self.settings.max_json, self.settings.max_body)
        stated = headers.get("content-length", "0")
        body = bytearray()  # grows in place: a stranger may send it byte by byte
        size, more = int(stated) if stated.isdecimal() else 0, True
        while more and size <= most:
            message = take(await receive())
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            size, more = len(body), message.get("more_body", False)
        if size > most:
            raise APIError("too_large", f"the request is too large: at most {most:,} bytes are accepted here")
        whole = bytes(body)
        await (_check(whole) if len(whole) <= _AT_ONCE else run_in_threadpool(_look_through, whole))
        return whole


async def _check(body: bytes) -> None:
    _look_through(body)


def _look_through(body: bytes) -> None:
    """Refuse what would be too much as JSON; whether it is JSON is the API's to say."""
    text = body.decode(json.detect_encoding(body), "replace")  # as the parser will
    try:
        check_json_extent(text, "the body", MOST_LEVELS, MOST_VALUES)
    except ValueError as error:
        raise APIError("invalid", str(error)) from None


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives a body which was read before, and then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def _metered(receive: Receive, take: Callable[[Message], Message]) -> Receive:
    async def metered() -> Message:
        message = await receive()
        try:
            return take(message)
        except APIError as error:  # in the words that every framework behind this one knows
            raise HTTPException(429, error.message, {"retry-after": f"{_WAIT:.0f}"}) from None

    return metered
