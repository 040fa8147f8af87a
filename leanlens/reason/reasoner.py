"""The protocol of reasoners, which one a model folder asks for, and a request put to it.

Comes in: a request as a door has filled it in, its prompt free of `<lora:...>`. Goes out: the same request with the
caption as its prompt and the record beside it. What is not for a reasoner is left alone: images to start from,
negative prompts, empty prompts, and requests that carry a record already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from leanlens.files import read_json
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import ImageRequest

WORDS = ("default", "off")


@dataclass(frozen=True)
class Ask:
    """A prompt to rewrite.

    Attributes:
        seed: decides what the prompt leaves open; the same seed makes the same choices.
        width, height: of the image, pixels.
        triggers: words that a LoRA listens to; known things, kept word for word.
        fixed: key of a fact -> its value, before anything that the prompt says; "" takes the fact away.
    """

    prompt: str
    seed: int
    width: int
    height: int
    triggers: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)


class Reasoner(Protocol):
    """Rewrites prompts. The same asks give the same captions, in whatever process.

    `source` is its name and version as records have it; `words` are the things it knows.
    """

    source: str

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]: ...


def reasoner_for(folder: Path, word: str = "default") -> Reasoner | None:
    """The reasoner of a model folder: the one for the style of captions that its `model_index.json` states.

    Args:
        word: "default", or "off" for none.

    Raises:
        ValueError: the word is neither, or the folder states a style of captions that is not known.
    """
    if word not in WORDS:
        raise ValueError(f"reason {word!r} is not accepted; use {' or '.join(WORDS)}")
    index = Path(folder) / "model_index.json"
    if word == "off" or not index.is_file():
        return None
    style = read_json(index).get("caption_style")
    if style is None:
        return None
    if style != "scenes/common":
        raise ValueError(f"{index}: caption_style {style!r} is not known; known is scenes/common")
    from leanlens.reason.scenes import SceneReasoner

    return SceneReasoner()


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
    answer = answer.model_copy(update={"fixed": dict(ask.fixed)})
    return request.model_copy(update={"prompt": answer.prompt, "reasoner": answer})
