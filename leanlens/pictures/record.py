"""One captioned picture, and the words by which files call its captions.

Comes in: the fields that a sidecar or a table row holds. Goes out: a `Record`, or an `Entry` that says where one lies.
Knows nothing of paths, pixels or training.

A caption has a kind: "brief" (a phrase or sentence), "dense" (a paragraph) or "text" (nobody said which).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leanlens.files import decode_text, parse_json, with_line_feeds

CAPTION_KINDS = ("brief", "dense", "text")

SIDECAR_SUFFIXES = ("json", "txt", "caption")

# How files name a caption -> its kind. For each kind the first name that holds text is taken.
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
    """A picture as its file's bytes, its captions by kind, and whatever else its source said of it."""

    key: str
    image: bytes
    captions: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """What an index knows of a record: its size as it will be seen, the kinds of its captions, and where it lies.

    `height` and `width` are in pixels, after the turn that EXIF asks for. `place` means something to its source only;
    `file` is how a message names the picture's file, where it has one of its own.
    """

    key: str
    height: int
    width: int
    kinds: tuple[str, ...]
    place: tuple[Any, ...]
    file: str = ""


def split_fields(fields: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Fields by name -> (captions by kind, everything else). Blank captions are left out.

    Raises:
        ValueError: a caption that holds a NUL character.
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
    """A caption without blanks around it, or the byte-order mark that another program took for a letter.

    Raises:
        ValueError: it holds a NUL character.
    """
    if "\0" in caption:
        raise ValueError("its caption holds a NUL character, which text does not")
    return with_line_feeds(caption).strip(" \t\n\v\f\u00a0\u3000\ufeff").strip()


def read_sidecars(sidecars: Mapping[str, bytes]) -> dict[str, Any]:
    """Fields from the sidecars of one picture, by suffix: those of a "json", and the words of a "txt" or "caption".

    The words count as "text" where the .json has no such caption.

    Raises:
        ValueError: one that is not UTF-8, or no JSON object.
    """
    fields: dict[str, Any] = {}
    for suffix in SIDECAR_SUFFIXES:
        if suffix not in sidecars:
            continue
        try:
            if suffix == "json":
                fields = parse_json(sidecars[suffix], "it", finite=False)
                if not isinstance(fields, dict):
                    raise ValueError("it holds no JSON object")
            elif "text" not in split_fields(fields)[0]:
                fields["text"] = decode_text(sidecars[suffix], "it")
        except ValueError as error:
            raise ValueError(f"its .{suffix} cannot be read: {error}") from error
    return fields


def kinds_of(captions: Mapping[str, str]) -> tuple[str, ...]:
    """The kinds in `captions`, in the order of `CAPTION_KINDS`."""
    return tuple(kind for kind in CAPTION_KINDS if kind in captions)


def is_hidden(name: str) -> bool:
    """Whether a file, by its path with slashes, is not data: a dot before a name, or what macOS packs beside it."""
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)
