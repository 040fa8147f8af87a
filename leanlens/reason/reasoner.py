"""The protocol of reasoners, the choice of one for a model folder, and applying it to a request.

The rewritten request has the caption as its prompt and carries the record. Negative prompts, empty prompts, image to
image requests and requests that already carry a record are left unchanged. `<lora:...>` tags must be removed before.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from leanlens.files import read_json
from leanlens.hub import model_folder
from leanlens.pipeline.reasoned import Ask, Reasoned
from leanlens.pipeline.request import ImageRequest

if TYPE_CHECKING:
    from leanlens.reason.remote import EndpointReasoner

WORDS = ("default", "off")
ADDRESS = "URL#MODEL[,KEY=VALUE]..."
CAPTION_STYLES = ("scenes/common", "scenes/everyday")
"""Caption styles that a model folder may state: captions of `scenes/describe.py` about the things of a library."""


class Reasoner(Protocol):
    """Rewrites prompts. The same requests give the same captions in every process.

    `source` is its name and version for the record; `words` are the things that it knows.
    """

    source: str

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]: ...


def check_word(word: str) -> None:
    """Raise a ValueError unless `word` is one of `WORDS`."""
    if word not in WORDS:
        raise ValueError(f"invalid reason {word[:40]!r}: expected {' or '.join(WORDS)}")


def reasoner_for(folder: Path, word: str = "default") -> Reasoner | None:
    """The reasoner for the caption style that a model folder states in its `model_index.json`, or None.

    Args:
        word: "default", or "off" for none.

    Raises:
        ValueError: an invalid word, or an unknown caption style in the folder.
    """
    check_word(word)
    library = None if word == "off" else caption_library(folder)
    if library is None:
        return None
    from leanlens.reason.scenes import SceneReasoner

    return SceneReasoner(library)


def caption_library(folder: Path) -> str | None:
    """The library of things in a model's captions, "common" or "everyday"; None if its folder states no caption style.

    Raises:
        ValueError: an unknown caption style in the folder.
    """
    index = Path(folder) / "model_index.json"
    style = read_json(index).get("caption_style") if index.is_file() else None
    if style is None:
        return None
    if style not in CAPTION_STYLES:
        raise ValueError(f"{index}: unknown caption_style {style!r}: expected one of {', '.join(CAPTION_STYLES)}")
    return style.removeprefix("scenes/")


def is_address(word: str) -> bool:
    """Whether a `--reason` is the address of a language model, and not one of `WORDS`."""
    return "://" in word


def reasoner_at(address: str, system_prompt: str | None = None) -> "EndpointReasoner":
    """The reasoner that asks a language model at an address of the form ADDRESS.

    Args:
        system_prompt: a name or a text file; the prompt for Lens without it.

    Raises:
        ValueError: an invalid address or system prompt, or the environment variable of the key is not set.
    """
    from leanlens.endpoint_spec import parse_endpoint
    from leanlens.reason.remote import EndpointReasoner
    from leanlens.reason.system_prompts import DEFAULT, read_system_prompt

    endpoint = parse_endpoint(address, f"reason {address[:80]!r}", f"{' or '.join(WORDS)}, or {ADDRESS}")
    return EndpointReasoner(endpoint, read_system_prompt(system_prompt or DEFAULT))


def reasoner_of_model(model: str, word: str = "default") -> Reasoner | None:
    """The reasoner of a model by its name, as `reasoner_for` has it of its folder; None for a model without one.

    Raises:
        ValueError: as `reasoner_for`, or the model is not known.
        OSError: the model is not on this machine and cannot be downloaded.
    """
    check_word(word)
    folder = None if word == "off" else model_folder(model)
    return None if folder is None else reasoner_for(folder, word)


def reason_request(
    reasoner: Reasoner | None,
    request: ImageRequest,
    triggers: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
) -> ImageRequest:
    """Rewrite the prompt of a request; unchanged without a reasoner, or if there is nothing to rewrite.

    Raises:
        ValueError: an invalid key or value in `fixed`.
    """
    if reasoner is None or request.reasoner is not None or request.image is not None or not request.prompt.strip():
        return request
    ask = Ask(request.prompt, request.seed, request.width, request.height, tuple(triggers), dict(fixed or {}))
    (answer,) = reasoner([ask])
    return request.model_copy(update={"prompt": answer.prompt, "reasoner": answer})
