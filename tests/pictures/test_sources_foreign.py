"""Folders, tables and tars as other programs and systems write them: read, or named with their own reason."""

import io
import json
import tarfile

import pytest
from PIL import Image

from leanlens.pictures.sources import describe_skipped, open_source
from tests.pictures.conftest import picture


def captions(source) -> dict[str, str]:
    return {entry.key: source.captions(i).get("text", "") for i, entry in enumerate(source.index())}


def tar(path, **members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_captions_of_windows_programs(tmp_path):
    for name, text in {
        "mark": "\ufeffa fox\r\n".encode(), "old": b"a fox\rin snow\r", "blank": "\u00a0 \r\n".encode(),
        "cp1252": "z\u00f6lf".encode("cp1252"), "wide": "a fox".encode("utf-16"), "nul": b"a\0fox",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.png").write_bytes(picture(form="PNG"))
        (tmp_path / f"{name}.txt").write_bytes(text)
    source = open_source(tmp_path)
    assert captions(source) == {"blank": "", "mark": "a fox", "old": "a fox\nin snow"}
    assert "line 1 is not UTF-8 (byte 0xf6)" in source.skipped["cp1252.png"]
    assert "iconv -f UTF-16" in source.skipped["wide.png"]
    assert "NUL" in source.skipped["nul.png"]


def test_tables_of_windows_programs(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(form="PNG"))
    table = tmp_path / "metadata.csv"
    table.write_bytes("\ufefffile_name,text\r\na.png,z\u00f6lf\r\n".encode())
    assert captions(open_source(tmp_path)) == {"a": "z\u00f6lf"}
    for encoding, message in (("cp1252", r"metadata\.csv line 2 is not UTF-8"), ("utf-16", "not UTF-8 but UTF-16")):
        table.write_bytes("file_name,text\r\na.png,z\u00f6lf\r\n".encode(encoding))
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path)
    table.unlink()
    rows = "\ufeff" + json.dumps({"file_name": "a.png", "text": "\ufeffone"}) + "\r\n"
    (tmp_path / "metadata.jsonl").write_bytes(rows.encode())
    assert captions(open_source(tmp_path)) == {"a": "one"}


def test_file_names_that_leave_their_folder_are_refused_and_links_are_followed(tmp_path):
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(picture(form="PNG"))
    (tmp_path / "set" / "deep" / "a.png").write_bytes(picture(form="PNG"))
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    names = ["../secret.png", str(tmp_path / "secret.png"), "C:\\secret.png", "\\\\host\\x.png",
             "deep/../../secret.png",
             "deep\\..\\..\\secret.png", "", "link.png", "deep\\a.png"]  # fmt: skip
    rows = [json.dumps({"file_name": name, "text": "t"}) for name in names]
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(rows))
    source = open_source(tmp_path / "set")
    assert captions(source) == {"link": "t", "deep/a": "t"}
    assert list(source.skipped) == [f"metadata.jsonl line {line}" for line in range(1, 8)]
    assert all("expected a file next to the table" in reason for reason in source.skipped.values())


def test_tables_one_level_down_and_what_is_no_data(tmp_path):
    for split in ("train", "training"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(picture(form="PNG"))
    (tmp_path / "train" / "lost.png").write_bytes(picture(form="PNG"))
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "one"}')
    (tmp_path / "training" / "a.txt").write_text("two")
    for hidden in (".ipynb_checkpoints/a.png", "__MACOSX/a.png", ".hidden.jpg", "._a.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(picture(form="PNG"))
    (tmp_path / "photo.heic").write_bytes(b"x")
    source = open_source(tmp_path)
    assert captions(source) == {"train/a": "one", "training/a": "two"}
    assert source.skipped.keys() == {"train/lost.png", "photo.heic"}
    assert "train/metadata.jsonl has no row for it" in source.skipped["train/lost.png"]


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff", "tif", "avif", "jfif", "JPG", "jp2"])
def test_every_kind_of_picture_that_is_read(tmp_path, suffix):
    form = {"jfif": "JPEG", "JPG": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    Image.new("RGB", (48, 32), "red").save(tmp_path / f"a.{suffix}", form)
    (tmp_path / "a.txt").write_text("red")
    source = open_source(tmp_path)
    assert captions(source) == {"a": "red"}
    assert (source.index()[0].height, source.index()[0].width) == (32, 48)


def test_names_with_dots_in_a_tar(tmp_path):
    png = picture(form="PNG")
    tar(tmp_path / "a.tar", **{
        "22.05.png": png, "22.05.txt": b"date", "photo.v2.jpg": picture(), "photo.v2.json": b'{"text": "v2"}',
        "x.left.jpg": picture(), "x.right.jpg": picture(), "x.txt": b"both", "./plain.png": png, "./plain.txt": b"p",
        "__MACOSX/._x.png": png, ".hidden.png": png, "../out.png": png, "phone.heic": b"x", "phone.txt": b"t",
    })  # fmt: skip
    source = open_source(tmp_path / "a.tar")
    assert captions(source) == {
        "22.05": "date", "photo.v2": "v2", "x.left": "both", "x.right": "both", "./plain": "p",
    }  # fmt: skip
    assert source.skipped.keys() == {"a.tar: ../out.png", "a.tar: phone"}


def test_every_picture_column_of_a_table(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "p.png").write_bytes(picture(form="PNG"))
    struct = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    image = [{"bytes": None, "path": "p.png"}, None, {"bytes": None, "path": "../x.png"}, None, None]
    png = [None, picture(form="PNG"), None, None, None]
    images = [None, None, None, [{"bytes": picture(), "path": "q"}], None]
    path = [None, None, None, None, "https://example.com/a.png"]
    parquet.write_table(
        arrow.table({
            "image": arrow.array(image, struct), "png": arrow.array(png, arrow.binary()),
            "images": arrow.array(images, arrow.list_(struct)), "picture": arrow.array(path, arrow.string()),
            "txt": list("abcde"),
        }),
        tmp_path / "t.parquet",
    )  # fmt: skip
    source = open_source(tmp_path / "t.parquet")
    assert list(captions(source).values()) == ["a", "b", "d"]
    assert [source.read(i).image for i in range(3)] == [
        (tmp_path / "p.png").read_bytes(),
        png[1],
        images[3][0]["bytes"],
    ]
    reasons = list(source.skipped.values())
    assert "expected a file next to the table" in reasons[0]
    assert "download it first" in reasons[1]


def test_the_commonest_reason_comes_first():
    assert describe_skipped({"a": "rare", "b": "small", "c": "small"}) == "b: small (and 1 more); a: rare"
