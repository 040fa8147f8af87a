"""Looks for servers of language models on this machine, at the ports that they have by default; it asks no other."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from leanlens.files import parse_json

PORTS = {"Ollama": 11434, "LM Studio": 1234, "llama.cpp": 8080}
TIMEOUT = 1.0  # seconds
MOST_BYTES = 2**20


@dataclass(frozen=True)
class LocalServer:
    """A server that answered.

    Attributes:
        name: the program whose port it has.
        url: base of its interface.
        models: their names there.
    """

    name: str
    url: str
    models: tuple[str, ...]

    @property
    def addresses(self) -> list[str]:
        """What `--reason` takes for each model."""
        return [f"{self.url}#{model}" for model in self.models]


def find_servers(ports: Mapping[str, int] = PORTS, timeout: float = TIMEOUT) -> list[LocalServer]:
    """The servers at some ports of this machine that list their models as OpenAI's interface does."""
    with ThreadPoolExecutor(len(ports) or 1, "servers") as pool:
        found = pool.map(lambda row: _ask(row[0], f"http://localhost:{row[1]}/v1", timeout), ports.items())
    return [server for server in found if server is not None]


def _ask(name: str, url: str, timeout: float) -> LocalServer | None:
    import requests

    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor a key of a .netrc file
        try:
            with session.get(f"{url}/models", timeout=timeout, allow_redirects=False, stream=True) as response:
                content = response.raw.read(MOST_BYTES, decode_content=True)
                models = _models(content) if response.status_code == 200 else None
        except (requests.RequestException, OSError):
            return None
    return None if models is None else LocalServer(name, url, models)


def _models(content: bytes) -> tuple[str, ...] | None:
    """The names in a list of models; None for another page."""
    try:
        table: Any = parse_json(content, "the answer")
        return tuple(str(one["id"]) for one in table["data"])
    except (ValueError, KeyError, TypeError):
        return None
