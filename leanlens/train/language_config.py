"""The recipe of a language model's run: every key, its meaning and its default."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from leanlens.config import Section
from leanlens.train.config import (
    Average,
    Count,
    EventFiles,
    Guard,
    Minutes,
    Name,
    Optim,
    Run,
    Save,
    StepCount,
    require_rate_to_the_end,
    without_save_every,
)


class Sizes(Section):
    """Sizes of the language model."""

    vocabulary: Annotated[int, Field(ge=512)] = 4096
    width: Count = 256
    layers: Count = 6
    heads: Count = 4
    kv_heads: Count = 2
    head_dim: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    experts: Count = 4
    experts_per_token: Count = 2
    expert_width: Count = 256
    window: Count = 128
    """Width of the attention window of every second layer, tokens."""
    features: tuple[Annotated[int, Field(ge=0)], ...] = (1, 3, 5)
    """Layers, counted from 0, whose output a denoiser reads. Layers after the last of them are not exported."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.features or max(self.features) >= self.layers or list(self.features) != sorted({*self.features}):
            raise ValueError(
                f"invalid language.features {list(self.features)}: expected rising numbers from 0 to "
                f"{self.layers - 1}, the last layer"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"invalid language.heads {self.heads}: expected a multiple of language.kv_heads {self.kv_heads}"
            )
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"invalid language.experts_per_token {self.experts_per_token}: expected at most language.experts "
                f"{self.experts}"
            )
        return self


class Captions(Section):
    """Training data."""

    sources: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Shards or folders of captioned pictures; the pictures are not read."""
    batch: Count = 32
    """Captions in a step."""
    kinds: Annotated[tuple[Literal["brief", "dense", "text"], ...], Field(min_length=1)] = ("brief", "dense", "text")
    """Which captions of a picture are used, each with equal chance."""


class Steps(Section):
    """How long, and in what precision."""

    steps: StepCount
    minutes: Minutes | None = None
    """Minutes after which a process stops, even before `steps`; the learning rate schedule then follows the clock."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"

    _moved = model_validator(mode="before")(without_save_every)


class LanguageRecipe(Section):
    """A whole run. A recipe with a table `[language]` is one of these."""

    run: Run
    language: Sizes = Sizes()
    captions: Captions
    train: Steps
    optim: Optim = Optim(lr=1e-3, betas=(0.9, 0.95), warmup=50)
    ema: Average = Average()
    save: Save = Save(every=500)
    guard: Guard = Guard(spike=math.inf)
    metrics: EventFiles = EventFiles()

    @model_validator(mode="after")
    def _learns_to_the_end(self, info: ValidationInfo) -> Self:
        require_rate_to_the_end(self.train.steps, self.train.minutes, self.optim, info)
        return self

    @model_validator(mode="after")
    def _by_adamw(self) -> Self:
        if self.optim.matrices != "adamw":
            raise ValueError(f"invalid optim.matrices {self.optim.matrices!r} for a language model: expected 'adamw'")
        return self
