"""A client of a leanlens server's AUTOMATIC1111 API, with progress and interruption.

It needs only Python 3.10, because the web UI pins other versions of everything that leanlens depends on.
"""

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

POLL = 0.5  # seconds between requests for progress


class ServerError(RuntimeError):
    """The server returned an error or is unreachable; the message is for the user."""


class Server:
    """A server.

    Args:
        address: such as http://127.0.0.1:8000.
        key: an API key, or `name:password` for HTTP Basic; empty sends none.
        timeout: maximum seconds for one image or batch.

    Raises:
        ServerError: the address is not http or https.
    """

    def __init__(self, address: str, key: str = "", timeout: float = 600.0):
        self.address = read_address(address)
        self.key, self.timeout = key.strip(), timeout

    def draw(
        self,
        tab: str,
        body: "dict[str, Any]",
        on_progress: Callable[["dict[str, Any]"], None],
        is_interrupted: Callable[[], bool],
    ) -> "dict[str, Any]":
        """Post to `txt2img` or `img2img` and wait; if the user interrupts, the server is told once.

        Returns:
            The response with `info` parsed: `images` (base64), `parameters`, `info`.

        Raises:
            ServerError: the server's error message.
        """
        found: dict[str, Any] = {}
        thread = threading.Thread(target=self._post, args=(tab, body, found), daemon=True)
        thread.start()
        told = False
        while thread.is_alive():
            if is_interrupted() and not told:
                told = True
                self.ask("interrupt", {})
            elif not told:
                progress = self._progress()
                if progress is not None:
                    on_progress(progress)
            thread.join(POLL)
        if "error" in found:
            raise found["error"]
        answer = found["answer"]
        try:
            return {**answer, "info": json.loads(answer["info"])}
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"leanlens: {self.address} answered without info: {error}") from error

    def ask(self, route: str, body: "dict[str, Any] | None" = None, timeout: float = 10.0) -> Any:
        """GET a route under /sdapi/v1, or POST if there is a body.

        Raises:
            ServerError: unreachable, or an error status.
        """
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = urllib.request.Request(f"{self.address}/sdapi/v1/{route}", data, self._headers())
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise ServerError(f"leanlens: the server answered {error.code}: {_said(error)}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(
                f"leanlens: no server answers at {self.address} ({reason}); start one with `leanlens serve`, or "
                "correct the address in the settings"
            ) from error

    def models(self) -> "list[str]":
        """Names of the models that the server offers."""
        return [one["title"] for one in self.ask("sd-models")]

    def _post(self, tab: str, body: "dict[str, Any]", found: "dict[str, Any]") -> None:
        try:
            found["answer"] = self.ask(tab, body, self.timeout)
        except ServerError as error:
            found["error"] = error

    def _progress(self) -> "dict[str, Any] | None":
        """The server's progress; None if it does not answer, which the main request then reports."""
        try:
            return self.ask("progress?skip_current_image=false")
        except ServerError:
            return None

    def _headers(self) -> "dict[str, str]":
        headers = {"Content-Type": "application/json"}
        if ":" in self.key:
            headers["Authorization"] = "Basic " + base64.b64encode(self.key.encode("utf-8")).decode("ascii")
        elif self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers


def read_address(text: str) -> str:
    """Normalise an address: add a scheme, and remove a trailing slash, `/v1` or `/sdapi/v1`.

    Raises:
        ServerError: no host, a scheme other than http and https, or an invalid port.
    """
    address = text.strip()
    if "://" not in address:
        address = f"http://{address}"
    address = address.rstrip("/").removesuffix("/v1").removesuffix("/sdapi").rstrip("/")
    try:
        parts = urlsplit(address)
        known = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known or any(character.isspace() for character in address):
        raise ServerError(f"leanlens: invalid address {text!r}: expected one such as http://127.0.0.1:8000")
    return address


def _said(error: urllib.error.HTTPError) -> str:
    """The server's error message: `detail` of the A1111 API, `error.message` of the others."""
    text = error.read().decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except ValueError:
        return text[:200]
    inner = body.get("error")
    return str(body.get("detail") or (inner.get("message") if isinstance(inner, dict) else inner) or text[:200])
