"""A leanlens server, asked through its OpenAI API.

Comes in: an address and the fields of a request. Goes out: finished pictures as bytes; while it lasts, looks at
half-drawn ones and how far the job is. Needs nothing but Python. Knows nothing of ComfyUI.

The key, where the server asks for one, is taken from the environment variable LEANLENS_API_KEY and never from a node,
because ComfyUI writes every node's values into its pictures.
"""

import base64
import http.client
import json
import os
import queue
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

KEY = "LEANLENS_API_KEY"
_POLL = 0.25  # seconds between looks at whether the user has interrupted, and at how far the job is


class ServerError(RuntimeError):
    """The server refused or could not be reached; the message is for the user."""


class Server:
    """A server at `address`, such as http://127.0.0.1:8000, as `read_address` takes it.

    Raises:
        ValueError: an address that is not http or https.
    """

    def __init__(self, address: str, timeout: float = 600.0):
        self.address, self.timeout = read_address(address), timeout
        self._parts = urlsplit(self.address)

    def draw(
        self,
        fields: dict[str, Any],
        files: dict[str, bytes] | None = None,
        look: Callable[[bytes], None] = lambda picture: None,
        progress: Callable[[float], None] = lambda done: None,
    ) -> list[bytes]:
        """Draw, and give the finished pictures as PNG files.

        Args:
            fields: of `/v1/images/generations`; with `files`, of `/v1/images/edits`.
            files: PNG bytes of `image` and perhaps `mask`.
            look: called with a half-drawn picture now and then.
            progress: called a few times a second with 0 to 1; an exception it raises cancels the job.

        Raises:
            ServerError: what the server answered, in its words.
        """
        job = uuid.uuid4().hex
        fields = fields | {"stream": True, "partial_images": 3, "response_format": "b64_json"}
        body, kind = _form(fields, files) if files else (json.dumps(fields).encode(), "application/json")
        path = "/v1/images/edits" if files else "/v1/images/generations"
        found: queue.Queue[Any] = queue.Queue()
        connection = self._connection()
        arguments = (connection, path, body, kind, job, found)
        threading.Thread(target=self._read, args=arguments, daemon=True).start()
        try:
            return self._collect(found, job, look, progress)
        except ServerError:
            raise  # nothing is left to stop there
        except BaseException:
            self._cancel(job)
            raise
        finally:
            connection.close()

    def ask(self, path: str, method: str = "GET") -> Any:
        """The JSON answer of a route.

        Raises:
            ServerError: unreachable, or another status than 200.
        """
        connection = self._connection(timeout=5)
        try:
            connection.request(method, self._parts.path + path, headers=self._headers())
            return _checked(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _collect(
        self, found: "queue.Queue[Any]", job: str, look: Callable[[bytes], None], progress: Callable[[float], None]
    ) -> list[bytes]:
        pictures: list[bytes] = []
        done = 0.0
        while True:
            progress(done)
            try:
                event = found.get(timeout=_POLL)
            except queue.Empty:
                done = max(done, self._progress(job))
                continue
            if event is None:
                break
            if isinstance(event, Exception):
                raise event
            if "error" in event:
                raise ServerError(f"{self.address}: {event['error'].get('message', event['error'])}")
            if event["type"].endswith(".partial_image"):
                look(base64.b64decode(event["b64_json"]))
            elif event["type"].endswith(".completed"):
                pictures.append(base64.b64decode(event["b64_json"]))
        if not pictures:
            raise ServerError(f"{self.address} ended its answer without a picture")
        progress(1.0)
        return pictures

    def _read(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, kind: str, job: str, found: Any
    ) -> None:
        """In a thread of its own: the events of a streamed answer, then None, or what went wrong."""
        try:
            headers = self._headers() | {"Content-Type": kind, "X-Job-Id": job}
            connection.request("POST", self._parts.path + path, body, headers)
            response = connection.getresponse()
            if response.status != 200:
                _checked(response)
            for event in _events(response):
                found.put(event)
            found.put(None)
        except ServerError as error:
            found.put(error)
        except Exception as error:  # the waiting side raises it; a closed connection is nobody's concern any more
            found.put(self._unreachable(error))

    def _progress(self, job: str) -> float:
        """How far a job is; 0 where the server has no such route or is busy."""
        try:
            return float(self.ask(f"/v1/jobs/{job}")["progress"])
        except (ServerError, KeyError, TypeError, ValueError):
            return 0.0

    def _cancel(self, job: str) -> None:
        """Tell the server to stop; a server without that route stops when the connection closes."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                self.ask(f"/v1/jobs/{job}/cancel", "POST")
            except ServerError:
                time.sleep(0.1)  # not known there yet, or ended
                continue
            return

    def _connection(self, timeout: float | None = None) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=timeout or self.timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=timeout or self.timeout)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(KEY, "")
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _unreachable(self, error: Exception) -> ServerError:
        return ServerError(f"no leanlens server answers at {self.address} ({error}); start one with `leanlens serve`")


def read_address(text: str) -> str:
    """An address as people write it -> one with a scheme and without a slash or `/v1` at its end.

    Raises:
        ValueError: no host, another scheme than http and https, or a port that is none.
    """
    address = text.strip()
    if "://" not in address:
        address = f"http://{address}"
    address = address.rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        parts = urlsplit(address)
        known = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known or any(character.isspace() for character in address):
        raise ValueError(f"address {text!r} is not accepted; give one such as http://127.0.0.1:8000")
    return address


def _checked(response: http.client.HTTPResponse) -> Any:
    """The JSON of an answer, or its error in the server's words."""
    text = response.read()
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    if response.status == 200:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get("message") if isinstance(error, dict) else text[:200].decode("utf-8", "replace")
    hint = f"; set the environment variable {KEY}" if response.status == 401 else ""
    raise ServerError(f"the server answered {response.status}: {said}{hint}")


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The data of server-sent events, one JSON object each."""
    data: list[str] = []
    for raw in response:
        line = raw.decode("utf-8").rstrip("\r\n")
        if line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            text = "\n".join(data)
            data = []
            if text != "[DONE]":
                yield json.loads(text)


def _form(fields: dict[str, Any], files: dict[str, bytes]) -> tuple[bytes, str]:
    """multipart/form-data: values that are no text are written as JSON."""
    boundary = uuid.uuid4().hex
    parts: list[bytes] = []
    for name, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(head.encode() + text.encode("utf-8") + b"\r\n")
    for name, data in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n'
        parts.append(head.encode() + b"Content-Type: image/png\r\n\r\n" + data + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
