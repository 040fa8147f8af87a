"""Defines the record of a captioned image, and reads captions from the fields of a sidecar or a table row.

A caption has a kind: "brief" (a phrase or sentence), "dense" (a paragraph) or "text" (unspecified).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leanlens.files import decode_text, parse_json, with_line_feeds

CAPTION_KINDS = ("brief", "dense", "text")

SIDECAR_SUFFIXES = ("json", "txt", "caption")

# Field name in files -> kind of caption. For each kind, the first name with text is used.
CAPTION_NAMES = {
    "brief": "brief",
    "short_caption": "brief",
    "dense": "dense",
    "long_caption": "dense",
    "text": "text",
    "caption": "text",
    "prompt": "text",
    "txt": "text",
    "description": "text",
}


@dataclass(frozen=True)
class Record:
    """An image as the bytes of its file, its captions by kind, and the other fields of its source."""

    key: str
    image: bytes
    captions: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """The index entry of a record: its size, the kinds of its captions, and its place in the source.

    `height` and `width` are in pixels, after applying the EXIF orientation. `place` is private to the source; `file`
    names the image's file in messages, if it has its own.
    """

    key: str
    height: int
    width: int
    kinds: tuple[str, ...]
    place: tuple[Any, ...]
    file: str = ""


def split_fields(fields: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Split fields into (captions by kind, everything else). Blank captions are dropped.

    Raises:
        ValueError: a caption contains a NUL character.
    """
    captions: dict[str, str] = {}
    extra: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in CAPTION_NAMES:
            extra[name] = value
    for name, kind in CAPTION_NAMES.items():
        value = fields.get(name)
        if kind not in captions and isinstance(value, str) and (caption := _cleaned(value)):
            captions[kind] = caption
    return captions, extra


def _cleaned(caption: str) -> str:
    """A caption without surrounding blanks and without a stray byte-order mark.

    Raises:
        ValueError: it contains a NUL character.
    """
    if "\0" in caption:
        raise ValueError("its caption contains a NUL character")
    return with_line_feeds(caption).strip(" \t\n\v\f\u00a0\u3000\ufeff").strip()


def read_sidecars(sidecars: Mapping[str, bytes]) -> dict[str, Any]:
    """Fields from the sidecars of one image, given by suffix: "json", and the text of "txt" or "caption".

    The text becomes the "text" caption if the .json has none.

    Raises:
        ValueError: a sidecar is not UTF-8, or not a JSON object.
    """
    fields: dict[str, Any] = {}
    for suffix in SIDECAR_SUFFIXES:
        if suffix not in sidecars:
            continue
        try:
            if suffix == "json":
                fields = parse_json(sidecars[suffix], "it", finite=False)
                if not isinstance(fields, dict):
                    raise ValueError("it is not a JSON object")
            elif "text" not in split_fields(fields)[0]:
                fields["text"] = decode_text(sidecars[suffix], "it")
        except ValueError as error:
            raise ValueError(f"its .{suffix} cannot be read: {error}") from error
    return fields


def kinds_of(captions: Mapping[str, str]) -> tuple[str, ...]:
    """The kinds in `captions`, in the order of `CAPTION_KINDS`."""
    return tuple(kind for kind in CAPTION_KINDS if kind in captions)


def is_hidden(name: str) -> bool:
    """Whether a file, by its path with slashes, is hidden: its name starts with a dot, or macOS added it."""
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)
