"""What a reasoner is asked, and what it made of a prompt: the record that stands in an image's settings.

A reasoner turns a person's prompt into a caption of the kind that the model learnt. The request's `prompt` is that
caption; what the person wrote, what was understood and what was not stand beside it, so that drawing again asks nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

FactKind = Literal["thing", "number", "color", "size", "place", "relation", "background", "style", "text"]


class Fact(BaseModel):
    """One thing that the caption says.

    Attributes:
        key: its name within the prompt, as `fixed` takes it: "thing 1", "number 1", "color 1", "relation 1",
            "background", "style", "text 1". The number is that of the thing; relations and texts count up.
        value: in the words of the model: "apple", "3", "red", "left of", "navy blue", "flat", the quoted string.
        label: for people: "red apple left of blue teapot".
        stated: the prompt or an edit states it; False for a choice by the seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    kind: FactKind
    value: str
    label: str
    stated: bool = True


class Unknown(BaseModel):
    """A word that the model does not know, and the known thing nearest to it with how near that is, 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: str
    nearest: str | None = None
    nearness: float = Field(default=0.0, ge=0, le=1)

    def sentence(self, model: str) -> str:
        """ "nano does not know 'lighthouse'; nearest: house (0.62)"."""
        near = f"; nearest: {self.nearest} ({self.nearness:.2f})" if self.nearest else ""
        return f"{model} does not know {self.word!r}{near}"


class Reasoned(BaseModel):
    """A prompt and what a reasoner made of it.

    Attributes:
        original: the prompt as it was given.
        prompt: what is drawn; the same as `original` where it was left alone.
        facts: what the caption says, things first.
        fixed: key -> value set by the caller, where it had an effect; "" for a removed fact. The same prompt, seed and
            size give the same caption only with the same `fixed`.
        not_understood: words that nothing is known of.
        language: of the prompt, as a two-letter code.
        source: the reasoner and its version, such as "scenes 1".
        seconds: that it took.
        left_alone: why the prompt was not rewritten; empty where it was.
        tokens: that a language model read and wrote for it, of all tries; None where none was asked, or its answer came
            from the cache.
        cost: of these tokens, in the currency of the endpoint's prices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    original: str
    prompt: str
    facts: tuple[Fact, ...] = ()
    fixed: dict[str, str] = Field(default_factory=dict)
    not_understood: tuple[Unknown, ...] = ()
    language: str = "en"
    source: str
    seconds: float = Field(default=0.0, ge=0)
    left_alone: str = ""
    tokens: tuple[int, int] | None = None
    cost: float = Field(default=0.0, ge=0)

    @model_serializer(mode="wrap")
    def _without_what_is_rarely_spent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `tokens` and `cost` out where nothing was spent, as in records of earlier versions."""
        rare = {"tokens": None, "cost": 0.0}
        return {name: value for name, value in write(self).items() if name not in rare or value != rare[name]}


def asked_prompt(request: Mapping[str, Any]) -> str:
    """The prompt as it was given, of a request as an image's settings hold it.

    Raises:
        KeyError, TypeError: settings of another form.
    """
    return str(request["reasoner"]["original"] if request.get("reasoner") else request["prompt"])


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
