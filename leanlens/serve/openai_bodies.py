"""JSON bodies of the OpenAI Images API, checked: every field is used, rejected by name, or named in the warnings.

Source: the OpenAI Images API as its Python client 3.54 speaks it.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from leanlens.files import parse_json
from leanlens.reason import WORDS
from leanlens.serve.encode import SUFFIXES
from leanlens.serve.errors import APIError, invalid
from leanlens.serve.reasoning import Fixed

QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
# Models of the hosted service that answer with a link, or with base64; other names get both.
_LINKED = ("dall-e",)
_NEVER_LINKED = ("gpt-image", "chatgpt-image")
_MOST_NAMED = 20  # unknown fields that one response names
# Fields that would change the image and are not supported -> why.
UNSUPPORTED = {
    "markup": "use mask to mark what to repaint",
    "svg": "the output is always a bitmap",
    "frame_count": "the output is always a still image",
    "frame_duration_ms": "the output is always a still image",
}


class LoraBody(BaseModel):
    """A LoRA by the name of its file, and its scale."""

    name: str
    scale: float = Field(1.0, allow_inf_nan=False)


def _parse_loras(value: Any) -> Any:
    """Forms carry LoRAs as JSON text; a bare name means scale 1."""
    if isinstance(value, str):
        try:
            value = parse_json(value, "the text")
        except ValueError as error:
            raise ValueError(f"is not a JSON list of {{name, scale}}: {error}") from None
    return [{"name": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value


LoraList = Annotated[list[LoraBody], Field(max_length=16), BeforeValidator(_parse_loras)]


class ImageBody(BaseModel):
    """Fields of all three routes. null means left out; unknown fields are kept for the warnings."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    elsewhere: ClassVar[dict[str, str]] = {}
    """Fields that belong to another route -> why."""

    prompt: str = ""
    model: str | None = None
    n: int | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    output_format: str | None = None
    output_compression: int | None = Field(None, ge=0, le=100)
    response_format: str | None = None
    stream: bool | None = None
    partial_images: int | None = Field(None, ge=0, le=3)
    style: str | None = None
    moderation: str | None = None
    input_fidelity: str | None = None
    complexity: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    steps: int | None = None
    guidance_scale: float | None = Field(None, allow_inf_nan=False)
    cfg_scale: float | None = Field(None, allow_inf_nan=False)
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    strength: float | None = Field(None, allow_inf_nan=False)
    loras: LoraList | None = None
    reason: str | None = None
    fixed: Fixed | None = None

    def check(self) -> None:
        """Reject invalid values and unsupported fields.

        Raises:
            APIError: of the first one.
        """
        for field, why in (*UNSUPPORTED.items(), *self.elsewhere.items()):
            if (self.model_extra or {}).get(field) is not None:
                raise APIError("invalid", f"{field} is not supported: {why}", field)
        for field, accepted in _CHOICES.items():
            value = getattr(self, field)
            if value is not None and value not in accepted:
                raise invalid(field, value, f"one of {', '.join(accepted)}")

    def require_prompt(self) -> None:
        """Reject a body whose prompt is missing or blank."""
        if "prompt" not in self.model_fields_set:
            raise APIError("missing", "prompt is missing", "prompt")
        if not self.prompt.strip():
            raise APIError("missing", "prompt is empty", "prompt")

    def warnings(self) -> list[str]:
        """A sentence for each field that has no effect."""
        found = [f"{field} {getattr(self, field)} is ignored: {why}"
                 for field, (plain, why) in _WITHOUT_EFFECT.items() if getattr(self, field) not in plain]  # fmt: skip
        if self.partial_images and not self.stream:
            found.append("partial_images is ignored: it needs stream")
        if self.stream and self.response_format == "url":
            found.append("response_format url is ignored: events carry the image itself")
        if self.output_compression is not None and self.output_format in (None, "png"):
            found.append("output_compression is ignored: PNG is lossless")
        unknown = [name for name, value in (self.model_extra or {}).items() if value is not None]
        found += [f"{shortened(name)} is unknown and is ignored" for name in unknown[:_MOST_NAMED]]
        if len(unknown) > _MOST_NAMED:
            found.append(f"{len(unknown) - _MOST_NAMED} more fields are unknown and are ignored")
        return found

    @property
    def names(self) -> dict[str, str]:
        """Our names of fields -> the names that this body uses."""
        steps = "steps" if self.num_inference_steps is None and self.steps is not None else "num_inference_steps"
        cfg = "cfg_scale" if self.guidance_scale is None and self.cfg_scale is not None else "guidance_scale"
        names = {"num_inference_steps": steps, "guidance_scale": cfg}
        return names if self.width is None and self.height is None else names | {"size": "width x height"}

    @property
    def wants_links(self) -> bool:
        """Whether the response has `url`: as requested, else as the hosted service does for the model's name."""
        if self.response_format is not None:
            return self.response_format == "url"
        return not (self.model or "").lower().startswith(_NEVER_LINKED)

    @property
    def wants_base64(self) -> bool:
        """Whether the response has `b64_json`: as requested, else as the hosted service does for the model's name."""
        if self.response_format is not None:
            return self.response_format == "b64_json"
        return not (self.model or "").lower().startswith(_LINKED)


_CHOICES: dict[str, tuple[str, ...]] = {
    "quality": QUALITIES,
    "output_format": tuple(SUFFIXES),
    "response_format": ("url", "b64_json"),
    "background": ("auto", "opaque"),
    "style": ("vivid", "natural"),
    "moderation": ("auto", "low"),
    "input_fidelity": ("low", "high"),
    "complexity": ("low", "medium", "high"),
    "reason": WORDS,
}
# Fields without effect -> the values that need no warning, and why.
_WITHOUT_EFFECT: dict[str, tuple[tuple[str | None, ...], str]] = {
    "style": ((None,), "the style follows from the prompt alone"),
    "moderation": ((None, "auto"), "the operator of this server sets its filters"),
    "input_fidelity": ((None, "low"), "strength sets how much of the image stays"),
    "complexity": ((None,), "this model has no such setting"),
}


class GenerationBody(ImageBody):
    """The body of `/v1/images/generations`."""

    prompt: str
    elsewhere: ClassVar[dict[str, str]] = dict.fromkeys(
        ("image", "image[]", "images", "mask"), "this route takes no images; send them to /v1/images/edits"
    )


class PromptBody(BaseModel):
    """The body of `/v1/prompts/reason`: the fields that a caption depends on."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    seed: int | None = None
    size: str | None = None
    width: int | None = None
    height: int | None = None
    loras: LoraList | None = None
    reason: str | None = None
    fixed: Fixed | None = None


class PictureReference(BaseModel):
    """An image inside a JSON body."""

    model_config = ConfigDict(extra="forbid")

    image_url: str | None = None
    file_id: str | None = None


class EditBody(ImageBody):
    """The JSON body of `/v1/images/edits`."""

    images: list[PictureReference] | PictureReference | None = None
    image: list[PictureReference | str] | PictureReference | str | None = None
    mask: PictureReference | str | None = None


def form_description(*required: str) -> dict[str, Any]:
    """The schema of a form, for the OpenAPI description."""
    text = {name: {"type": "string"} for name in ImageBody.model_fields}
    files = {name: {"type": "string", "format": "binary"} for name in ("image", "mask")}
    schema = {"type": "object", "properties": text | files, "required": list(required)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def shortened(name: str) -> str:
    """A name for a message; a long one is cut."""
    return name if len(name) <= 60 else name[:60] + "…"
