"""What clients of the OpenAI Images API send, read and checked: JSON bodies, and forms with pictures.

Comes in: their fields. Goes out: one body, the pictures beside it, and warnings. A field is done, or refused by its
name, or named in the warnings; none is passed over in silence. Addresses of pictures are not fetched: a picture comes
as a file or as a data address.

Source: the OpenAI Images API as its Python client 3.54 speaks it.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from leanlens.files import parse_json
from leanlens.reason import WORDS
from leanlens.serve.encode import SUFFIXES
from leanlens.serve.errors import APIError
from leanlens.serve.reasoning import Fixed
from leanlens.serve.settings import ServerSettings
from leanlens.serve.uploads import from_base64

QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
# Names of the hosted service's models, which answer in one form; other names are answered in both.
_LINKED = ("dall-e",)
_NEVER_LINKED = ("gpt-image", "chatgpt-image")
_PICTURE_PART = re.compile(r"(image|mask)(?:\[\d{0,3}\])?")
_MOST_NAMED = 20  # names of unknown fields in one answer
# Fields that would make it another picture than the one that is drawn, and why they are refused.
_REFUSED = {
    "markup": "a drawing over the picture is not read; use mask to mark what to repaint",
    "svg": "pictures of pixels are drawn, no SVG",
    "frame_count": "still pictures are drawn, no animation",
    "frame_duration_ms": "still pictures are drawn, no animation",
}
# What is to be given, in our words -> pydantic's names for those who gave something else.
_WANTED = {
    "a whole number": ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
    "a number": ("float_type", "float_parsing", "finite_number"),
    "true or false": ("bool_type", "bool_parsing"),
    "text": ("string_type",),
    "a list": ("list_type",),
    "at most {max_length} of them": ("too_long",),
    "an object with named fields": ("model_type", "model_attributes_type", "dict_type"),
    "{ge} or more": ("greater_than_equal",),
    "{le} or less": ("less_than_equal",),
}


class LoraBody(BaseModel):
    """A LoRA by the name of its file, and how strongly it acts."""

    name: str
    scale: float = Field(1.0, allow_inf_nan=False)


def _parse_loras(value: Any) -> Any:
    """Forms carry LoRAs as JSON text; a bare name is one at its full strength."""
    if isinstance(value, str):
        try:
            value = parse_json(value, "the text")
        except ValueError as error:
            raise ValueError(f"is no JSON list of {{name, scale}}: {error}") from None
    return [{"name": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value


LoraList = Annotated[list[LoraBody], Field(max_length=16), BeforeValidator(_parse_loras)]


class ImageBody(BaseModel):
    """What all three kinds of requests share; null is left out, and unknown fields are kept to be named."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    elsewhere: ClassVar[dict[str, str]] = {}
    """Fields that another route takes, and which."""

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
        """Refuse values that no field takes, and fields that cannot be done.

        Raises:
            APIError: the first of them.
        """
        for field, why in (*_REFUSED.items(), *self.elsewhere.items()):
            if (self.model_extra or {}).get(field) is not None:
                raise APIError("invalid", f"{field} is not accepted: {why}", field)
        for field, accepted in _CHOICES.items():
            value = getattr(self, field)
            if value is not None and value not in accepted:
                raise APIError("invalid", f"{field} {value[:40]!r} is not accepted; use {', '.join(accepted)}", field)

    def require_prompt(self) -> None:
        """Refuse a body whose prompt is missing or blank."""
        if "prompt" not in self.model_fields_set:
            raise APIError("missing", "prompt is missing", "prompt")
        if not self.prompt.strip():
            raise APIError("missing", "prompt is empty; say what is to be seen", "prompt")

    def warnings(self) -> list[str]:
        """What of the body is not done, by its names."""
        found = [f"{field} {getattr(self, field)} is ignored: {why}"
                 for field, (plain, why) in _SAID.items() if getattr(self, field) not in plain]  # fmt: skip
        if self.partial_images and not self.stream:
            found.append("partial_images is ignored: they come only with stream")
        if self.stream and self.response_format == "url":
            found.append("response_format url is ignored: events carry the picture itself")
        if self.output_compression is not None and self.output_format in (None, "png"):
            found.append("output_compression is ignored: PNG loses nothing")
        unknown = [name for name, value in (self.model_extra or {}).items() if value is not None]
        found += [f"{_short(name)} is not known and is ignored" for name in unknown[:_MOST_NAMED]]
        if len(unknown) > _MOST_NAMED:
            found.append(f"{len(unknown) - _MOST_NAMED} more fields are not known and are ignored")
        return found

    @property
    def names(self) -> dict[str, str]:
        """Our names of fields -> those that this body used."""
        steps = "steps" if self.num_inference_steps is None and self.steps is not None else "num_inference_steps"
        cfg = "cfg_scale" if self.guidance_scale is None and self.cfg_scale is not None else "guidance_scale"
        names = {"num_inference_steps": steps, "guidance_scale": cfg}
        return names if self.width is None and self.height is None else names | {"size": "width x height"}

    @property
    def wants_links(self) -> bool:
        """Whether `url` is answered: as asked, else unless the hosted service does not for the name of the model."""
        if self.response_format is not None:
            return self.response_format == "url"
        return not (self.model or "").lower().startswith(_NEVER_LINKED)

    @property
    def wants_base64(self) -> bool:
        """Whether `b64_json` is answered: as asked, else unless the hosted service links for the name of the model."""
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
# Fields that are accepted and not done -> the values that ask for nothing, and why.
_SAID: dict[str, tuple[tuple[str | None, ...], str]] = {
    "style": ((None,), "the prompt alone says how the picture looks"),
    "moderation": ((None, "auto"), "the operator of this server sets its filters"),
    "input_fidelity": ((None, "low"), "strength says how much of the picture stays"),
    "complexity": ((None,), "nothing is planned before the drawing"),
}


