"""Requests that start from an image: the forms and the JSON bodies of edits and variations.

URLs are not fetched: an image comes as a file or as a data URL.
"""

import re
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from leanlens.files import parse_json
from leanlens.serve.errors import APIError
from leanlens.serve.openai_bodies import UNSUPPORTED, EditBody, ImageBody, PictureReference, shortened
from leanlens.serve.settings import ServerSettings
from leanlens.serve.uploads import from_base64
from leanlens.serve.validation_errors import validation_error

_PICTURE_PART = re.compile(r"(image|mask)(?:\[\d{0,3}\])?")


@dataclass(frozen=True)
class Edit:
    """A request that starts from an image: its body, and the bytes of the image and the mask."""

    body: ImageBody
    image: bytes
    mask: bytes | None


async def read_edit(request: Request, settings: ServerSettings) -> Edit:
    """The form or the JSON body of `/v1/images/edits`.

    Raises:
        APIError: another content type, or an invalid field.
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
        APIError: another content type, or an invalid field.
    """
    return await _read_form(request, settings, "multipart/form-data")


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


# ------------------------------------------------------------------------------------------- forms


async def _read_form(request: Request, settings: ServerSettings, wanted: str) -> Edit:
    if (kind := _content_type(request)) != "multipart/form-data":
        raise APIError("invalid", f"invalid content type {kind[:40]!r}: expected {wanted}")
    async with request.form(max_files=20, max_fields=100) as form:
        pictures: dict[str, list[tuple[str, UploadFile]]] = {"image": [], "mask": []}
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            part = _PICTURE_PART.fullmatch(name)
            if _is_blank(value):
                continue  # browsers send this for a field that was left empty
            if part is not None:
                if not isinstance(value, UploadFile):
                    raise APIError("invalid", f"invalid {name}: expected a file, not text", part[1])
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
        raise validation_error(error.errors()) from None
    edit.body.check()
    return edit


def _is_blank(value: UploadFile | str) -> bool:
    return value == "" if isinstance(value, str) else not value.filename and not value.size


def _take_field(fields: dict[str, str], name: str, value: UploadFile | str) -> None:
    if name in UNSUPPORTED:
        raise APIError("invalid", f"{name} is not supported: {UNSUPPORTED[name]}", name)
    if name not in ImageBody.model_fields:
        raise APIError("invalid", f"{shortened(name)} is not a field: expected image, mask, "
                      f"{', '.join(ImageBody.model_fields)}", shortened(name))  # fmt: skip
    if not isinstance(value, str):
        raise APIError("invalid", f"invalid {name}: expected text, not a file", name)
    if name in fields:
        raise APIError("invalid", f"{name} is given twice", name)
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
    named = ", ".join(f"{field}[{index}] {shortened(name)!r}" for index, name in enumerate(names[1:6], 1))
    return APIError(
        "invalid", f"{named} cannot be used: only the first picture {does}; send {field} {shortened(names[0])!r} alone",
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
        raise validation_error(error.errors()) from None
    if body.images is not None and body.image is not None:
        raise APIError("invalid", "image and images are both given; send one of them", "image")
    field = "images" if body.images is not None else "image"
    value: Any = getattr(body, field)
    given_pictures = value if isinstance(value, list) else [] if value is None else [value]
    if not given_pictures:
        raise APIError("missing", 'images is missing; send [{"image_url": "data:image/png;base64,..."}]', "images")
    if len(given_pictures) > 1:
        raise _one_too_many(field, [f"picture {index}" for index in range(1, len(given_pictures) + 1)])
    image = _bytes_of(given_pictures[0], f"{field}[0]" if isinstance(value, list) else field, settings)
    mask = None if body.mask is None else _bytes_of(body.mask, "mask", settings)
    return Edit(body, image, mask)


def _bytes_of(given: PictureReference | str, field: str, settings: ServerSettings) -> bytes:
    """The bytes of an image that a body carries as a data URL; nothing is fetched."""
    reference = PictureReference(image_url=given) if isinstance(given, str) else given
    if reference.file_id is not None:
        raise APIError(
            "invalid",
            f"{field}.file_id is not supported: this server stores no files; send image_url with a data URL",
            f"{field}.file_id",
        )
    if reference.image_url is None:
        raise APIError("missing", f"{field}.image_url is missing", f"{field}.image_url")
    address = reference.image_url
    if address[:5].lower() != "data:":
        raise APIError(
            "invalid",
            f"invalid {field}.image_url {address[:40]!r}: URLs are not fetched; expected a data URL, "
            "data:image/png;base64,...",
            f"{field}.image_url",
        )
    if len(address) > settings.max_upload * 4 // 3 + 200:
        raise APIError("too_large", f"{field} has more than {settings.max_upload:,} bytes", field)
    return from_base64(address, f"{field}.image_url")
