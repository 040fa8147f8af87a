"""Draws with an OpenAI-compatible images endpoint, whose key comes from an environment variable.

A prompt goes to the address that the user named and nowhere else. So an answer that gives the address of an image is
followed only to the same host, or to one that the user named too: any other could be reached with what the endpoint
chose, also inside the user's network.

Source: OpenAI's images interface.
"""

import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin, urlsplit

from PIL import Image

import leanlens
from leanlens.endpoint import Answer, Asker, Endpoint, Reply, read_key
from leanlens.evaluate.image_models.spec import ModelSpec
from leanlens.evaluate.suite import Drawn, ImageFailed, Item
from leanlens.files import parse_json
from leanlens.log import logger
from leanlens.pictures.decode import decode

MOST_BYTES = 64 * 2**20  # of an answer: an image of 4096 x 4096 pixels as base64
TIMEOUT = 300.0  # seconds for one try, where the user gives none


class ImagesEndpoint:
    """A column drawn by an images endpoint, one image a request.

    Args:
        spec: the model; its source is the address and, after #, the model there.

    Raises:
        ValueError: an invalid address or setting, or the environment variable of the key is not set.
    """

    def __init__(self, spec: ModelSpec) -> None:
        address, _, model = spec.source.partition("#")
        options = spec.options
        endpoint = Endpoint(
            address,
            model,
            key_variable=options.get("key", ""),
            concurrency=options.get("workers", 1),
            requests_per_minute=options.get("rpm"),
            tries=options.get("tries", 5),
            timeout=options.get("timeout", TIMEOUT),
        )
        self.name = spec.name
        self.workers = endpoint.concurrency
        self._options = options
        self._endpoint = endpoint
        self._asker = Asker(endpoint, read_key(endpoint))
        named = [host.strip() for host in options.get("hosts", "").split(";") if host.strip()]
        self._hosts = {urlsplit(address).netloc, *named}
        self._sends_seed = options.get("seeds", True)

    def identity(self) -> dict[str, Any]:
        """The address, the model's name there and the settings; what the server draws with is not known."""
        settings = {name: self._options.get(name) for name in ("size", "quality")}
        return {
            "kind": "images endpoint",
            "leanlens": leanlens.__version__,
            "url": self._endpoint.url.rstrip("/"),
            "model": self._endpoint.model,
            "settings": {**settings, "seeds": self._options.get("seeds", True)},
        }

    def draw(self, item: Item, seed: int) -> Drawn:
        """The image of an item. Several threads may call this.

        Raises:
            ImageFailed: the endpoint refused, gave no image, one of another size, or no answer in all tries.
            ValueError: the endpoint knows neither the key nor the model, so that it draws nothing.
        """
        size = self._options.get("size") or item.size
        began = time.perf_counter()
        answer = self._ask(item.prompt, size, seed)
        if not answer.failure and isinstance(answer.value, str):
            answer = self._fetch(answer.value)
        if self._asker.hopeless is not None:
            raise ValueError(f"{self.name} at {self._endpoint.url} draws nothing: {self._asker.hopeless.detail}")
        if answer.failure:
            raise ImageFailed(f"{answer.failure}: {answer.detail}")
        image: Image.Image = answer.value
        if size is not None and image.size != tuple(size):
            raise ImageFailed(
                f"the image has {image.width} x {image.height} pixels; asked for were {size[0]} x {size[1]}"
            )
        return Drawn(image, time.perf_counter() - began, notes=_revised(answer))

    def costs(self) -> dict[str, Any]:
        """Nothing is known of what is behind the address."""
        return {}

    def close(self) -> None:
        """Stop what is under way."""
        self._asker.stopped.set()

    def _ask(self, prompt: str, size: tuple[int, int] | None, seed: int) -> Answer:
        """The answer, whose value is an image, or the address of one."""
        answer = self._asker.post("images/generations", self._body(prompt, size, seed), _read_image, most=MOST_BYTES)
        if answer.failure == "refused" and self._sends_seed and "seed" in answer.detail.lower():
            logger.warning("%s takes no seed: its images cannot be drawn again", self.name)
            self._sends_seed = False
            return self._ask(prompt, size, seed)
        return answer

    def _body(self, prompt: str, size: tuple[int, int] | None, seed: int) -> dict[str, Any]:
        model = self._endpoint.model
        body = {
            "model": model,
            "prompt": prompt,
            "n": 1,
            "size": None if size is None else f"{size[0]}x{size[1]}",
            "quality": self._options.get("quality"),
            "seed": seed if self._sends_seed else None,
            # These models always answer so, and refuse to be asked.
            "response_format": None if "gpt-image" in model else "b64_json",
        }
        return {name: value for name, value in body.items() if value is not None}

    def _fetch(self, address: str) -> Answer:
        """The image at an address, if it is one that may be asked."""
        address = urljoin(f"{self._endpoint.url}/", address)
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or parts.netloc not in self._hosts:
            host = parts.netloc or parts.scheme
            return Answer(
                "invalid",
                f"the image is at another host, {host[:100]}, which is asked only if hosts={host[:100]} names it",
            )
        if parts.netloc == urlsplit(self._endpoint.url).netloc:
            return self._asker.get(address, _read_file, MOST_BYTES)
        without_key = Asker(replace(self._endpoint, key_variable=""), "")
        return without_key.get(address, _read_file, MOST_BYTES)


def _read_image(content: bytes, clean: Callable[[str], str]) -> Reply:
    """The image in the body of an answer, or the address of one, as the answer's value."""
    try:
        table = parse_json(content, "the answer")
        first = table["data"][0]
        text = str(first.get("revised_prompt") or "")
        if first.get("b64_json"):
            return _decoded(base64.b64decode(first["b64_json"], validate=True), text)
        address = first["url"]
        if address.startswith("data:"):
            return _decoded(base64.b64decode(address.partition(",")[2], validate=True), text)
        return Reply(Answer(text=text, value=address))
    except binascii.Error:
        return Reply(Answer("invalid", "the image is no base64"), True)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        begin = clean(content[:400].decode("utf-8", "replace"))
        return Reply(Answer("invalid", f"no image: {begin}"), True)


def _read_file(content: bytes, clean: Callable[[str], str]) -> Reply:
    return _decoded(content, "")


def _decoded(data: bytes, text: str) -> Reply:
    """One that cannot be decoded may have been cut off: worth another try."""
    try:
        return Reply(Answer(text=text, value=decode(data)))
    except ValueError as error:
        return Reply(Answer("invalid", str(error)), True)


def _revised(answer: Answer) -> dict[str, Any]:
    """The prompt that the endpoint says it drew in place of the one that it was given."""
    return {"revised_prompt": answer.text} if answer.text else {}