class GenerationBody(ImageBody):
    """The body of `/v1/images/generations`."""

    prompt: str
    elsewhere: ClassVar[dict[str, str]] = dict.fromkeys(
        ("image", "image[]", "images", "mask"), "this route starts from words; send pictures to /v1/images/edits"
    )


class PromptBody(BaseModel):
    """The body of `/v1/prompts/reason`: what of a drawing bears on its caption."""

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
    """A picture inside a JSON body."""

    model_config = ConfigDict(extra="forbid")

    image_url: str | None = None
    file_id: str | None = None


class EditBody(ImageBody):
    """The JSON body of `/v1/images/edits`."""

    images: list[PictureReference] | PictureReference | None = None
    image: list[PictureReference | str] | PictureReference | str | None = None
    mask: PictureReference | str | None = None


@dataclass(frozen=True)
class Edit:
    """A request that starts from a picture: its body, the picture's bytes, and the mask's."""

    body: ImageBody
    image: bytes
    mask: bytes | None


async def read_edit(request: Request, settings: ServerSettings) -> Edit:
    """The form or the JSON body of `/v1/images/edits`.

    Raises:
        APIError: another content type, or whatever is wrong inside.
    """
    kind = _content_type(request)
    if kind == "application/json":
        edit = _from_json(await request.body(), settings)
        edit.body.check()
        return edit
    return await _read_form(request, settings, "multipart/form-data or application/json")


async def read_variation(request: Request, settings: ServerSettings) -> Edit:
    """The form of `/v1/images/variations`.

    Raises:
        APIError: another content type, or whatever is wrong inside.
    """
    return await _read_form(request, settings, "multipart/form-data")


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


# ------------------------------------------------------------------------------------------- forms


async def _read_form(request: Request, settings: ServerSettings, wanted: str) -> Edit:
    if (kind := _content_type(request)) != "multipart/form-data":
        raise APIError("invalid", f"content type {kind[:40]!r} is not accepted; send {wanted}")
    async with request.form(max_files=20, max_fields=100) as form:
        pictures: dict[str, list[tuple[str, UploadFile]]] = {"image": [], "mask": []}
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            part = _PICTURE_PART.fullmatch(name)
            if _is_blank(value):
                continue  # what a browser's form sends for a field that was left empty
            if part is not None:
                if not isinstance(value, UploadFile):
                    raise APIError("invalid", f"{name} is text; send a file", part[1])
                pictures[part[1]].append((name, value))
            else:
                _take_field(fields, name, value)
        image = await _only_file(pictures["image"], "image", settings)
        mask = await _only_file(pictures["mask"], "mask", settings)
    if image is None:
        raise APIError("missing", "image is missing", "image")
    try:
        edit = Edit(ImageBody.model_validate(fields), image, mask)
    except ValidationError as error:
        raise first_complaint(error.errors()) from None
    edit.body.check()
    return edit


def _is_blank(value: UploadFile | str) -> bool:
    return value == "" if isinstance(value, str) else not value.filename and not value.size


def _take_field(fields: dict[str, str], name: str, value: UploadFile | str) -> None:
    if name in _REFUSED:
        raise APIError("invalid", f"{name} is not accepted: {_REFUSED[name]}", name)
    if name not in ImageBody.model_fields:
        raise APIError("invalid", f"{_short(name)} is not known; known are image, mask, "
                      f"{', '.join(ImageBody.model_fields)}", _short(name))  # fmt: skip
    if not isinstance(value, str):
        raise APIError("invalid", f"{name} is a file; send text", name)
    if name in fields:
        raise APIError("invalid", f"{name} is given twice; send it once", name)
    fields[name] = value


