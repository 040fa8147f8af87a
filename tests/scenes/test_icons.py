"""The library: what is taken from the sets, what a bitmap is, and that a painted thing has the colour it is said to."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
import tomllib

import numpy as np
import pytest
from PIL import Image

from leanlens.scenes import icons, sources
from leanlens.scenes.icons import COLORS
from leanlens.scenes.names import Concept, read_vocabulary
from leanlens.scenes.raster import measure, rasterize, recolor
from leanlens.scenes.scene import is_held_out, sample_scene

SQUARE = '<path d="M10 10h4v8h-4z" fill="#e02020"/>'
CAT, CAR = Concept("cat", "animal", "cats", icon="cat"), Concept("car", "vehicle", "cars", icon="automobile")


def style(kind="emoji", name="noto"):
    return sources.Style(name, "plain", "iconify", kind, "MIT", "Plain", "Someone", "https://example.org")


def a_set(**more):
    return {"icons": {"cat": {"body": SQUARE}}, "aliases": {}, "width": 24, "height": 24, **more}


def test_sample_opens_with_all_it_says(shelf):
    assert set(shelf.styles) == set(sources.SAMPLE_STYLES)
    assert len(shelf.concepts) > 60
    assert {"circle", "table"} < set(shelf.concepts)
    kinds = {concept.category for concept in shelf.concepts.values()}
    assert {"animal", "food", "vehicle", "plant", "clothing", "tool", "shape", "support"} <= kinds
    assert sources.SAMPLE.stat().st_size < 600_000


def test_sample_has_only_permissive_licences():
    table = json.loads(sources.SAMPLE.read_text(encoding="utf-8"))
    assert {row["licence"] for row in table["styles"]} <= {"MIT", "Apache-2.0", "CC0-1.0"}


def test_no_flag_letter_or_skin_tone_in_the_sample(shelf):
    barred = {"flag", "flags", "letter", "button", "skin", "tone", "keycap", "logo"}
    assert not [name for name in shelf.concepts if barred & set(name.split())]


def test_what_a_set_draws_as_something_else_is_not_in_the_sample():
    table = json.loads(sources.SAMPLE.read_text(encoding="utf-8"))
    tables = read_vocabulary()
    for row in table["styles"]:
        assert not set(row["found"]) & set(tables["wrong"].get(row["style"], ())), row["style"]
    assert not {concept["icon"] for concept in table["concepts"]} & set(tables["drop"]["names"])
    faces = [row["style"] for row in table["styles"] if "pair of sunglasses" in row["found"]]
    assert faces == ["noto", "noto-v1", "fluent-emoji-flat"]  # Firefox OS draws a face that wears them


def test_wrong_drawings_are_left_out_of_sets_of_pictures(tmp_path):
    tarball(tmp_path / "one.tgz", {"assets/26fa.webp": b"", "assets/1f408.webp": b""})
    concepts = [CAT, Concept("tent", "building", "tents", icon="tent")]
    fluent = next(one for one in sources.STYLES if one.kind == "pictures")
    chars = {"26fa": "tent", "1f408": "cat"}
    assert set(sources._read_pictures(fluent, tmp_path / "one.tgz", concepts, chars).found) == {"cat"}


def test_attribution_lists_every_set_author_and_licence(shelf):
    text = (shelf.folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    drawings = [sources.Drawings(one, "x") for one in sources.STYLES]
    for one in drawings:
        assert one.style.name not in shelf.styles or (one.style.title in text and one.style.licence in text)
        assert f"| {one.style.author} | {one.style.licence} |" in sources.describe_attribution(drawings)
    shipped = (sources.SAMPLE.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in shipped
    assert "MIT" in shipped
    assert "OFL-1.1" in shipped
    assert "Copyright (c) Microsoft Corporation" in shipped  # MIT asks for its notice
    assert "WITHOUT WARRANTY OF ANY KIND" in shipped


def test_every_font_has_its_licence_beside_it():
    folder = sources.SAMPLE.parent / "fonts"
    fonts = sorted(folder.glob("*.woff"))
    assert len(fonts) == 6
    assert all((folder / f"{font.stem}.LICENSE.txt").is_file() for font in fonts)


def test_a_set_gives_its_icons_and_plain_aliases():
    found = sources.read_set(style(), a_set(aliases={"automobile": {"parent": "cat"}}), [CAT, CAR]).found
    assert set(found) == {"cat", "car"}
    assert 'viewBox="0 0 24 24"' in found["cat"]


def test_turned_aliases_flags_and_logos_are_left_out():
    turned = a_set(aliases={"automobile": {"parent": "cat", "hFlip": True}})
    assert set(sources.read_set(style(), turned, [CAT, CAR]).found) == {"cat"}
    assert not sources.read_set(style(), a_set(categories={"Flags": ["cat"]}), [CAT]).found
    assert not sources.read_set(style("interface"), a_set(categories={"Brand": ["cat"]}), [CAT]).found


def test_homographs_are_not_taken_from_interface_sets():
    key = Concept("key", "object", "keys", icon="key")
    table = {"icons": {"key": {"body": SQUARE}}, "width": 24, "height": 24}
    assert not sources.read_set(style("interface"), table, [key]).found
    assert sources.read_set(style(), table, [key]).found


def tarball(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def foreign_packages(folder):
    """The three packages at toy size, as their makers lay them out, and the sums of their tarballs."""
    names = {one.name for one in sources.STYLES if one.package == "iconify"}
    table = a_set(chars={"1f408": "cat"}, categories={"Animals & Nature": ["cat", "dog", "zebra"]})
    webp = io.BytesIO()
    Image.new("RGBA", (32, 32), (10, 200, 10, 255)).save(webp, "WEBP", lossless=True)
    annotations = {"annotations": {"annotations": {"\N{CAT}": {"default": ["pet"], "tts": ["cat"]}}}}
    files = {
        "iconify-json-2.2.535.tgz": {f"json/{name}.json": json.dumps(table).encode() for name in names},
        "lobehub-fluent-emoji-3d-1.1.0.tgz": {"assets/1f408.webp": webp.getvalue(), "assets/1f1eb.webp": b"flag"},
        "cldr-annotations-full-48.2.0.tgz": {"annotations/en/annotations.json": json.dumps(annotations).encode()},
    }
    return {name: tarball(folder / name, content) for name, content in files.items()}


def test_packages_are_verified_and_drawn(tmp_path, monkeypatch):
    sums = foreign_packages(tmp_path)
    with pytest.raises(ValueError, match=r"is not @iconify/json 2\.2\.535: its SHA-512"):
        sources.fetch_packages(tmp_path)
    pinned = {
        key: sources.Package(package.name, package.version, total)
        for (key, package), total in zip(sources.PACKAGES.items(), sums.values(), strict=True)
    }
    monkeypatch.setattr(sources, "PACKAGES", pinned)
    monkeypatch.setenv("LEANLENS_SCENES", str(tmp_path / "cache"))
    made = icons.make_full_library(tmp_path, progress=False)
    assert set(made.styles) == {one.name for one in sources.STYLES if one.kind != "interface"}  # not their cats
    assert [name for name in made.concepts if made.concepts[name].category == "animal"] == ["cat"]
    assert made.concepts["cat"].keywords == ("pet",)
    assert made.find("cat", "fluent-3d").facts.mean == (10, 200, 10)
    assert icons.library().folder == made.folder == icons.library("full").folder


def test_without_npm_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="npm was not found"):
        sources.fetch_packages(tmp_path / "packages")
    assert not list((tmp_path / "packages").iterdir())


def test_a_package_that_npm_cannot_give(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such version >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ValueError, match=r"npm pack @iconify/json@2\.2\.535 failed: no such version"):
        sources.fetch_packages(tmp_path / "packages")


def test_without_full_sources_the_sample_is_taken_and_said(shelf, caplog):
    from leanlens.log import info_once

    info_once.cache_clear()
    with caplog.at_level("INFO", logger="leanlens"):
        assert icons.library().folder == shelf.folder
    assert "embedded sample" in caplog.text
    with pytest.raises(ValueError, match="leanlens scenes sources"):
        icons.library("full")
    with pytest.raises(ValueError, match=r"has no library\.json"):
        icons.library("nowhere")


THINGS, LOOKS = ["car", "frog", "tree"], ["noto", "fxemoji"]


def test_a_narrow_library_has_what_was_chosen_and_the_shapes(shelf, tmp_path):
    icons.narrow(shelf, THINGS, LOOKS, tmp_path / "narrow")
    found = icons.open_library(tmp_path / "narrow")
    assert list(found.styles) == LOOKS
    shapes = {name for name, concept in shelf.concepts.items() if concept.category in ("shape", "support")}
    assert set(found.concepts) == {*THINGS, *shapes}
    assert found.names["shape"] == shelf.names["shape"]
    assert {name for style in LOOKS for name in found.bitmaps[style]} == set(THINGS)
    for name, look in (("frog", "noto"), ("car", "fxemoji"), ("circle", "noto")):
        assert found.sprite(name, look, "red", (40, 40)) == shelf.sprite(name, look, "red", (40, 40))
    page = (found.folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "| Noto Emoji | Google Inc | Apache-2.0 |" in page
    assert "Fluent" not in page
    things = {thing.concept for seed in range(30) for thing in sample_scene(seed, found).things}
    assert things & set(THINGS)
    assert things & set(shelf.concepts) <= set(found.concepts)


def test_a_narrow_library_has_its_own_fingerprint(shelf, tmp_path):
    prints = {shelf.fingerprint}
    for number, (things, looks) in enumerate(((THINGS, LOOKS), (THINGS[:2], LOOKS), (THINGS, LOOKS[:1]))):
        for again in "ab":
            icons.narrow(shelf, things, looks, tmp_path / f"{number}{again}")
            prints.add(icons.open_library(tmp_path / f"{number}{again}").fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("things", "looks", "message"),
    [(["car", "unicycle"], LOOKS, "concept 'unicycle' is not in the library"), (THINGS, ["oil"], "style 'oil' is not")],
)
def test_a_narrow_library_of_unknown_things_is_refused(shelf, tmp_path, things, looks, message):
    with pytest.raises(ValueError, match=message):
        icons.narrow(shelf, things, looks, tmp_path / "narrow")
    assert not (tmp_path / "narrow").exists()


@pytest.mark.parametrize("name", sorted(icons.PARTS))
def test_the_things_of_a_part_are_well_chosen(name):
    """None is held out, so that every held-out scene is a new combination of known things."""
    table = tomllib.loads(icons.PARTS[name].read_text(encoding="utf-8"))
    assert set(table) == {"styles", "concepts"}
    assert set(table["styles"]) <= {one.name for one in sources.STYLES}
    assert table["concepts"] == sorted(set(table["concepts"]))
    assert [name for name in table["concepts"] if is_held_out(f"concept {name}")] == []


def test_a_name_that_is_no_library_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"comon has no library\.json; .*, or full, everyday, common or sample"):
        icons.library("comon")


def test_the_attribution_of_a_part_names_its_sets_alone():
    made = [sources.Drawings(style, f"from {style.name}", {"fox": "", "cat": ""}) for style in sources.STYLES]
    whole = sources.describe_attribution(made)
    part = sources.narrow_attribution(whole, {"noto": 1, "fluent-3d": 2})
    rows = [line for line in part.splitlines() if line.startswith("| ")][1:]
    assert [(row.split(" | ")[0], row.split(" | ")[-1]) for row in rows] == [
        ("| Noto Emoji", "1 |"),
        ("| Fluent Emoji 3D", "2 |"),
    ]
    assert "Copyright (c) Microsoft Corporation" in part
    assert "Goran Spasojevic" in whole
    assert "Goran Spasojevic" not in part
    assert part.endswith(whole[whole.index("Permission is hereby") :])


def test_everyday_is_a_part_of_the_full_library_made_once(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("LEANLENS_SCENES", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"sources .everyday. are not in .*; run `leanlens scenes sources`"):
        icons.library("everyday")
    wanted = tmp_path / "everyday.toml"
    wanted.write_text(f"styles = {LOOKS}\nconcepts = {THINGS}\n")
    monkeypatch.setitem(icons.PARTS, "everyday", wanted)
    shutil.copytree(shelf.folder, tmp_path / "cache" / f"full-{icons._recipe()}")
    found = icons.library("everyday")
    assert set(THINGS) < set(found.concepts)
    assert icons.library("full").fingerprint == icons.library().fingerprint == shelf.fingerprint
    monkeypatch.setattr(icons, "narrow", lambda *_: pytest.fail("it was made again"))
    assert icons.library("everyday").folder == found.folder
    wanted.write_text(f"styles = {LOOKS}\nconcepts = {THINGS[:2]}\n")
    monkeypatch.undo()
    monkeypatch.setenv("LEANLENS_SCENES", str(tmp_path / "cache"))
    monkeypatch.setitem(icons.PARTS, "everyday", wanted)
    assert "tree" not in icons.library("everyday").concepts


def test_two_processes_may_make_the_everyday_library_at_once(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("LEANLENS_SCENES", str(tmp_path / "cache"))
    wanted = tmp_path / "everyday.toml"
    wanted.write_text(f"styles = {LOOKS}\nconcepts = {THINGS}\n")
    monkeypatch.setitem(icons.PARTS, "everyday", wanted)
    shutil.copytree(shelf.folder, tmp_path / "cache" / f"full-{icons._recipe()}")
    real = icons.narrow

    def twice(*arguments):
        real(*arguments)  # another process is done first
        real(*arguments)

    monkeypatch.setattr(icons, "narrow", twice)
    assert set(THINGS) < set(icons.library("everyday").concepts)


def test_a_bitmap_is_cropped_to_what_shows():
    pixels = rasterize(sources.wrap_svg(SQUARE, "0 0 24 24"), 96)
    assert pixels.shape == (96, 48, 4)
    assert (pixels[4:-4, 4:-4, 3] == 255).all()
    facts = measure(pixels)
    assert facts.share == 1
    assert facts.flat_top == 1
    assert abs(facts.mean[0] - 224) < 3
    assert rasterize(sources.wrap_svg('<path d="M0 0" fill="red"/>', "0 0 24 24"), 96) is None


def test_without_the_drawing_package_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(icons, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"drawing scenes needs resvg-py: pip install .*\[data\]"):
        icons.make_library([], [], tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_does_not_parse_is_left_out(tmp_path):
    drawings = sources.Drawings(style(), "here", {"cat": "<svg", "car": sources.wrap_svg(SQUARE, "0 0 24 24")})
    icons.make_library([CAT, CAR], [drawings], tmp_path / "made")
    made = icons.open_library(tmp_path / "made")
    assert "car" in made.concepts
    assert "cat" not in made.concepts


def test_sprites_have_the_size_asked_for(shelf):
    size = shelf.fit("car", "noto", 50, 40)
    assert size[0] <= 50
    assert size[1] <= 40
    assert size[0] == 50 or size[1] == 40
    sprite = shelf.sprite("car", "noto", None, size)
    assert sprite.size == size
    assert sprite.mode == "RGBA"
    assert shelf.sprite("car", "noto", None, size) is sprite
    with pytest.raises(ValueError, match="'unicorn' is not drawn in style 'noto'"):
        shelf.sprite("unicorn", "noto", None, size)


def test_the_cache_of_sprites_stays_within_its_bytes(shelf, monkeypatch):
    monkeypatch.setattr(icons, "CACHE_BYTES", 100_000)
    for side in range(40, 90):
        shelf.sprite("car", "noto", None, (side, side))
    assert sum(4 * image.width * image.height for image in shelf._sprites.values()) <= 100_000


def test_paint_keeps_shading_other_colours_and_outline():
    image = Image.new("RGBA", (4, 1))
    for x, color in enumerate([(200, 30, 30, 255), (100, 15, 15, 255), (30, 30, 200, 255), (200, 30, 30, 0)]):
        image.putpixel((x, 0), color)
    facts = measure(np.asarray(image))
    painted = recolor(image, 0, 81, COLORS["green"])
    assert facts.hue in range(256)
    first, darker, other, hidden = (painted.getpixel((x, 0)) for x in range(4))
    assert np.abs(np.subtract(first[:3], COLORS["green"])).max() < 4
    assert np.abs(np.subtract(darker[:3], np.array(COLORS["green"]) / 2)).max() < 4
    assert other == (30, 30, 200, 255)
    assert hidden[3] == 0


def nearest(pixels):
    """Index of the nearest named colour of each (N, 3) pixel, in CIELAB."""

    def lab(rgb):
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
        xyz = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
        return np.stack([116 * xyz[:, 1], 500 * (xyz[:, 0] - xyz[:, 1]), 200 * (xyz[:, 1] - xyz[:, 2])], 1)

    names = lab(np.array(list(COLORS.values())) / 255)
    return np.linalg.norm(lab(pixels / 255)[:, None] - names, axis=-1).argmin(axis=1)


def test_a_painted_thing_has_the_colour_it_is_said_to_have(shelf):
    wrong, total = [], 0
    for name in [*shelf.names["noto"], *shelf.names["support"]]:
        if not shelf.is_paintable(name, "noto"):
            continue
        for index, color in enumerate(COLORS):
            pixels = np.asarray(shelf.sprite(name, "noto", color, shelf.fit(name, "noto", 40, 40)))
            votes = np.bincount(nearest(pixels[pixels[..., 3] == 255][:, :3]), minlength=len(COLORS))
            total += 1
            if votes.argmax() != index:
                wrong.append((name, color, list(COLORS)[votes.argmax()]))
    assert total > 300
    assert len(wrong) < 0.03 * total, wrong
