"""Builds and opens the library of icon bitmaps, and gives resized and recoloured sprites.

A library is built once; every worker then opens it memory-mapped. Its folder contains `library.json`, one `<style>.npy`
per style (flat uint8: premultiplied RGBA bitmaps, one after the other) and `ATTRIBUTION.md`.
"""

import hashlib
import json
import os
import shutil
import tomllib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from leanlens.files import read_json, whole_folder
from leanlens.install import install_extra
from leanlens.log import info_once
from leanlens.scenes import sources
from leanlens.scenes.names import VOCABULARY, Concept, read_vocabulary
from leanlens.scenes.raster import Facts, measure, rasterize, recolor
from leanlens.scenes.shapes import draw_shapes

PIXELS = 192  # longest side of a stored bitmap
FORMAT = "leanlens-icons-1"
PARTS = {name: Path(__file__).with_name(f"{name}.toml") for name in ("everyday", "common")}  # of the full library
SHAPES = "shapes"  # style of the drawn shapes, which are available in every other style
CACHE_BYTES = 96 * 2**20  # resized sprites cached per process
PAINTABLE_SHARE = 0.55  # of the visible pixels must have the dominant hue for a colour name to be true

FLAT_SHARE = 0.7  # of the columns must reach the top for a thing to stand on it

# Colour names for objects, far enough apart to be told from each other.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 28),
    "yellow": (250, 208, 32),
    "green": (46, 150, 62),
    "blue": (38, 92, 214),
    "purple": (122, 54, 178),
    "pink": (246, 120, 178),
    "brown": (122, 74, 38),
    "black": (38, 38, 42),
    "white": (244, 244, 244),
    "grey": (132, 134, 138),
    "turquoise": (38, 190, 184),
}


@dataclass(frozen=True)
class Bitmap:
    """The place of a bitmap in its style's file, and its properties."""

    offset: int
    height: int
    width: int
    facts: Facts


@dataclass
class Library:
    """Concepts, styles and their bitmaps.

    Attributes:
        folder: its folder, from which workers open it again.
        fingerprint: 16 hexadecimal digits that change if any drawing, name or rule changes.
        concepts: name -> concept, including the drawn shapes.
        styles: name -> phrase for captions, without "shapes".
        bitmaps: style -> concept name -> bitmap.
    """

    folder: Path
    fingerprint: str
    concepts: dict[str, Concept]
    styles: dict[str, str]
    bitmaps: dict[str, dict[str, Bitmap]]
    _pages: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _sprites: OrderedDict[tuple, Image.Image] = field(default_factory=OrderedDict, repr=False)
    _sprite_bytes: int = 0

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Style -> sorted names of its concepts; "shape" and "support" -> the drawn shapes."""
        found = {style: sorted(self.bitmaps[style]) for style in self.styles}
        for kind in ("shape", "support"):
            found[kind] = sorted(name for name, concept in self.concepts.items() if concept.category == kind)
        return found

    @cached_property
    def flat_topped(self) -> dict[str, list[str]]:
        """Style -> sorted names of concepts that another thing can stand on."""
        steady = read_vocabulary()["steady"]["names"]
        return {
            style: [
                name
                for name in self.names[style]
                if name in steady and self.bitmaps[style][name].facts.flat_top >= FLAT_SHARE
            ]
            for style in self.styles
        }

    def find(self, concept: str, style: str) -> Bitmap:
        """The bitmap of a concept; a drawn shape is available in every style.

        Raises:
            ValueError: the style does not have it.
        """
        for table in (self.bitmaps.get(style, {}), self.bitmaps[SHAPES]):
            if concept in table:
                return table[concept]
        raise ValueError(
            f"concept {concept!r} is not drawn in style {style!r}; the library has {', '.join(self.styles)}"
        )

    def is_paintable(self, concept: str, style: str) -> bool:
        """Whether a colour name would be true of the concept after recolouring."""
        if self.concepts[concept].category == "face":
            return False
        return self.find(concept, style).facts.share >= PAINTABLE_SHARE

    def fit(self, concept: str, style: str, width: float, height: float) -> tuple[int, int]:
        """(width, height) in pixels, at least 1: the largest size that fits with the bitmap's aspect ratio."""
        bitmap = self.find(concept, style)
        scale = min(width / bitmap.width, height / bitmap.height)
        return max(1, int(bitmap.width * scale)), max(1, int(bitmap.height * scale))

    def sprite(self, concept: str, style: str, color: str | None, size: tuple[int, int]) -> Image.Image:
        """RGBA image of exactly (width, height), in a named colour, or as drawn if None. Do not modify it."""
        key = (concept, style, color, size)
        found = self._sprites.get(key)
        if found is not None:
            self._sprites.move_to_end(key)
            return found
        image = self._draw(concept, style, color, size)
        self._sprites[key] = image
        self._sprite_bytes += 4 * size[0] * size[1]
        while self._sprite_bytes > CACHE_BYTES and len(self._sprites) > 1:
            _, dropped = self._sprites.popitem(last=False)
            self._sprite_bytes -= 4 * dropped.width * dropped.height
        return image

    def _draw(self, concept: str, style: str, color: str | None, size: tuple[int, int]) -> Image.Image:
        bitmap = self.find(concept, style)
        page = self._page(style if concept in self.bitmaps.get(style, {}) else SHAPES)
        pixels = page[bitmap.offset : bitmap.offset + 4 * bitmap.height * bitmap.width]
        image = Image.frombuffer("RGBa", (bitmap.width, bitmap.height), pixels, "raw", "RGBa", 0, 1)
        if image.size != size:
            larger = size[0] > bitmap.width or size[1] > bitmap.height
            filter_ = Image.Resampling.BICUBIC if larger else Image.Resampling.BILINEAR
            image = image.resize(size, filter_, reducing_gap=1.5)
        image = image.convert("RGBA")
        if color is not None:
            image = recolor(image, bitmap.facts.hue, bitmap.facts.luma, COLORS[color])
        return image

    def _page(self, style: str) -> np.ndarray:
        if style not in self._pages:
            self._pages[style] = np.load(self.folder / f"{style}.npy", mmap_mode="r")
        return self._pages[style]


