"""Defines `ImageRequest`, the validated request that every interface fills in.

A request leaves nothing open, so the same request gives the same image wherever it came from.
"""

import math
import random
from numbers import Integral
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.template_date import DEFAULT_DATE, MAX_SEQUENCE_LENGTH, resolve_date
from leanlens.resolution import require_whole_tokens

MAX_PROMPT_CHARACTERS = 32_000
MAX_SEED = 2**64 - 1
RANDOM_SEED = -1  # what many programs send for "any"
LatentResize = Literal["nearest", "nearest-exact", "bilinear", "bilinear-antialias", "bicubic", "bicubic-antialias"]


class LoraChoice(BaseModel):
    """A LoRA file and its scale; 1 is as trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    scale: float = Field(1.0, ge=-100, le=100, allow_inf_nan=False)


class ImageRequest(BaseModel):
    """Everything that decides an image, given a model.

    `ImageRequest.checked(...)` builds one, and raises a `ValueError` of one sentence for invalid values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
    """What to draw."""
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] = ""
    """What the image should not show; blank means zero text tokens, not an encoded empty string."""
    width: int
    """Pixels, a multiple of 16."""
    height: int
    """Pixels, a multiple of 16."""
    num_inference_steps: int
    """Number of denoising steps."""
    guidance_scale: float
    """1 turns guidance off."""
    seed: int
    """Seed of this image; of several, image i has the first seed plus i. -1 becomes a random seed."""
    image: str | None = None
    """Path of an image to start from."""
    mask: str | None = None
    """Path of a mask of the same size as `image`; white is repainted."""
    strength: float | None = None
    """Share of the denoising steps to run on `image`."""
    latent_resize: LatentResize | None = None
    """Resize the latents of `image` in this way, instead of its pixels."""
    loras: tuple[LoraChoice, ...] = ()
    """LoRAs, in the order in which they are applied."""
    template_date: str = DEFAULT_DATE
    """The date in the text template, YYYY-MM-DD."""
    max_sequence_length: int = Field(MAX_SEQUENCE_LENGTH, ge=1, le=4096)
    """Limit of text tokens, including those of the template."""
    exact: bool = False
    """Run both guidance branches in one masked batch, as the released code does."""
    reasoner: Reasoned | None = None
    """How a reasoner wrote the prompt, or None; decides no pixel."""

    @classmethod
    def checked(cls, **fields: Any) -> "ImageRequest":
        """Build one.

        Raises:
            ValueError: one sentence that names the field, its value and what was expected.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise ValueError(describe(error)) from None

    @property
    def asked(self) -> str:
        """The original prompt, before any reasoner."""
        return self.prompt if self.reasoner is None else self.reasoner.original

    @model_serializer(mode="wrap")
    def _without_what_is_rarely_asked(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `latent_resize` and `reasoner` out where they are None, as in records of earlier versions.

        What a reasoner spent is left out too, so that the same image gives the same file.
        """
        rare, spent = ("latent_resize", "reasoner"), ("seconds",)
        written = {name: value for name, value in write(self).items() if name not in rare or value is not None}
        if isinstance(written.get("reasoner"), dict):
            written["reasoner"] = {name: value for name, value in written["reasoner"].items() if name not in spent}
        return written

    @field_validator("template_date")
    @classmethod
    def _date(cls, value: str) -> str:
        return resolve_date(value)

    @field_validator("seed")
    @classmethod
    def _seed(cls, value: int) -> int:
        return resolve_seed(value)

    @model_validator(mode="after")
    def _fits_together(self) -> "ImageRequest":
        check_steps(self.num_inference_steps)
        check_guidance(self.guidance_scale)
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(
                f"invalid seed {self.seed}: expected an integer from 0 to {MAX_SEED}, or -1 for a random one"
            )
        if self.strength is not None:
            check_strength(self.strength)
        require_whole_tokens("height", self.height)
        require_whole_tokens("width", self.width)
        if self.image is None and (self.mask is not None or self.strength is not None):
            raise ValueError("mask and strength need an image to start from; give image too")
        if self.image is not None and self.strength is None:
            raise ValueError("strength is missing; give a number above 0 and up to 1 beside image")
        if self.latent_resize is not None and (self.image is None or self.mask is not None):
            raise ValueError("latent_resize needs an image to start from, and no mask; give image, and no mask")
        return self


def resolve_seed(seed: int | None) -> int:
    """The seed itself, or a random one below 2^32 for None and -1."""
    return random.randrange(2**32) if seed is None or seed == RANDOM_SEED else seed


def describe(error: ValidationError) -> str:
    """One error of pydantic as a sentence: an unknown name if there is one, since it may be a missing name misspelt."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":  # our own sentence
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        fields = (ImageRequest if len(first["loc"]) == 1 else LoraChoice).model_fields
        return f"{name} is not a known setting; known are {', '.join(fields)}"
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "finite_number":
        return f"invalid {name} {first['input']!r}: expected a finite number"
    if first["type"] == "string_too_long":
        return f"{name} has {len(first['input']):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are accepted"
    return f"invalid {name} {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def check_steps(steps: int) -> None:
    """Raise a ValueError unless `steps` is an integer from 1 to 1000."""
    if not isinstance(steps, Integral) or not 1 <= steps <= 1000:
        raise ValueError(f"invalid num_inference_steps {steps!r}: expected an integer from 1 to 1000")


def check_guidance(scale: float) -> None:
    """Raise a ValueError unless `scale` is a number from 0 to 100."""
    if not math.isfinite(scale) or not 0 <= scale <= 100:
        raise ValueError(f"invalid guidance_scale {scale!r}: expected a number from 0 to 100 (1 turns guidance off)")


def check_strength(strength: float) -> None:
    """Raise a ValueError unless `strength` is above 0 and up to 1."""
    if not 0 < strength <= 1:
        raise ValueError(f"invalid strength {strength!r}: expected a number above 0 and up to 1")
