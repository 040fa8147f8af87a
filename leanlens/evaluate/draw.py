"""Draws the images of an evaluation: each prompt with each of its seeds.

An image is written as soon as it is drawn, under a key of everything that decides it. So an evaluation that was killed
continues where it was, and several processes can draw for one.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from leanlens.evaluate.suite import Drawn, ImageFailed, ImageModel, Item
from leanlens.files import parse_json, read_json, whole_file
from leanlens.machine import describe_machine
from leanlens.store import content_key

SEED_STEP = 1_000_000  # between the seeds of one prompt; neighbouring prompts differ by one
RECORD = "leanlens-evaluation"  # PNG text that holds the key and how the image was drawn
_RECORDED: dict[str, Any] = {
    "seconds": (int, float, type(None)),
    "reasoned": (dict, type(None)),
    "machine": str,
    "notes": dict,
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class KeptImage:
    """An image of an evaluation on disk.

    Attributes:
        path: the file; None where the image could not be drawn.
        seconds, reasoned, notes: as in `Drawn`.
        machine: what it was drawn on; "" where nothing was measured.
        failed: why it could not be drawn, or "".
    """

    key: str
    seed: int
    path: Path | None
    seconds: float | None = None
    reasoned: dict[str, Any] | None = None
    machine: str = ""
    failed: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Image.Image:
        """The image, RGB.

        Raises:
            ValueError: it could not be drawn, or its file is missing or damaged.
        """
        if self.path is None:
            raise ValueError(f"image {self.key} could not be drawn: {self.failed}")
        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"image {self.path} cannot be read: {error}") from None


def seeds_of(index: int, seeds: int, seed: int) -> list[int]:
    """The seeds of prompt `index`: `seed` + index + j * SEED_STEP for image j."""
    return [seed + index + again * SEED_STEP for again in range(seeds)]


def image_key(identity: dict[str, Any], item: Item, seed: int) -> str:
    """A key of everything that determines an image."""
    return content_key(model=identity, prompt=item.prompt, size=item.size, seed=seed)


def draw_items(
    model: ImageModel,
    items: Sequence[Item],
    seeds: int,
    seed: int,
    folder: Path,
    say: Say = lambda text: None,
    shard: tuple[int, int] = (0, 1),
) -> list[list[KeptImage]]:
    """The images of each item, one for each seed, from `folder` or newly drawn into it.

    Args:
        shard: (which, of how many): only items `which`, `which` + `of how many`, ... are drawn; the others' lists are
            empty.
    """
    identity = model.identity()
    mine = [index % shard[1] == shard[0] for index in range(len(items))]
    total, done, found = sum(mine) * seeds, 0, 0
    rows: list[list[KeptImage]] = []
    for index, item in enumerate(items):
        row = []
        for one in seeds_of(index, seeds, seed) if mine[index] else []:
            key = image_key(identity, item, one)
            kept = find_image(folder, key, one)
            found += kept is not None
            row.append(kept or draw_image(model, item, one, folder, key))
            done += 1
            if kept is None:
                before = f", {found} of them before" if found else ""
                say(f"{model.name}: image {done} of {total}{before}")
        rows.append(row)
    if total and found == total:
        say(f"{model.name}: all {total} images are here")
    return rows


def find_image(folder: Path, key: str, seed: int, with_failed: bool = False) -> KeptImage | None:
    """The kept image of a key; None where it is missing or damaged.

    Args:
        with_failed: an image that could not be drawn is found too, so that it is not tried again.
    """
    path = folder / f"{key}.png"
    try:
        with Image.open(path) as image:
            image.load()
            record = parse_json(image.info[RECORD], RECORD, finite=False)
        if _is_record(record, key):
            return KeptImage(key, seed, path, **{name: record[name] for name in _RECORDED})
    except (OSError, KeyError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # what Pillow raises for damaged files; it is drawn again
    failed = _read_failure(folder, key) if with_failed else ""
    return KeptImage(key, seed, None, failed=failed) if failed else None


def _is_record(record: Any, key: str) -> bool:
    """Whether this is the record of an image that was kept under a key."""
    return (
        isinstance(record, dict)
        and record.get("key") == key
        and all(isinstance(record.get(name, ...), kinds) for name, kinds in _RECORDED.items())
    )


def draw_image(model: ImageModel, item: Item, seed: int, folder: Path, key: str) -> KeptImage:
    """Draw an image and keep it under its key; of one that could not be drawn, the reason is kept."""
    try:
        drawn = model.draw(item, seed)
    except ImageFailed as error:
        return keep_failure(folder, key, seed, str(error))
    _failure_path(folder, key).unlink(missing_ok=True)
    return keep_image(drawn, folder, key, seed)


def keep_image(drawn: Drawn, folder: Path, key: str, seed: int) -> KeptImage:
    """Write an image with its record under its key."""
    seconds = None if drawn.seconds is None or not math.isfinite(drawn.seconds) else round(drawn.seconds, 4)
    machine = "" if seconds is None else describe_machine()
    named = {"seconds": seconds, "reasoned": drawn.reasoned, "machine": machine, "notes": drawn.notes}
    text = PngImagePlugin.PngInfo()
    text.add_text(RECORD, json.dumps({"key": key, "seed": seed, **named}))
    path = folder / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        drawn.image.convert("RGB").save(temporary, "PNG", pnginfo=text)
    return KeptImage(key, seed, path, seconds, drawn.reasoned, machine, notes=drawn.notes)


def keep_failure(folder: Path, key: str, seed: int, reason: str) -> KeptImage:
    """Write why the image of a key could not be drawn."""
    with whole_file(_failure_path(folder, key)) as path:
        path.write_text(json.dumps({"failed": reason}) + "\n", encoding="utf-8")
    return KeptImage(key, seed, None, failed=reason)


def _failure_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.failed.json"


def _read_failure(folder: Path, key: str) -> str:
    try:
        return str(read_json(_failure_path(folder, key))["failed"])
    except (ValueError, KeyError, TypeError):  # missing or damaged
        return ""
