"""A client of a leanlens server's OpenAI API, with previews, progress and cancellation; it needs only Python.

The API key comes from the environment variable LEANLENS_API_KEY and never from a node, because ComfyUI writes the
values of all nodes into its images.
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
_POLL = 0.25  # seconds between checks for interruption and progress


class ServerError(RuntimeError):
    """The server returned an error or is unreachable; the message is for the user."""


class Server:
    """A server at `address`, such as http://127.0.0.1:8000; see `read_address`.

    Raises:
        ValueError: the address is not http or https.
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
        """Generate images and return them as PNG files.

        Args:
            fields: fields of `/v1/images/generations`; with `files`, of `/v1/images/edits`.
            files: PNG bytes of `image` and optionally `mask`.
            look: called with preview images.
            progress: called a few times a second with 0 to 1; if it raises an exception, the job is cancelled.

        Raises:
            ServerError: the server's error message.
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
        """The JSON response of a route.

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
        """Run in a thread: put the events of a streamed response into `found`, then None or an exception."""
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
        except Exception as error:  # the consumer raises it, unless it closed the connection itself
            found.put(self._unreachable(error))

    def _progress(self, job: str) -> float:
        """The progress of a job; 0 if the server has no such route or is busy."""
        try:
            return float(self.ask(f"/v1/jobs/{job}")["progress"])
        except (ServerError, KeyError, TypeError, ValueError):
            return 0.0

    def _cancel(self, job: str) -> None:
        """Cancel the job; a server without that route stops when the connection closes."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                self.ask(f"/v1/jobs/{job}/cancel", "POST")
            except ServerError:
                time.sleep(0.1)  # the job is not known yet, or has ended
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
    """Normalise an address: add a scheme, and remove a trailing slash or `/v1`.

    Raises:
        ValueError: no host, a scheme other than http and https, or an invalid port.
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
        raise ValueError(f"invalid address {text!r}: expected one such as http://127.0.0.1:8000")
    return address


def _checked(response: http.client.HTTPResponse) -> Any:
    """The JSON of a response; raises the server's error message."""
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
    """The JSON data of server-sent events."""
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
    """Encode multipart/form-data; values other than strings are written as JSON."""
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