async def _only_file(parts: list[tuple[str, UploadFile]], field: str, settings: ServerSettings) -> bytes | None:
    if not parts:
        return None
    if len(parts) > 1:
        raise _one_too_many(field, [upload.filename or name for name, upload in parts])
    part = parts[0][1]
    if (part.size or 0) > settings.max_upload:
        raise APIError("too_large", f"{field} has {part.size:,} bytes; at most {settings.max_upload:,} are", field)
    return await part.read()


def _one_too_many(field: str, names: list[str]) -> APIError:
    does = "is edited" if field == "image" else "is used"
    named = ", ".join(f"{field}[{index}] {_short(name)!r}" for index, name in enumerate(names[1:6], 1))
    return APIError(
        "invalid", f"{named} cannot be used: only the first picture {does}; send {field} {_short(names[0])!r} alone",
        field,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- JSON


def _from_json(content: bytes, settings: ServerSettings) -> Edit:
    try:
        given = parse_json(content, "the body")
    except ValueError as error:
        raise APIError("invalid", str(error)) from None
    try:
        body = EditBody.model_validate(given)
    except ValidationError as error:
        raise first_complaint(error.errors()) from None
    if body.images is not None and body.image is not None:
        raise APIError("invalid", "image is not accepted beside images; send images alone", "image")
    field = "images" if body.images is not None else "image"
    value: Any = getattr(body, field)
    given_pictures = value if isinstance(value, list) else [] if value is None else [value]
    if not given_pictures:
        raise APIError("missing", 'images is missing; send [{"image_url": "data:image/png;base64,..."}]', "images")
    if len(given_pictures) > 1:
        raise _one_too_many(field, [f"picture {index}" for index in range(1, len(given_pictures) + 1)])
    image = _referred(given_pictures[0], f"{field}[0]" if isinstance(value, list) else field, settings)
    mask = None if body.mask is None else _referred(body.mask, "mask", settings)
    return Edit(body, image, mask)


def _referred(given: PictureReference | str, field: str, settings: ServerSettings) -> bytes:
    """The bytes of a picture that a body carries as a data address; nothing is fetched."""
    reference = PictureReference(image_url=given) if isinstance(given, str) else given
    if reference.file_id is not None:
        raise APIError("invalid", f"{field}.file_id is not accepted: this server keeps no files; send image_url with a "
                      "data address", f"{field}.file_id")  # fmt: skip
    if reference.image_url is None:
        raise APIError("missing", f"{field}.image_url is missing", f"{field}.image_url")
    address = reference.image_url
    if address[:5].lower() != "data:":
        raise APIError(
            "invalid",
            f"{field}.image_url {address[:40]!r} is not accepted: addresses are not fetched; send "
            "data:image/png;base64,...",
            f"{field}.image_url",
        )
    if len(address) > settings.max_upload * 4 // 3 + 200:
        raise APIError("too_large", f"{field} has more than {settings.max_upload:,} bytes", field)
    return from_base64(address, f"{field}.image_url")


def first_complaint(errors: Any) -> APIError:
    """What pydantic complains of first, as the original would."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path") and not _is_branch(part)]
    field = ".".join(place) or None
    if first["type"] == "missing":
        return APIError("missing", f"{field or 'the body'} is missing", field)
    if first["type"] == "json_invalid":
        return APIError("invalid", "the body is no JSON: " + str(first.get("ctx", {}).get("error", first["msg"]))[:200])
    wanted = first["msg"][0].lower() + first["msg"][1:]
    for words, kinds in _WANTED.items():
        if first["type"] in kinds:
            wanted = f"give {words.format(**first.get('ctx', {}))}"
    given = first.get("input")
    value = f" {given!r}"[:60] if isinstance(given, str | int | float | bool) else ""
    return APIError("invalid", f"{field or 'the body'}{value} is not accepted: {wanted}"[:300], field)


def _is_branch(part: Any) -> bool:
    """Whether pydantic means one of several types that a field may have, and no field."""
    return str(part) in ("str", PictureReference.__name__) or str(part).startswith("list[")


def form_description(*required: str) -> dict[str, Any]:
    """What a form holds, for the API's own description."""
    text = {name: {"type": "string"} for name in ImageBody.model_fields}
    files = {name: {"type": "string", "format": "binary"} for name in ("image", "mask")}
    schema = {"type": "object", "properties": text | files, "required": list(required)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _short(name: str) -> str:
    return name if len(name) <= 60 else name[:60] + "…"
