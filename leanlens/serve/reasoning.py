"""Rewrites prompts into captions before they are drawn, as the operator and each request say.

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
from leanlens.serve.errors import APIError, invalid
from leanlens.serve.library import Library
from leanlens.serve.settings import ServerSettings
from leanlens.weights.triggers import trigger_phrases

MOST_FIXED = 64
"""Facts that one request may set."""
_KEY, _VALUE = 40, MAX_PROMPT_CHARACTERS  # characters; a quoted text is a value too


def _from_form(value: object) -> object:
    """Forms carry the object as JSON text."""
    try:
        return parse_json(value, "the text") if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"is not a JSON object of facts: {error}") from None


Fixed = Annotated[
    dict[
        Annotated[str, Field(max_length=_KEY)],
        Annotated[str, Field(max_length=_VALUE, coerce_numbers_to_str=True)],
    ],
    Field(max_length=MOST_FIXED),
    BeforeValidator(_from_form),
]
"""Key of a fact -> its value, in bodies of requests; a value may be a JSON number."""


class Reasoning:
    """The reasoners of a server's models.

    Args:
        settings: whether prompts are rewritten at all.
        library: resolves names of models.
    """

    def __init__(self, settings: ServerSettings, library: Library):
        self.settings = settings
        self.library = library
        self._reasoners: dict[str, Reasoner | None] = {}

    def reasoner(self, model: str, word: str | None = None) -> Reasoner | None:
        """The reasoner for a request with this value of `reason`; off if the operator has turned it off.

        Raises:
            APIError: another value.
        """
        if word is not None and word not in WORDS:
            raise invalid("reason", word, " or ".join(WORDS))
        if "off" in (word, self.settings.reason):
            return None
        source = self.library.source(model)
        if source not in self._reasoners:  # without a lock: a model may have to be downloaded
            try:
                found = reasoner_of_model(source)
            except (ValueError, OSError) as error:  # the worker that cannot open it tells the client
                logger.warning("prompts for %s are not rewritten: %s", model, error)
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
        """Each request with the caption that the reasoner makes of its prompt and seed.

        Raises:
            APIError: an invalid value of `reason`, key or value of `fixed`, or `fixed` where nothing is rewritten.
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
        """Reject facts that would have no effect."""
        why = None
        if request.image is not None:
            why = "a prompt with an image is not rewritten"
        elif request.reasoner is not None:
            why = "the prompt has been rewritten already"
        elif reasoner is None:
            off = "this request turns the reasoner off" if word == "off" else "this server's reasoner is off"
            why = off if "off" in (word, self.settings.reason) else f"{model} has no reasoner"
        if why is not None:
            raise APIError("invalid", f"invalid fixed: {why}", "fixed")


def triggers_of(loras: Sequence[LoraChoice]) -> tuple[str, ...]:
    """The trigger phrases of LoRA files. A file that cannot be read is skipped here; the worker reports it."""
    found: list[str] = []
    for lora in loras:
        try:
            found += trigger_phrases(Path(lora.path))
        except (ValueError, OSError) as error:
            logger.warning("the trigger phrases of %s are unknown: %s", Path(lora.path).name, error)
    return tuple(dict.fromkeys(found))


def not_understood(records: Sequence[Reasoned | None], model: str) -> list[str]:
    """A sentence for each word that the reasoner does not know, once for all images of a request."""
    words = [word.sentence(model) for record in records if record is not None for word in record.not_understood]
    return list(dict.fromkeys(words))
