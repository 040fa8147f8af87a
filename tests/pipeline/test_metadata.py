"""Settings in picture files, read back by us and as other programs do."""

import json
import re
import shutil
import struct
import subprocess
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from leanlens.pipeline.metadata import parameters_text, read_comment, read_record, save_picture
from leanlens.pipeline.reasoned import asked_prompt

RECORD = {
    "leanlens": "0.1.0",
    "request": {
        "prompt": "a café, “quoted”\nsecond line", "negative_prompt": "dark", "width": 64, "height": 32,
        "num_inference_steps": 20, "guidance_scale": 5.0, "seed": 7, "strength": None,
        "loras": [{"path": "/x/my, style.safetensors", "scale": 1.0}],
    },
    "model": {"name": "toy", "parts": {}, "fingerprint": "ab" * 32},
    "inputs": {"image": None, "mask": None, "loras": ["cd" * 32]},
    "run": {"dtype": "float32"},
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_round_trip_and_same_bytes_twice(tmp_path, suffix):
    picture = Image.effect_noise((64, 32), 50).convert("RGB")
    first, second = (save_picture(picture, tmp_path / f"{name}{suffix}", RECORD) for name in "ab")
    assert read_record(first) == RECORD
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_png_text_as_other_programs_read_it(tmp_path):
    path = save_picture(Image.new("RGB", (64, 32)), tmp_path / "a.png", RECORD)
    with Image.open(path) as picture:
        text = picture.info["parameters"]
    assert text == parameters_text(RECORD)
    lines = text.split("\n")
    assert lines[0].startswith("a café")
    assert lines[2] == "Negative prompt: dark"
    assert lines[3] == (
        "Steps: 20, Sampler: Euler, Schedule type: Lens, CFG scale: 5.0, Seed: 7, Size: 64x32, Model hash: ababababab, "
        'Model: toy, Lora hashes: "my, style: cdcdcdcdcdcd", Version: leanlens 0.1.0'
    )


def test_exif_comment_as_other_programs_read_it(tmp_path):
    path = save_picture(Image.new("RGB", (64, 32)), tmp_path / "a.jpg", RECORD)
    with Image.open(path) as picture:
        comment = picture.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == parameters_text(RECORD)


def test_what_cannot_be_read_or_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"invalid suffix '.gif': expected one of .png"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.gif", RECORD)
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    with pytest.raises(ValueError, match="carries no leanlens settings"):
        read_record(tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="is not a picture"):
        read_record(tmp_path / "text.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "file" / "a.png", RECORD)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.png", RECORD)
    before = path.read_bytes()

    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_picture(Image.new("RGB", (8, 8), "red"), path, RECORD)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def exiftool(path: Path, *words: str) -> str:
    """What the program that picture desks use reads; it is no code of ours and none of Pillow's."""
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed")
    return subprocess.run([program, "-n", *words, path], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("marking", ["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_another_program_reads_that_a_model_made_it(tmp_path, suffix, marking):
    record = {**RECORD, "marking": marking}
    path = save_picture(Image.new("RGB", (64, 32)), tmp_path / f"a{suffix}", record)
    assert exiftool(path, "-s3", "-XMP-iptcExt:DigitalSourceType") == SOURCE_TYPE + marking
    assert exiftool(path, "-s3", "-warning", "-error") == ""
    assert read_record(path) == record


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_packet_is_well_formed_and_left_out_where_it_is_not_wanted(tmp_path, suffix):
    picture = Image.new("RGB", (64, 32))
    data = save_picture(picture, tmp_path / f"a{suffix}", {**RECORD, "marking": "trainedAlgorithmicMedia"}).read_bytes()
    packet = re.search(rb"<\?xpacket begin=.*<\?xpacket end=\"w\"\?>", data, re.DOTALL)
    root = ElementTree.fromstring(packet[0].partition(b"?>")[2].rpartition(b"<?")[0].strip())
    described = next(root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"))
    name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert described.get(name) == f"{SOURCE_TYPE}trainedAlgorithmicMedia"
    for record in (RECORD, {**RECORD, "marking": None}):
        assert b"xpacket" not in save_picture(picture, tmp_path / f"b{suffix}", record).read_bytes()


def test_a_marking_that_is_not_in_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"invalid marking 'a\"/>': expected one of trainedAlgorithmicMedia, composite"
    ):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.png", {**RECORD, "marking": 'a"/>'})
    assert not list(tmp_path.iterdir())


# ---- EXIF as other programs read and write it ----


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_comment_is_of_the_type_that_automatic1111_reads(tmp_path, suffix):
    piexif = pytest.importorskip("piexif")
    helper = pytest.importorskip("piexif.helper")
    path = save_picture(Image.new("RGB", (64, 32)), tmp_path / f"a{suffix}", RECORD)
    with Image.open(path) as picture:
        fields = piexif.load(picture.info["exif"])
    assert helper.UserComment.load(fields["Exif"][piexif.ExifIFD.UserComment]) == parameters_text(RECORD)
    assert fields["0th"][piexif.ImageIFD.ImageDescription].startswith(b"leanlens:{")
    assert exiftool(path, "-s3", "-UserComment") == parameters_text(RECORD).replace("\n", ".")
    assert exiftool(path, "-s3", "-warning", "-error") == ""


LONG = {"ascii": "a fox " * 5300, "chinese": "\u72d0" * 31000, "emoji": "\U0001f98a" * 31000}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("kind", LONG)
def test_a_long_prompt_loses_neither_picture_nor_settings(tmp_path, kind, suffix):
    request = {**RECORD["request"], "prompt": LONG[kind], "negative_prompt": LONG[kind]}
    record = {**RECORD, "request": request, "marking": "trainedAlgorithmicMedia"}
    path = save_picture(Image.effect_noise((64, 32), 50).convert("RGB"), tmp_path / f"a{suffix}", record)
    assert read_record(path) == record
    with Image.open(path) as picture:
        text = picture.info["parameters"] if suffix == ".png" else read_comment(picture)
    if suffix != ".jpg":
        assert text == parameters_text(record)
        return
    lines = text.split("\n")
    assert lines[0].startswith(LONG[kind][:500])
    assert lines[0].endswith("\u2026")
    assert lines[-1].startswith("Steps: 20, Sampler: Euler")
    assert lines[-1].endswith("Shortened: the leanlens settings hold the whole prompt")
    assert exiftool(path, "-s3", "-warning", "-error") == ""


@pytest.mark.parametrize("length", [*range(21_300, 21_600, 60), *range(60_000, 66_000, 500)])
def test_no_length_falls_between_the_two_ways(tmp_path, length):
    record = {**RECORD, "request": {**RECORD["request"], "prompt": "x" * length}}
    assert read_record(save_picture(Image.new("RGB", (16, 16)), tmp_path / "a.jpg", record)) == record


WRITTEN = 'zwei "Füchse", 狐\nSteps: 9, Seed: 1 \U0001f98a'
REASONED = {"original": WRITTEN, "prompt": "two foxes", "facts": [], "source": "scenes 1"}


def with_reasoner(**fields):
    request = {**RECORD["request"], "prompt": "two foxes", "reasoner": REASONED, **fields}
    return {**RECORD, "request": request}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_text_holds_the_caption_and_what_was_written(tmp_path, suffix):
    path = save_picture(Image.new("RGB", (64, 32)), tmp_path / f"a{suffix}", with_reasoner())
    assert read_record(path) == with_reasoner()
    with Image.open(path) as picture:
        text = picture.info["parameters"] if suffix == ".png" else read_comment(picture)
    first, negative, settings = text.split("\n")
    assert (first, negative) == ("two foxes", "Negative prompt: dark")
    # As AUTOMATIC1111 takes the line apart, and with its own way to unquote.
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', settings)
    values = dict(found)
    assert json.loads(values["Original prompt"]) == WRITTEN
    assert values["Reasoner"] == "scenes 1"
    assert (values["Steps"], values["Seed"], values["Version"]) == ("20", "7", "leanlens 0.1.0")
    assert asked_prompt(read_record(path)["request"]) == WRITTEN
    assert asked_prompt(RECORD["request"]) == RECORD["request"]["prompt"]


def test_a_prompt_that_was_left_alone_is_told_once():
    alone = {**REASONED, "original": "two foxes", "left_alone": "it is a caption already"}
    assert parameters_text(with_reasoner(reasoner=alone)) == parameters_text(with_reasoner(reasoner=None))


@pytest.mark.parametrize("original", ["a fox " * 5300, "\u72d0" * 31000, '"\n\x01' * 9000])
@pytest.mark.parametrize("caption", ["two foxes", "\u7406" * 31000])
def test_what_was_written_may_be_long_too(tmp_path, original, caption):
    record = with_reasoner(prompt=caption, reasoner={**REASONED, "original": original, "prompt": caption})
    path = save_picture(Image.new("RGB", (16, 16)), tmp_path / "a.jpg", record)
    assert read_record(path) == record
    with Image.open(path) as picture:
        *prompts, settings = read_comment(picture).split("\n")
    assert prompts[0][:9] == caption[:9]
    assert settings.startswith("Steps: 20, Sampler: Euler")
    told = re.search(r'Original prompt: ("(?:\\.|[^\\"])+")', settings)
    assert json.loads(told[1])[:500] == original[:500]
    assert "Reasoner: scenes 1" in settings
    alone = with_reasoner(prompt=original, reasoner={**REASONED, "original": original, "prompt": original})
    with Image.open(save_picture(Image.new("RGB", (16, 16)), tmp_path / "b.jpg", alone)) as picture:
        assert "Original prompt" not in read_comment(picture)


WORDS = "a f\u00f6x, \u72d0\nSteps: 4, Seed: 7"


@pytest.mark.parametrize(
    ("comment", "order", "expected"),
    [
        (b"UNICODE\0" + WORDS.encode("utf-16-be"), "<", WORDS),
        (b"UNICODE\0" + WORDS.encode("utf-16-le"), "<", WORDS),
        (b"UNICODE\0" + WORDS.encode("utf-16-le"), ">", WORDS),
        (b"UNICODE\0" + WORDS.encode("utf-16"), ">", WORDS),
        (b"UNICODE\0" + "\u72d0\u72d0".encode("utf-16-le"), "<", "\u72d0\u72d0"),
        (b"UNICODE\0" + "\u72d0\u72d0".encode("utf-16-be"), ">", "\u72d0\u72d0"),
        (b"UNICODE\0" + WORDS.encode(), "<", WORDS),
        (b"ASCII\0\0\0a fox\0", "<", "a fox"),
        (b"ASCII\0\0\0" + WORDS.encode(), ">", WORDS),
        (bytes(8) + b"a fox", ">", "a fox"),
        (b"JIS\0\0\0\0\0" + "\u72d0".encode("iso2022_jp"), "<", "\u72d0"),
        (WORDS.encode(), "<", WORDS),
        (b"UNI", "<", "UNI"),
    ],
)
@pytest.mark.parametrize("kind", [1, 2, 7])  # BYTE, ASCII, UNDEFINED
def test_comments_of_other_programs_are_read(tmp_path, comment, order, expected, kind):
    if kind == 2 and (comment[:3] in (b"UNI", b"JIS") or not comment.isascii()):
        pytest.skip("text of type ASCII holds no such code")
    held = comment if len(comment) > 4 else comment + b"\0\0"
    second = struct.pack(order + "HHHII", 1, 0x9286, kind, len(held), 8 + 18 + 18) + bytes(4)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    first = struct.pack(order + "HHHII", 1, 0x8769, 4, 1, 8 + 18) + bytes(4)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + head + first + second + held)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert read_comment(picture) == expected


def test_damaged_exif_holds_no_comment(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(tmp_path / "a.jpg") as picture:
            assert read_comment(picture) == ""
