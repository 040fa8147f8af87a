"""Checks every HTTP request before an API sees it: id, key, origin and size. Logs and counts every response."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leanlens.serve.errors import APIError
from leanlens.serve.logging import REQUEST
from leanlens.serve.metrics import ServerMetrics
from leanlens.serve.settings import ServerSettings

# Health checks need no key. Names of images cannot be guessed, and `<img>` sends no key.
_OPEN = re.compile(r"/(health|ready|pictures/[^/]+)")
GONE = 499  # status in the log for a client that disconnected before the response began
_OURS = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.ASCII | re.IGNORECASE)
_ID = re.compile(r"[\w.:-]{1,80}", re.ASCII)

log = logging.getLogger("leanlens.serve")


class RequestMiddleware:
    """Middleware for request ids, authentication, body sizes, log lines and unexpected errors.

    Args:
        app: the app inside.
        settings: keys and limits.
        metrics: counts responses.
        error_response: a path and an error -> the response in the format of that path's API.
        is_closing: whether the server is stopping.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        metrics: ServerMetrics,
        error_response: Callable[[str, APIError], Response],
        is_closing: Callable[[], bool] = lambda: False,
    ):
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.error_response = error_response
        self.is_closing = is_closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket" and self.settings.requires_auth and self._owner(scope) is None:
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        headers, began = Headers(scope=scope), time.perf_counter()
        given = headers.get("x-request-id", "")
        identity = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        answer: dict[str, object] = {"status": None, "job": None}
        REQUEST.set(identity)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = answer["status"] or message["status"]
                sent = MutableHeaders(scope=message)
                answer["job"] = sent.get("x-job-id")
                sent["x-request-id"] = identity
                sent["x-process-time"] = f"{time.perf_counter() - began:.4f}"
            await send(message)

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and answer["status"] is None:
                answer["status"] = GONE
            return message

        try:
            target = _origin_form(scope)
            if isinstance(target, Response):
                await target(scope, receive, tell)
            elif isinstance(target, APIError):
                await self.error_response(scope["path"], target)(scope, receive, tell)
            else:
                scope = target
                await self._pass_on(scope, watched, tell, Headers(scope=scope))
        except ClientDisconnect:  # while the body was being read
            answer["status"] = answer["status"] or GONE
        except asyncio.CancelledError:
            if not self.is_closing():
                raise
            await self._end(scope, answer["status"] is None, tell)
        except Exception:
            log.exception("request %s ended in an unexpected error", identity)
            if answer["status"] is None:
                error = APIError("failed", "the server made a mistake; its log says which")
                await self.error_response(scope["path"], error)(scope, receive, tell)
        finally:
            self._log_response(scope, identity, answer, time.perf_counter() - began)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        owner = self._owner(scope)
        path = scope["path"]
        if self.settings.loopback_only and not _OURS.fullmatch(headers.get("host", "")):
            error = APIError("forbidden", "this server answers to localhost only; its operator can allow other hosts")
            await self.error_response(path, error)(scope, receive, send)
            return
        if owner is None and not _OPEN.fullmatch(path):
            error = APIError("unauthorized", "the API key or password is missing or wrong")
            await self.error_response(path, error)(scope, receive, send)
            return
        if not self._is_allowed_origin(headers):
            error = APIError("forbidden", "web pages of other origins are not allowed; the operator can allow them")
            await self.error_response(path, error)(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self.settings.max_body:
            await self.error_response(path, self._too_large())(scope, receive, send)
            return
        scope.setdefault("state", {})["owner"] = owner or "anyone"
        await self.app(scope, self._counted(receive), send)

    async def _end(self, scope: Scope, is_unanswered: bool, send: Send) -> None:
        """The server stops before the response has ended: answer with an error, or close the stream."""

        async def nothing() -> Message:
            return {"type": "http.disconnect"}

        if is_unanswered:
            error = APIError("unavailable", "the server is shutting down", retry_after=10)
            await self.error_response(scope["path"], error)(scope, nothing, send)
        else:
            with suppress(Exception):  # a response with a content length is cut off
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _is_allowed_origin(self, headers: Headers) -> bool:
        """False for a page of another origin; otherwise any page that the user visits could draw on this machine."""
        origin, allowed = headers.get("origin"), self.settings.cors_origins
        if origin is None or origin in allowed or "*" in allowed:
            return True
        own = (headers.get("host"), (self.settings.public_url or "").partition("://")[2].partition("/")[0])
        host = origin.partition("://")[2]  # empty for "null", which a page without an origin sends
        return host != "" and host in own

    def _counted(self, receive: Receive) -> Receive:
        """`receive` that enforces the limit on bodies with a wrong content length or none."""
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.settings.max_body:
                raise HTTPException(413, self._too_large().message)
            return message

        return counted

    def _too_large(self) -> APIError:
        return APIError("too_large", f"the request is too large: at most {self.settings.max_body:,} bytes are accepted")

    def _owner(self, scope: Scope) -> str | None:
        """The client's key or user, or its address if none are set; None for a client that is not allowed."""
        if not self.settings.requires_auth:  # clients may send empty or meaningless credentials; they are ignored
            client = scope.get("client")
            return str(client[0]) if client else "local"
        kind, _, value = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._known_key(value.strip())
        if kind.lower() == "basic":
            return self._known_user(value.strip())
        return None

    def _known_key(self, key: str) -> str | None:
        found = [known for known in self.settings.api_keys if _same(known, key)]
        return f"key {hashlib.sha256(key.encode()).hexdigest()[:12]}" if found else None

    def _known_user(self, value: str) -> str | None:
        """A user with the right password. A key is accepted as the password of any user."""
        try:
            name, _, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
        if name in self.settings.users:
            return f"user {name}" if _same(self.settings.users[name], password) else None
        return self._known_key(password)

    def _log_response(self, scope: Scope, identity: str, answer: dict[str, object], seconds: float) -> None:
        api = scope["path"].split("/")[1] if scope["path"].count("/") > 1 else "other"
        status = answer["status"] or GONE
        self.metrics.requests.labels(door=api if api in ("v1", "sdapi", "pictures") else "other", status=status).inc()
        line = {
            "request": identity, "method": scope["method"], "path": scope["path"][:200], "status": status,
            "seconds": round(seconds, 3), "owner": scope.get("state", {}).get("owner"), "job": answer["job"],
        }  # fmt: skip
        line = {key: value for key, value in line.items() if value is not None}
        log.info("%s", json.dumps(line), extra={"line": line})


def _origin_form(scope: Scope) -> Scope | Response | APIError:
    """The request with a path as its target; other forms are converted, answered or rejected (RFC 9112, 3.2)."""
    path, method = scope["path"], scope["method"]
    if method in ("CONNECT", "TRACE"):
        return APIError("method", "this method is not supported")
    if path.startswith("/"):
        return scope
    if path == "*" and method == "OPTIONS":
        return Response(status_code=204, headers={"allow": "GET, HEAD, POST, OPTIONS"})
    scheme, separator, rest = path.partition("://")
    host, _, local = rest.partition("/")
    if scheme.lower() not in ("http", "https") or not separator or not host:
        return APIError("invalid", "invalid request target: expected a path")
    raw = scope.get("raw_path", b"").partition(b"://")[2].partition(b"/")[2]
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {
        **scope, "path": f"/{local}", "raw_path": b"/" + raw,
        "headers": [(b"host", host.encode("latin-1", "replace")), *headers],
    }  # fmt: skip


def _same(known: str, given: str) -> bool:
    return hmac.compare_digest(known.encode(), given.encode("utf-8", "replace"))
