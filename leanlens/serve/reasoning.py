"""Prompts rewritten into captions before they are drawn, as the operator and each request say.

Comes in: requests that the service has checked. Goes out: the same requests, each with its own caption and record.

Source: `leanlens.reason`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from leanlens.files import parse_json
from leanlens.log import logger
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import MAX_PROMPT_CHARACTERS, ImageRequest, LoraChoice
from leanlens.reason import WORDS, Reasoner, reason_request, reasoner_of_model
from leanlens.serve.errors import APIError
from leanlens.serve.library import Library
from leanlens.serve.settings import ServerSettings
from leanlens.weights.triggers import trigger_phrases

MOST_FIXED = 64
"""Facts that one request may fix."""
_KEY, _VALUE = 40, MAX_PROMPT_CHARACTERS  # characters; a quoted text is a value too


def _from_form(value: object) -> object:
    """Forms carry an object as JSON text."""
    try:
        return parse_json(value, "the text") if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"is no JSON object of facts: {error}") from None


Fixed = Annotated[
    dict[
        Annotated[str, Field(max_length=_KEY)],
        Annotated[str, Field(max_length=_VALUE, coerce_numbers_to_str=True)],
    ],
    Field(max_length=MOST_FIXED),
    BeforeValidator(_from_form),
]
"""Key of a fact -> its value, as bodies have them; a number may be written as one."""


class Reasoning:
    """The reasoners of a server's models.

    Args:
        settings: whether prompts are rewritten at all.
        library: what models' names mean.
    """

    def __init__(self, settings: ServerSettings, library: Library):
        self.settings = settings
        self.library = library
        self._reasoners: dict[str, Reasoner | None] = {}

    def reasoner(self, model: str, word: str | None = None) -> Reasoner | None:
        """The reasoner that a request with this word gets; what the operator has turned off stays off.

        Raises:
            APIError: another word.
        """
        if word is not None and word not in WORDS:
            raise APIError("invalid", f"reason {word[:40]!r} is not accepted; use {' or '.join(WORDS)}", "reason")
        if "off" in (word, self.settings.reason):
            return None
        source = self.library.source(model)
        if source not in self._reasoners:  # found out without a lock: a model may have to be downloaded for it
            try:
                found = reasoner_of_model(source)
            except (ValueError, OSError) as error:  # the worker that cannot open it says so to the client
                logger.warning("prompts for %s are drawn as they are: %s", model, error)
                found = None
            self._reasoners.setdefault(source, found)
        return self._reasoners[source]

    def rewrite(
        self,
        requests: Sequence[ImageRequest],
        model: str,
        word: str | None = None,
        fixed: Mapping[str, str] | None = None,
    ) -> list[ImageRequest]:
        """Each request with the caption that its seed makes of its prompt.

        Raises:
            APIError: a word, a key or a value that is not accepted, or `fixed` where nothing is rewritten.
        """
        reasoner = self.reasoner(model, word)
        if fixed:
            self._check_fixed(reasoner, requests[0], model, word)
        triggers = triggers_of(requests[0].loras) if reasoner is not None else ()
        try:
            return [reason_request(reasoner, request, triggers, fixed) for request in requests]
        except ValueError as error:
            raise APIError("invalid", str(error), "fixed" if fixed else None) from None

    def _check_fixed(self, reasoner: Reasoner | None, request: ImageRequest, model: str, word: str | None) -> None:
        """Refuse facts that nothing would be made of."""
        why = None
        if request.image is not None:
            why = "the prompt beside an image is drawn as it is"
        elif request.reasoner is not None:
            why = "the prompt has been rewritten already"
        elif reasoner is None:
            off = "this request turns the reasoner off" if word == "off" else "this server's reasoner is off"
            why = off if "off" in (word, self.settings.reason) else f"{model} has no reasoner"
        if why is not None:
            raise APIError("invalid", f"fixed is not accepted: {why}", "fixed")


def triggers_of(loras: Sequence[LoraChoice]) -> tuple[str, ...]:
    """The phrases that LoRA files listen to; of a file that cannot be read, the worker says what is wrong."""
    found: list[str] = []
    for lora in loras:
        try:
            found += trigger_phrases(Path(lora.path))
        except (ValueError, OSError) as error:
            logger.warning("the trigger of %s is not known: %s", Path(lora.path).name, error)
    return tuple(dict.fromkeys(found))


def not_understood(records: Sequence[Reasoned | None], model: str) -> list[str]:
    """A sentence for each word that the reasoner does not know, once for all images of a request."""
    words = [word.sentence(model) for record in records if record is not None for word in record.not_understood]
    return list(dict.fromkeys(words))