def cache_folder() -> Path:
    """Where libraries and packages are stored: LEANLENS_SCENES, or ~/.cache/leanlens/scenes."""
    return Path(os.environ.get("LEANLENS_SCENES") or Path.home() / ".cache" / "leanlens" / "scenes")


def library(which: str | None = None) -> Library:
    """Open a library; the one of the embedded sample is built on first use.

    Args:
        which: "full", made by `leanlens scenes sources`; "common", the part of it that the embedded model was trained
            on; "everyday", a smaller part for training on two CPU cores; "sample", which ships with the package; or the
            path of a library's folder. None uses "full" if it exists, otherwise "sample" with a log message.

    Raises:
        ValueError: "full", which its parts need too, does not exist, or the folder is not a library.
    """
    full = cache_folder() / f"full-{_recipe()}"
    if which is None and not full.exists():
        info_once("scenes: using the embedded sample; `leanlens scenes sources` fetches the full sets")
        which = "sample"
    if which == "sample":
        folder = cache_folder() / f"sample-{_recipe(sources.SAMPLE)}"
        if not folder.exists():
            _make_once(*sources.read_sample(), folder, progress=False)
        return open_library(folder)
    if which is not None and which != "full" and which not in PARTS:
        return open_library(Path(which))
    if not full.exists():
        raise ValueError(f"sources {which!r} are not in {cache_folder()}; run `leanlens scenes sources`")
    return _part(full, which) if which in PARTS else open_library(full)


def make_full_library(packages: Path | None = None, progress: bool = True) -> Library:
    """Fetch and verify the packages, render every set once, and open the result.

    Args:
        packages: folder of tarballs; the default is in the cache folder. Missing ones are fetched with `npm pack`.
    """
    folder = cache_folder() / f"full-{_recipe()}"
    if not folder.exists():
        tarballs = sources.fetch_packages(packages or cache_folder() / "packages")
        _make_once(*sources.read_packages(tarballs), folder, progress)
    return open_library(folder)


