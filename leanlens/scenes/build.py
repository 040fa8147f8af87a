"""Writes scenes as shards on all cores, resumes an interrupted build, and draws contact sheets.

Shards have the format of pictures/shards.py, with captions and ground truth. During a build, each finished shard has
its manifest row next to it (`shard-000000.json`); at the end the rows become `manifest.json`. A shard with such a row
and the right bytes is not rendered again.
"""

import io
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw
from tqdm import tqdm

from leanlens.files import read_json, require_writable, sha256, whole_file
from leanlens.log import logger
from leanlens.pictures.record import Record
from leanlens.pictures.shards import FORMAT, MANIFEST, read_manifest, write_tar
from leanlens.scenes.describe import brief
from leanlens.scenes.draw import SEED_STEP, captioned_scenes
from leanlens.scenes.icons import Library, library, open_library
from leanlens.scenes.layout import Rules, load_font
from leanlens.scenes.render import render
from leanlens.scenes.scene import NO_RULES, Scene, Size, sample_scene

ENCODINGS: dict[str, dict[str, Any]] = {
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "png": {"format": "PNG", "compress_level": 1},
    "webp": {"format": "WEBP", "lossless": True, "quality": 0, "method": 0},
}
MAX_PREVIEW = 600  # scenes in a contact sheet: a hundred rows
ATTRIBUTION = "ATTRIBUTION.md"


@dataclass(frozen=True)
class Settings:
    """All settings that determine the bytes of a build."""

    num: int
    seed: int
    split: str | None
    size: Size
    encoding: str
    per_shard: int
    library: str
    version: str
    rules: Rules = NO_RULES

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values for the manifest."""
        size = self.size if isinstance(self.size, int) else json.loads(json.dumps(self.size))
        values = {name: value for name, value in vars(self).items() if name != "rules"}
        values |= {rule: value for rule, value in vars(self.rules).items() if value}
        return {"command": "leanlens scenes build", **values, "split": self.split or "any", "size": size}


def build(
    out: str | Path,
    num: int,
    seed: int = 0,
    split: str | None = "train",
    size: Size = 256,
    encoding: str = "jpg",
    per_shard: int = 1000,
    sources: str | None = None,
    workers: int | None = None,
    progress: bool = False,
    rules: Rules = NO_RULES,
) -> dict[str, Any]:
    """Write `num` scenes to `out` and return the manifest. Called again with the same arguments, it resumes.

    Args:
        out: a folder that does not exist, is empty, or contains an unfinished build with the same settings.
        split: "train", "test", or None for both.
        size, rules: as in `sample_scene`.
        encoding: "jpg" (quality 95, full colour resolution), "png" or "webp" (both lossless).
        sources: as in `icons.library`.
        workers: number of processes; the default is one per core.

    Raises:
        ValueError: an invalid argument, or `out` contains other files.
    """
    import leanlens

    if encoding not in ENCODINGS:
        raise ValueError(f"invalid encoding {encoding!r}: expected {', '.join(ENCODINGS)}")
    for name, value in (("num", num), ("per_shard", per_shard), ("workers", 1 if workers is None else workers)):
        if value < 1:
            raise ValueError(f"invalid {name} {value}: expected 1 or more")
    _check_seed(seed)
    shelf = library(sources)
    sample_scene(seed * SEED_STEP, shelf, split, size, rules)  # a wrong argument fails here, not in a worker
    settings = Settings(num, seed, split, size, encoding, per_shard, shelf.fingerprint, leanlens.__version__, rules)
    folder = Path(out)
    if (folder / MANIFEST).exists():
        return _finished(folder, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"invalid out {folder}: it cannot be a folder ({error.strerror})") from error
    rows = _recorded(folder, settings)
    bar = tqdm(total=num, unit="picture", desc="scenes", disable=not progress, initial=_total(rows.values()))
    for row in _make_shards(folder, settings, shelf, sorted(set(_shard_names(settings)) - set(rows)), workers):
        rows[row["name"]] = row
        bar.update(row["count"])
    bar.close()
    return _finish(folder, settings, shelf, rows)


def make_picture(scene: Scene, shelf: Library, encoding: str) -> bytes:
    """The encoded image of a scene."""
    buffer = io.BytesIO()
    render(scene, shelf).save(buffer, **ENCODINGS[encoding])
    return buffer.getvalue()


def make_records(settings: Settings, first: int, count: int, shelf: Library) -> Iterator[Record]:
    """Records of scenes first .. first + count - 1; neighbouring captions have different templates."""
    start = settings.seed * SEED_STEP
    seeds = range(start + first, start + first + count)
    for scene, short, long in captioned_scenes(seeds, shelf, settings.split, settings.size, settings.rules):
        extra = {
            "truth": scene.truth(),
            "width": scene.width,
            "height": scene.height,
            "source": "scenes",
            "seed": scene.seed,
        }
        captions = {"brief": short.text, "dense": long.text}
        yield Record(f"{scene.seed - start:09d}", make_picture(scene, shelf, settings.encoding), captions, extra)


def make_preview(
    out: str | Path, num: int = 24, seed: int = 0, split: str | None = "train", sources: str | None = None
) -> None:
    """Write one PNG with `num` scenes, six in a row, each above its brief caption.

    Raises:
        ValueError: more than `MAX_PREVIEW` scenes, a path that is not a .png, or an argument that `build` rejects.
    """
    if not 1 <= num <= MAX_PREVIEW:
        raise ValueError(f"invalid num {num}: expected 1 to {MAX_PREVIEW}")
    _check_seed(seed)
    if Path(out).suffix.lower() != ".png":
        raise ValueError(f"invalid out {out}: expected the path of a .png file")
    require_writable(out)
    shelf, tile, text, columns = library(sources), 256, 44, min(6, num)
    rows = -(-num // columns)
    sheet = Image.new("RGB", (columns * (tile + 12) + 12, rows * (tile + text + 12) + 12), (250, 250, 250))
    draw, font = ImageDraw.Draw(sheet), load_font("inter", 12)
    template = ""
    for index in range(num):
        scene = sample_scene(seed * SEED_STEP + index, shelf, split)
        caption = brief(scene, Random(f"captions {scene.seed}"), template)
        template = caption.template
        picture = render(scene, shelf)
        picture.thumbnail((tile, tile))
        x, y = 12 + index % columns * (tile + 12), 12 + index // columns * (tile + text + 12)
        sheet.paste(picture, (x + (tile - picture.width) // 2, y + (tile - picture.height) // 2))
        for line, words in enumerate(_wrap(caption.text, font, tile)):
            draw.text((x, y + tile + 4 + 18 * line), words, (60, 60, 64), font)
    with whole_file(out) as path:
        sheet.save(path, format="PNG")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**20:
        raise ValueError(f"invalid seed {seed}: expected 0 to {2**20 - 1}")


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """At most two lines of `width` pixels; longer text ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > 2:
        last = lines[1]
        while " " in last and font.getlength(f"{last}…") > width:
            last = last.rsplit(" ", 1)[0]
        lines[1] = f"{last}…"
    return lines[:2]


