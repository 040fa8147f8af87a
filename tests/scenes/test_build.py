"""Builds: shards that open, the same bytes however they were interrupted, and nothing overwritten."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from leanlens.cli.scenes import app
from leanlens.pictures.shards import TarSource, read_manifest
from leanlens.scenes.build import ENCODINGS, _wrap, build, make_picture, make_preview
from leanlens.scenes.layout import load_font
from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene

BUILD = {"num": 25, "seed": 7, "size": 64, "per_shard": 10, "sources": "sample", "workers": 1}


def sums(folder):
    return {row["name"]: row["sha256"] for row in json.loads((folder / "manifest.json").read_text())["shards"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory, shelf, shelf_folder):
    folder = tmp_path_factory.mktemp("built") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str(shelf_folder))
        build(folder, **BUILD)
    return folder


def test_shards_open_with_captions_and_truth(built, shelf):
    manifest = read_manifest(built)
    assert manifest["count"] == 25
    assert [row["count"] for row in manifest["shards"]] == [10, 10, 5]
    assert manifest["made_by"]["library"] == shelf.fingerprint
    assert {path.name for path in built.iterdir()} - {".verified.json"} == {
        "manifest.json", "ATTRIBUTION.md", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar",
    }  # fmt: skip
    source = TarSource("built", sorted(built.glob("*.tar")))
    record = source.read(11)
    assert set(record.captions) == {"brief", "dense"}
    assert record.extra["source"] == "scenes"
    scene = sample_scene(record.extra["seed"], shelf, "train", 64)
    assert record.extra["truth"] == json.loads(json.dumps(scene.truth()))
    assert record.image == make_picture(scene, shelf, "jpg")
    assert (record.extra["width"], record.extra["height"]) == (scene.width, scene.height)


@pytest.mark.parametrize("size", [(96, 64), ((64, 64), (64, 96), (96, 64))])
def test_exact_sizes_are_kept_and_a_finished_build_is_known_again(tmp_path, size):
    manifest = build(tmp_path / "out", **{**BUILD, "size": size})
    assert manifest["made_by"]["size"] == json.loads(json.dumps(size))
    source = TarSource("out", sorted((tmp_path / "out").glob("*.tar")))
    found = {(entry.width, entry.height) for entry in source.index()}
    assert found == ({size} if isinstance(size[0], int) else set(size))
    assert build(tmp_path / "out", **{**BUILD, "size": size}) == manifest
    with pytest.raises(ValueError, match=r"build with other settings \(size: "):
        build(tmp_path / "out", **{**BUILD, "size": (64, 64)})


def test_workers_change_nothing(built, tmp_path):
    build(tmp_path / "out", **{**BUILD, "workers": 2})
    assert sums(tmp_path / "out") == sums(built)


def test_a_killed_build_goes_on_and_ends_the_same(built, tmp_path, shelf_folder):
    out = tmp_path / "out"
    code = (
        "import time\nfrom leanlens.scenes import build\n"
        "make = build.make_picture\n"
        "build.make_picture = lambda *one: (time.sleep(0.05), make(*one))[1]\n"
        f"build.build({str(out)!r}, **{BUILD!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "LEANLENS_SCENES": str(shelf_folder)})
    deadline = time.monotonic() + 30
    while not (out / "shard-000000.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    first = (out / "shard-000000.tar").stat().st_mtime_ns
    build(out, **BUILD)
    assert sums(out) == sums(built)
    assert (out / "shard-000000.tar").stat().st_mtime_ns == first
    assert not list(out.glob(".shard-*"))
    assert not list(out.glob("shard-*.json"))


def test_a_damaged_shard_is_noticed(tmp_path, built, caplog):
    out = tmp_path / "out"
    build(out, **BUILD)
    row = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").unlink()
    for shard in row["shards"]:
        (out / shard["name"]).with_suffix(".json").write_text(json.dumps({**shard, "made_by": row["made_by"]}))
    data = bytearray((out / "shard-000001.tar").read_bytes())
    data[2000] ^= 1
    (out / "shard-000001.tar").write_bytes(data)
    build(out, **BUILD)
    assert "shard-000001.tar is missing or modified" in caplog.text
    assert sums(out) == sums(built)
    (out / ".verified.json").unlink(missing_ok=True)
    (out / "shard-000001.tar").write_bytes(data)
    with pytest.raises(ValueError, match="SHA-256"):
        build(out, **BUILD)


def test_other_settings_and_strangers_are_refused(built, tmp_path):
    with pytest.raises(ValueError, match=r"build with other settings \(seed: 7 there, 8 here\); give"):
        build(built, **{**BUILD, "seed": 8})
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"contains mine\.txt"):
        build(tmp_path, **BUILD)
    with pytest.raises(ValueError, match=r"mine\.txt: it cannot be a folder"):
        build(tmp_path / "mine.txt", **BUILD)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoding": "gif"}, "encoding 'gif'"),
        ({"num": 0}, "num 0"),
        ({"per_shard": 0}, "per_shard 0"),
        ({"workers": 0}, "workers 0"),
        ({"workers": -1}, "workers -1"),
        ({"seed": -1}, "seed -1"),
        ({"split": "dev"}, "split 'dev'"),
        ({"size": 65}, "size 65"),
    ],
)
def test_wrong_arguments(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "out", **{**BUILD, **wrong})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num": 100_000}, "invalid num 100000"),
        ({"num": 0}, "num 0"),
        ({"seed": 2**20}, "seed 1048576"),
        ({"out": "sheet.jpg"}, r"invalid out sheet\.jpg: expected the path of a \.png file"),
    ],
)
def test_wrong_previews(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_preview(**{"out": "sheet.png", "sources": "sample", **wrong})


def test_a_caption_that_is_too_long_for_its_place_ends_in_an_ellipsis():
    font = load_font("inter", 12)
    lines = _wrap("a red car to the left of a tree " * 6, font, 256)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert max(font.getlength(line) for line in lines) <= 256
    assert _wrap("a red car", font, 256) == ["a red car"]


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_lossless_encodings_are_lossless(shelf, encoding, tmp_path):
    scene = sample_scene(5, shelf)
    (tmp_path / "picture").write_bytes(make_picture(scene, shelf, encoding))
    with Image.open(tmp_path / "picture") as image:
        assert image.format == ENCODINGS[encoding]["format"]
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(render(scene, shelf)))


def test_the_command(tmp_path):
    run = CliRunner().invoke(
        app,
        ["build", "--num", "3", "--size", "64", "--sources", "sample", "--split", "test", "--out", str(tmp_path / "o")],
    )
    assert run.exit_code == 0, run.output
    assert "3 pictures in 1 shard(s)" in run.output
    run = CliRunner().invoke(app, ["preview", "--num", "7", "--sources", "sample", "--out", str(tmp_path / "p.png")])
    assert run.exit_code == 0, run.output
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.size == (6 * 268 + 12, 2 * 312 + 12)
    run = CliRunner().invoke(app, ["build", "--num", "3", "--split", "dev", "--out", str(tmp_path / "o")])
    assert isinstance(run.exception, ValueError)
