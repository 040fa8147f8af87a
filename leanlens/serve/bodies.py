"""Limits request bodies before anything parses them: bytes of each and of all together, and the structure of JSON.

A parser makes hundreds of bytes of memory out of two bytes of JSON, so a body that is small as an upload may be far too
large as JSON.
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
# Routes that take images as base64 inside JSON, which is then as large as an upload.
_WITH_IMAGES = ("/sdapi/v1/img2img", "/sdapi/v1/png-info", "/sdapi/v1/extra-", "/v1/images/")
_AT_ONCE = 64 << 10  # bytes that are checked in the event loop; more are checked in a thread
_WAIT = 5.0  # seconds after which a rejected client may retry


class BodyLimits:
    """Middleware that limits the size and the structure of request bodies.

    Args:
        app: the app inside.
        settings: the limits.
        error_response: a path and an error -> the response in the format of that path's API.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, error_response: Callable[[str, APIError], Response]):
        self.app = app
        self.settings = settings
        self.error_response = error_response
        self.held = 0
        """Bytes of all bodies whose requests are being answered."""

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
            except HTTPException as error:  # `RequestMiddleware` counted more than any body may have
                too_large = APIError("too_large", error.detail)
                await self.error_response(scope["path"], too_large)(scope, receive, send)
                return
            except APIError as error:
                await self.error_response(scope["path"], error)(scope, receive, send)
                return
            if body is not None:
                await self.app(scope, _replayed(body, receive), send)
        finally:
            self.held -= taken

    async def _read(
        self, path: str, headers: Headers, receive: Receive, take: Callable[[Message], Message]
    ) -> bytes | None:
        """The whole body; None when the client disconnected.

        Raises:
            APIError: too many bytes, values or levels.
        """
        has_images = path.startswith(_WITH_IMAGES) and path != "/v1/images/generations"
        most = self.settings.max_body if has_images else min(self.settings.max_json, self.settings.max_body)
        stated = headers.get("content-length", "0")
        body = bytearray()  # grows in place: a client may send it byte by byte
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
        await (_check(whole) if len(whole) <= _AT_ONCE else run_in_threadpool(_check_extent, whole))
        return whole


async def _check(body: bytes) -> None:
    _check_extent(body)


def _check_extent(body: bytes) -> None:
    """Reject what would be too large as JSON. Whether it is JSON at all is for the API to say."""
    text = body.decode(json.detect_encoding(body), "replace")  # as the parser will
    try:
        check_json_extent(text, "the body", MOST_LEVELS, MOST_VALUES)
    except ValueError as error:
        raise APIError("invalid", str(error)) from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives a body that was read before, and then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return left.pop() if left else await receive()

    return replayed


def _metered(receive: Receive, take: Callable[[Message], Message]) -> Receive:
    async def metered() -> Message:
        message = await receive()
        try:
            return take(message)
        except APIError as error:  # the exception that every framework inside this middleware knows
            raise HTTPException(429, error.message, {"retry-after": f"{_WAIT:.0f}"}) from None

    return metered