def _shard_names(settings: Settings) -> list[str]:
    return [f"shard-{number:06d}.tar" for number in range(-(-settings.num // settings.per_shard))]


def _total(rows: Any) -> int:
    return sum(row["count"] for row in rows)


def _make_shards(
    folder: Path, settings: Settings, shelf: Library, names: list[str], workers: int | None
) -> Iterator[dict[str, Any]]:
    """Yield the manifest row of each shard as it is finished."""
    workers = min(len(names), workers or os.cpu_count() or 1)
    if workers <= 1:
        for name in names:
            yield _make_shard(folder, settings, str(shelf.folder), name)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_ignore_interrupts) as pool:
        waiting = [pool.submit(_make_shard, folder, settings, str(shelf.folder), name) for name in names]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C in a worker; the parent handles it and lets started shards finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_shard(folder: Path, settings: Settings, library_folder: str, name: str) -> dict[str, Any]:
    """Write one shard and its row of the manifest. Runs in a worker."""
    first = int(Path(name).stem.removeprefix("shard-")) * settings.per_shard
    count = min(settings.per_shard, settings.num - first)
    with whole_file(folder / name) as path:
        write_tar(path, make_records(settings, first, count, _open_shared(library_folder)), set())
    row = {"name": name, "count": count, "bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    with whole_file((folder / name).with_suffix(".json")) as path:
        path.write_text(json.dumps({**row, "made_by": settings.as_dict()}), encoding="utf-8")
    return row


@lru_cache(maxsize=1)
def _open_shared(folder: str) -> Library:
    return open_library(Path(folder))


def _finished(folder: Path, settings: Settings) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest["made_by"] != settings.as_dict():
        differing = _differing(manifest["made_by"], settings)
        raise ValueError(f"out {folder} contains a build with other settings ({differing}); give another folder")
    return manifest


def _differing(made_by: dict[str, Any], settings: Settings) -> str:
    """The settings that differ, such as "num: 100 there, 200 here"."""
    here = settings.as_dict()
    return ", ".join(
        f"{name}: {made_by.get(name)} there, {here.get(name)} here"
        for name in dict.fromkeys([*here, *made_by])
        if made_by.get(name) != here.get(name)
    )


def _recorded(folder: Path, settings: Settings) -> dict[str, dict[str, Any]]:
    """Rows of the shards that are already complete; temporary files of an interrupted run are removed."""
    names = _shard_names(settings)
    for leftover in folder.glob(".shard-*"):
        leftover.unlink()
    known = {*names, *(Path(name).with_suffix(".json").name for name in names), ATTRIBUTION}
    if strangers := sorted(path.name for path in folder.iterdir() if path.name not in known):
        raise ValueError(f"out {folder} contains {strangers[0]}, which is not part of this build; give another folder")
    rows = {}
    for name in names:
        path = folder / name
        if not path.with_suffix(".json").exists():
            continue
        row = read_json(path.with_suffix(".json"))
        made_by = row.pop("made_by")
        if made_by != settings.as_dict():
            differing = _differing(made_by, settings)
            raise ValueError(
                f"out {folder} contains an unfinished build with other settings ({differing}); give another folder"
            )
        if path.exists() and sha256(path) == row["sha256"]:
            rows[name] = row
        else:
            logger.warning("%s is missing or modified; it is rendered again", path)
    return rows


def _finish(folder: Path, settings: Settings, shelf: Library, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    shards = [rows[name] for name in _shard_names(settings)]
    manifest = {"format": FORMAT, "count": _total(shards), "shards": shards, "made_by": settings.as_dict()}
    with whole_file(folder / ATTRIBUTION) as path:
        path.write_bytes((shelf.folder / ATTRIBUTION).read_bytes())
    with whole_file(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for name in rows:
        (folder / name).with_suffix(".json").unlink()
    return manifest