def _part(full: Path, name: str) -> Library:
    folder = cache_folder() / f"{name}-{_recipe(PARTS[name])}"
    if not folder.exists():
        wanted = tomllib.loads(PARTS[name].read_text(encoding="utf-8"))
        try:
            narrow(open_library(full), wanted["concepts"], wanted["styles"], folder)
        except (OSError, ValueError):  # another process may be building it at the same time
            if not (folder / "library.json").exists():
                raise
    return open_library(folder)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where links are not allowed, as on Windows without the privilege."""
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def narrow(shelf: Library, concepts: Sequence[str], styles: Sequence[str], folder: Path) -> None:
    """Write a library with some of the concepts and styles of another to `folder`; the drawn shapes are included.

    Raises:
        ValueError: a concept or style is not in the other library.
    """
    for kind, names, known in (("concept", concepts, shelf.concepts), ("style", styles, shelf.styles)):
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(f"{kind} {unknown[0]!r} is not in the library {shelf.folder}; leave it out")
    kept = {*concepts, *shelf.bitmaps[SHAPES]}
    table = read_json(shelf.folder / "library.json")
    table["styles"] = {style: shelf.styles[style] for style in styles}
    table["concepts"] = [row for row in table["concepts"] if row["name"] in kept]
    table["bitmaps"] = {
        style: {name: row for name, row in table["bitmaps"][style].items() if name in kept}
        for style in [*styles, SHAPES]
    }
    del table["fingerprint"]
    digest = hashlib.sha256(f"{shelf.fingerprint}{json.dumps(table, sort_keys=True)}".encode())
    table["fingerprint"] = digest.hexdigest()[:16]
    with whole_folder(folder) as temporary:
        for style in table["bitmaps"]:
            _link(shelf.folder / f"{style}.npy", temporary / f"{style}.npy")
        (temporary / "library.json").write_text(json.dumps(table), encoding="utf-8")
        page = (shelf.folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
        drawings = {style: len(table["bitmaps"][style]) for style in styles}
        (temporary / "ATTRIBUTION.md").write_text(sources.narrow_attribution(page, drawings), encoding="utf-8")


def open_library(folder: Path) -> Library:
    """Open the folder of a library.

    Raises:
        ValueError: it is not a library, or has another format.
    """
    path = folder / "library.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no library.json; expected a folder made by `leanlens scenes sources`, or full, "
            f"{', '.join(PARTS)} or sample"
        )
    table = read_json(path)
    if table["format"] != FORMAT:
        raise ValueError(f"{path} has format {table['format']!r}; expected {FORMAT!r}")
    concepts = {
        row["name"]: Concept(**{**row, "synonyms": tuple(row["synonyms"]), "keywords": tuple(row["keywords"])})
        for row in table["concepts"]
    }
    bitmaps = {
        style: {
            name: Bitmap(offset, height, width, _facts(facts)) for name, (offset, height, width, facts) in rows.items()
        }
        for style, rows in table["bitmaps"].items()
    }
    return Library(folder, table["fingerprint"], concepts, table["styles"], bitmaps)


def make_library(
    concepts: list[Concept], drawings: Iterable[sources.Drawings], folder: Path, progress: bool = False
) -> None:
    """Render every set into `folder`, atomically. Drawings that are empty or cannot be parsed are left out.

    Raises:
        ValueError: resvg-py, of the extra `data`, is not installed.
    """
    if find_spec("resvg_py") is None:
        raise ValueError(f"drawing scenes needs resvg-py: {install_extra('data')}")
    drawings = list(drawings)
    shapes, shape_documents = draw_shapes()
    with whole_folder(folder) as temporary:
        bitmaps = {}
        bar = tqdm(
            total=sum(len(one.found) for one in drawings) + len(shapes),
            desc="drawing",
            unit="icon",
            disable=not progress,
        )
        for one in drawings:
            bitmaps[one.style.name] = _write_style(one.found, temporary / f"{one.style.name}.npy", bar)
        bitmaps[SHAPES] = _write_style(shape_documents, temporary / f"{SHAPES}.npy", bar)
        bar.close()
        drawn = {name for rows in bitmaps.values() for name in rows}
        table: dict[str, Any] = {
            "format": FORMAT,
            "styles": {one.style.name: one.style.phrase for one in drawings if bitmaps[one.style.name]},
            "concepts": [asdict(concept) for concept in [*concepts, *shapes] if concept.name in drawn],
            "bitmaps": bitmaps,
        }
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
        for path in sorted(temporary.glob("*.npy")):
            digest.update(path.read_bytes())
        table["fingerprint"] = digest.hexdigest()[:16]
        (temporary / "library.json").write_text(json.dumps(table), encoding="utf-8")
        (temporary / "ATTRIBUTION.md").write_text(sources.describe_attribution(drawings), encoding="utf-8")


def _make_once(concepts: list[Concept], drawings: list[sources.Drawings], folder: Path, progress: bool) -> None:
    """Build a library that another process may be building at the same time; the first to finish wins."""
    try:
        make_library(concepts, drawings, folder, progress)
    except (OSError, ValueError):
        if not (folder / "library.json").exists():
            raise


def _write_style(found: dict[str, str | bytes], path: Path, bar: tqdm) -> dict[str, list]:
    """Write one style's bitmaps; concept name -> [offset, height, width, facts]."""
    rows: dict[str, list] = {}
    pieces, offset = [], 0
    for name in sorted(found):
        bar.update()
        try:
            pixels = rasterize(found[name], PIXELS)
        except ValueError:
            continue
        if pixels is None or min(pixels.shape[:2]) < PIXELS // 16:
            continue
        height, width = pixels.shape[:2]
        rows[name] = [offset, height, width, measure(pixels).as_dict()]
        pieces.append(_premultiply(pixels).reshape(-1))
        offset += 4 * height * width
    np.save(path, np.concatenate(pieces) if pieces else np.zeros(0, np.uint8))
    return rows


def _premultiply(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(np.uint16)
    color = (pixels[..., :3] * alpha + 127) // 255
    return np.concatenate([color, alpha], axis=-1).astype(np.uint8)


def _facts(row: dict[str, Any]) -> Facts:
    return Facts(**{**row, "mean": tuple(row["mean"])})


def _recipe(*files: Path) -> str:
    """12 hexadecimal digits over everything that determines the content of a library."""
    digest = hashlib.sha256(f"{FORMAT}{PIXELS}{sources.PACKAGES}{sources.STYLES}".encode())
    for path in (
        VOCABULARY,
        *(Path(__file__).parent / name for name in ("raster.py", "shapes.py", "names.py")),
        *files,
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
