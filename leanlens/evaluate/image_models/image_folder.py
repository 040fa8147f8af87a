"""Shows images that were drawn elsewhere as a column of the comparison.

Images are matched to prompts by their file name (`ID.png`, `ID_K.png`, as `leanlens evaluate prompts` names them) or by
an id in a table; otherwise by their exact prompt, from a table, GenEval's folders, a text file beside the image, or the
settings in the image itself.

Source: GenEval's layout: `%05d/metadata.jsonl` and `%05d/samples/%04d.png`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanlens.evaluate.draw import SEED_STEP
from leanlens.evaluate.suite import Drawn, ImageFailed, Item
from leanlens.files import parse_json, read_text, sha256
from leanlens.log import logger
from leanlens.pictures.decode import IMAGE_SUFFIXES, decode
from leanlens.pictures.record import is_hidden
from leanlens.pipeline.metadata import read_record
from leanlens.store import content_key

TABLES = ("prompts.jsonl", "metadata.jsonl")
SHOWN = 5  # surplus files that a warning names
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True)
class _Found:
    """An image file, and what is known of its prompt: the id, the words, and which of its images this is."""

    path: Path
    id: str | None = None
    prompt: str | None = None
    number: int | None = None


class ImageFolder:
    """A column of images from a folder.

    Args:
        folder: with the images.
        items: the prompts that they are for.
        name: of the column; the folder's without it.
        seeds: images of each prompt.
        seed: of the first image, as for the models of the evaluation.

    Raises:
        ValueError: no image is for one of the prompts, or two are for the same one.
    """

    def __init__(self, folder: Path, items: Sequence[Item], name: str | None = None, seeds: int = 1, seed: int = 0):
        self.name, self._folder, self._seed = name or folder.resolve().name, folder, seed
        found = list(_images_in(folder, {item.id for item in items}))
        self._images, surplus = _matched(found, items, seeds)
        if not self._images:
            raise ValueError(
                f"{folder} has no image for these prompts (image files: {len(found)}): name them ID.png or ID_K.png as "
                f"`leanlens evaluate prompts` does, such as {items[0].id}_0.png, or put a prompts.jsonl with file_name "
                "and prompt beside them"
            )
        if surplus:
            names = ", ".join(path.relative_to(folder).as_posix() for path in surplus[:SHOWN])
            logger.warning("%s: images that are for none of the prompts, or too many for one: %d (%s)", self.name,
                           len(surplus), names)  # fmt: skip
        sums = sorted((*key, sha256(path)) for key, path in self._images.items())
        self._identity = {"kind": "image folder", "images": content_key(images=sums)}

    def identity(self) -> dict[str, Any]:
        """The content of the images, and which prompt each is for; not where they are."""
        return self._identity

    def draw(self, item: Item, seed: int) -> Drawn:
        """The image of an item.

        Raises:
            ImageFailed: there is none, or it cannot be read.
        """
        number = (seed - self._seed) // SEED_STEP
        path = self._images.get((item.id, number))
        if path is None:
            raise ImageFailed(f"{self.name} has no image {number} of prompt {item.id}")
        try:
            return Drawn(decode(path.read_bytes()))
        except (ValueError, OSError) as error:
            raise ImageFailed(f"{path.name} cannot be read: {error}") from None

    def costs(self) -> dict[str, Any]:
        """Nothing is known of how they were drawn."""
        return {}

    def close(self) -> None:
        """See `ImageModel`."""


def parse_folders(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """`[NAME=]FOLDER` as names and folders.

    Raises:
        ValueError: there is no such folder, or two have the same name.
    """
    found: list[tuple[str, Path]] = []
    for text in texts:
        path = Path(text).expanduser()
        name, separator, rest = text.partition("=")
        if not path.is_dir() and separator and Path(rest).expanduser().is_dir():
            path = Path(rest).expanduser()
        else:
            name = path.resolve().name
        if not path.is_dir():
            raise ValueError(f"invalid images {text!r}: expected a folder, or NAME=FOLDER")
        if not name or name in [other for other, _ in found]:
            raise ValueError(f"two folders of images have the name {name!r}; give each its own, as in NAME=FOLDER")
        found.append((name, path))
    return found


def _matched(
    found: Sequence[_Found], items: Sequence[Item], seeds: int
) -> tuple[dict[tuple[str, int], Path], list[Path]]:
    """(id, number) -> file, and the files that are for none of the prompts.

    Raises:
        ValueError: two files for one image, or a prompt that several items have where no id tells them apart.
    """
    by_prompt: dict[str, list[str]] = {}
    for item in items:
        by_prompt.setdefault(item.prompt.strip(), []).append(item.id)
    ids = {item.id for item in items}
    numbers = [one.number for one in found if one.number is not None]
    first = 1 if numbers and 0 not in numbers else 0  # some count from 1
    images: dict[tuple[str, int], Path] = {}
    surplus: list[Path] = []
    for one in found:
        name = one.id if one.id in ids else _id_of(one, by_prompt)
        number = None if one.number is None else one.number - first
        if name is not None and number is None:
            number = next(count for count in range(len(found) + 1) if (name, count) not in images)
        if name is None or number is None or number >= seeds:
            surplus.append(one.path)
            continue
        if (name, number) in images:
            raise ValueError(f"{images[name, number]} and {one.path} are both image {number} of prompt {name}")
        images[name, number] = one.path
    return images, surplus


def _id_of(one: _Found, by_prompt: dict[str, list[str]]) -> str | None:
    names = by_prompt.get(one.prompt.strip(), []) if one.prompt is not None else []
    if len(names) > 1:
        raise ValueError(
            f"{one.path} is for a prompt that {len(names)} items have ({', '.join(names[:3])}); name it by the id"
        )
    return names[0] if names else None


def _images_in(folder: Path, ids: set[str]) -> Iterator[_Found]:
    """All images, in the order of their names, numbers within names counted as numbers."""
    files = sorted(
        (path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder).as_posix())), key=_natural
    )
    tables = _tables(folder, files)
    for path in files:
        if path.suffix.lower()[1:] not in IMAGE_SUFFIXES or not path.is_file():
            continue
        yield tables.get(path) or _named(path, ids) or _of_geneval(path) or _Found(path, prompt=_own_prompt(path))


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d{1,9})", path.as_posix())
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _tables(folder: Path, files: Sequence[Path]) -> dict[Path, _Found]:
    """File -> what a table beside or above it says."""
    found: dict[Path, _Found] = {}
    for table in files:
        if table.name not in TABLES or _is_of_geneval(table.parent):
            continue
        for number, row in _rows(table):
            path = table.parent / str(row.get("file_name"))
            if path in found:
                raise ValueError(f"{table} line {number} names {path.name}, which another line names too")
            name = None if row.get("id") is None else str(row["id"])
            prompt = row.get("prompt", row.get("text"))
            image = _numbered(path.stem, {name})[1] if name is not None else None
            found[path] = _Found(path, name, str(prompt) if prompt is not None else None, image)
    return found


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_text(table).split("\n"), start=1):
        if line.strip():
            row = parse_json(line, f"{table} line {number}")
            if not isinstance(row, dict):
                raise ValueError(f"{table} line {number} is no JSON object")
            yield number, row


def _named(path: Path, ids: set[Any]) -> _Found | None:
    name, number = _numbered(path.stem, ids)
    return None if name is None else _Found(path, name, number=number)


def _numbered(stem: str, ids: set[Any]) -> tuple[str | None, int | None]:
    """Id and number of a file's name; no number where the name is the id."""
    if stem in ids:
        return stem, None
    name, _, number = stem.rpartition("_")
    return (name, int(number)) if name in ids and _NUMBER.fullmatch(number) else (None, None)


def _is_of_geneval(folder: Path) -> bool:
    return (folder / "samples").is_dir() and (folder / "metadata.jsonl").is_file()


def _of_geneval(path: Path) -> _Found | None:
    folder = path.parent.parent
    if path.parent.name != "samples" or not _is_of_geneval(folder) or not _NUMBER.fullmatch(path.stem):
        return None
    _, row = next(_rows(folder / "metadata.jsonl"))
    return _Found(path, prompt=str(row.get("prompt", "")), number=int(path.stem))


def _own_prompt(path: Path) -> str | None:
    """The prompt in a text file beside the image, or in the image itself, before it was rewritten."""
    beside = path.with_suffix(".txt")
    if beside.is_file():
        return read_text(beside).strip()
    try:
        request = read_record(path)["request"]
        return str((request.get("reasoner") or {}).get("original") or request["prompt"])
    except (ValueError, KeyError, AttributeError, OSError):
        return None
