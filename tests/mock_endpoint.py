"""An OpenAI-compatible server for tests, on this machine, that answers as well or as badly as it is told to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One reply of the server.

    Attributes:
        delay: seconds before it.
        drop: close the connection without a reply.
        body: bytes in place of the completion.
        logprobs: for each token of the answer, the most probable tokens, its own first.
    """

    text: str | None = "yes"
    status: int = 200
    finish_reason: str = "stop"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False
    body: bytes | None = None
    content_type: str = "application/json"
    tokens: tuple[int, int] | None = (10, 2)
    logprobs: list[dict[str, float]] | None = None


def too_many(**headers: str) -> Reply:
    body = b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'
    return Reply(status=429, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=body)


def broken() -> Reply:
    return Reply(status=500, body=b"<h1>Internal Server Error</h1>", content_type="text/html")


def html() -> Reply:
    return Reply(body=b"<html>Sign in</html>", content_type="text/html")


def prose() -> Reply:
    return Reply("Well, I would say that this picture mostly shows it.")


def cut_off() -> Reply:
    return Reply("", finish_reason="length", tokens=(10, 1024))


def other_language() -> Reply:
    return Reply("Ja, das stimmt.")


class MockEndpoint:
    """What it was asked, and how.

    Attributes:
        bodies: of all requests, in the order in which they came.
        most_at_once: requests in flight at the same time, at most.
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]):
        self.reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def begin(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        """Note a request, and choose its reply by its body and how often that came before."""
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            name = json.dumps(body, sort_keys=True)
            self._counts[name] = self._counts.get(name, -1) + 1
            return self.reply(body, self._counts[name])

    def end(self) -> None:
        with self._lock:
            self._now -= 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def mock_endpoint(reply: Callable[[dict[str, Any], int], Reply] | None = None) -> Iterator[MockEndpoint]:
    """A server that is gone afterwards.

    Args:
        reply: from the body of a request, and how often the same came before; "yes" to everything without it.
    """
    server = MockEndpoint(reply or (lambda body, count: Reply()))
    try:
        yield server
    finally:
        server.close()


def prompt_of(body: dict[str, Any]) -> str:
    """The words of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def _completion(reply: Reply, model: str) -> bytes:
    message = {"role": "assistant", "content": reply.text}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    if reply.logprobs is not None:
        choice["logprobs"] = {"content": [_place(told) for told in reply.logprobs]}
    table: dict[str, Any] = {"id": "c", "object": "chat.completion", "model": model, "choices": [choice]}
    if reply.tokens is not None:
        table["usage"] = {"prompt_tokens": reply.tokens[0], "completion_tokens": reply.tokens[1]}
    return json.dumps(table).encode()


def _place(told: dict[str, float]) -> dict[str, Any]:
    rows = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in told.items()]
    return {**rows[0], "top_logprobs": rows}


def _handler(server: MockEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            reply = server.begin(json.loads(content), {"path": self.path, **self.headers})
            try:
                time.sleep(reply.delay)
                self._answer(reply, json.loads(content)["model"])
            except OSError:  # the client has gone
                self.close_connection = True
            finally:
                server.end()

        def _answer(self, reply: Reply, model: str) -> None:
            if reply.drop:
                self.close_connection = True
                return
            body = _completion(reply, model) if reply.body is None else reply.body
            self.send_response(reply.status)
            for name, value in {"Content-Type": reply.content_type, **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
