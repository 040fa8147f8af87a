"""The protocol of reasoners, which one a model folder asks for, and a request put to it.

Comes in: a request as an API has filled it in, its prompt free of `<lora:...>`. Goes out: the same request with the
caption as its prompt and the record beside it. What is not for a reasoner is left alone: images to start from,
negative prompts, empty prompts, and requests that carry a record already.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from leanlens.files import read_json
from leanlens.hub import locate
from leanlens.pipeline.reasoned import Ask, Reasoned
from leanlens.pipeline.request import ImageRequest

WORDS = ("default", "off")
CAPTION_STYLES = ("scenes/common", "scenes/everyday")
"""What a folder may state: captions of `scenes/describe.py`, of the things of a library."""


class Reasoner(Protocol):
    """Rewrites prompts. The same asks give the same captions, in whatever process.

    `source` is its name and version as records have it; `words` are the things it knows.
    """

    source: str

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]: ...


def check_word(word: str) -> None:
    """Raise a ValueError unless `word` is one of `WORDS`."""
    if word not in WORDS:
        raise ValueError(f"reason {word[:40]!r} is not accepted; use {' or '.join(WORDS)}")


def reasoner_for(folder: Path, word: str = "default") -> Reasoner | None:
    """The reasoner of a model folder: the one for the style of captions that its `model_index.json` states.

    Args:
        word: "default", or "off" for none.

    Raises:
        ValueError: the word is neither, or the folder states a style of captions that is not known.
    """
    check_word(word)
    library = None if word == "off" else caption_library(folder)
    if library is None:
        return None
    from leanlens.reason.scenes import SceneReasoner

    return SceneReasoner(library)


def caption_library(folder: Path) -> str | None:
    """The library of things that a model's captions name, "common" or "everyday"; None where its folder states none.

    Raises:
        ValueError: the folder states a style of captions that is not known.
    """
    index = Path(folder) / "model_index.json"
    style = read_json(index).get("caption_style") if index.is_file() else None
    if style is None:
        return None
    if style not in CAPTION_STYLES:
        raise ValueError(f"{index}: caption_style {style!r} is not known; known are {', '.join(CAPTION_STYLES)}")
    return style.removeprefix("scenes/")


def reasoner_of_model(model: str, word: str = "default") -> Reasoner | None:
    """The reasoner of a model by its name, as `reasoner_for` has it of its folder; None for a single file, and for toy.

    Raises:
        ValueError: as `reasoner_for`, or the model is not known.
        OSError: it is not here and cannot be downloaded.
    """
    check_word(word)
    return None if word == "off" or model == "toy" else reasoner_for(locate(model), word)


def reason_request(
    reasoner: Reasoner | None,
    request: ImageRequest,
    triggers: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
) -> ImageRequest:
    """The request with its prompt rewritten; as it is where there is no reasoner, or nothing for one.

    Raises:
        ValueError: a key or a value of `fixed` that is not accepted.
    """
    if reasoner is None or request.reasoner is not None or request.image is not None or not request.prompt.strip():
        return request
    ask = Ask(request.prompt, request.seed, request.width, request.height, tuple(triggers), dict(fixed or {}))
    (answer,) = reasoner([ask])
    return request.model_copy(update={"prompt": answer.prompt, "reasoner": answer})
