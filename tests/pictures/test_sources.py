import io
import json

import numpy as np
import pytest
from PIL import Image

from leanlens.pictures.decode import decode, measure, suffix_of
from leanlens.pictures.record import split_fields
from leanlens.pictures.shards import write_shards
from leanlens.pictures.sources import open_source
from tests.pictures.conftest import picture


def test_a_folder_with_sidecars(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jpg").write_bytes(picture(40, 60, 1))
    (tmp_path / "a.txt").write_text(" a fox \n")
    (tmp_path / "deep" / "b.PNG").write_bytes(picture(20, 30, 2, "PNG"))
    (tmp_path / "deep" / "b.json").write_text(json.dumps({"brief": "b", "dense": "bb", "score": 3}))
    (tmp_path / "c.webp").write_bytes(picture(24, 16, 3, "WEBP"))
    (tmp_path / "c.caption").write_text("see")
    (tmp_path / "d.jpg").write_bytes(picture(16, 16, 4))
    source = open_source(tmp_path)
    assert [(entry.key, entry.height, entry.width, entry.kinds) for entry in source.index()] == [
        ("a", 40, 60, ("text",)),
        ("c", 24, 16, ("text",)),
        ("d", 16, 16, ()),
        ("deep/b", 20, 30, ("brief", "dense")),
    ]
    assert source.read(0).captions == {"text": "a fox"}
    assert source.read(3).extra == {"score": 3}
    assert source.read(3).image == (tmp_path / "deep" / "b.PNG").read_bytes()


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_a_folder_with_a_table(tmp_path, table):
    (tmp_path / "a.jpg").write_bytes(picture(40, 60, 1))
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    rows = [
        {"file_name": "a.jpg", "text": "a, fox"},
        {"file_name": "bad.jpg", "text": "b"},
        {"file_name": "no.jpg", "text": ""},
    ]
    if table.endswith("jsonl"):
        (tmp_path / table).write_text("\n".join([*map(json.dumps, rows), "{oops", ""]))
    else:
        (tmp_path / table).write_text(
            "file_name,text\n" + "".join(f'{row["file_name"]},"{row["text"]}"\n' for row in rows)
        )
    source = open_source(tmp_path)
    assert [entry.key for entry in source.index()] == ["a"]
    assert source.read(0).captions == {"text": "a, fox"}
    assert {"bad.jpg", "no.jpg"} <= set(source.skipped)
    assert ("metadata.jsonl line 4" in source.skipped) == table.endswith("jsonl")


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": picture(40, 60, n), "path": f"{n}.jpg"} for n in range(6)]
    images[2] = {"bytes": b"broken", "path": "2.jpg"}
    table = arrow.table({"image": images, "caption": [f"c{n}" for n in range(5)] + [None], "score": list(range(6))})
    parquet.write_table(table, tmp_path / "train.parquet", row_group_size=2)
    source = open_source(tmp_path)
    assert [entry.kinds for entry in source.index()] == [("text",)] * 4 + [()]
    record = source.read(2)
    assert (record.key, record.captions, record.extra) == ("train-00000003", {"text": "c3"}, {"score": 3})
    assert record.image == images[3]["bytes"]
    assert source.captions(2) == {"text": "c3"}
    assert list(source.skipped) == ["train.parquet: train-00000002"]


def test_parquet_without_pictures_names_its_columns(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"url": ["x"], "caption": ["c"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="columns url, caption"):
        open_source(tmp_path / "a.parquet")


def test_any_source_becomes_shards(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / "in" / f"{n}.jpg").write_bytes(picture(seed=n))
        (tmp_path / "in" / f"{n}.txt").write_text(f"t{n}")
    source = open_source(tmp_path / "in")
    write_shards(tmp_path / "out", (source.read(i) for i in range(len(source.index()))))
    again = open_source(tmp_path / "out")
    assert [again.read(i) for i in range(3)] == [source.read(i) for i in range(3)]


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "does not exist"), ("a.zip", r"\.zip"), ("empty", "contains no readable picture")]
)
def test_what_cannot_be_opened_is_named(tmp_path, name, message):
    (tmp_path / "a.zip").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / name)


def test_captions_by_their_many_names():
    captions, extra = split_fields(
        {"caption": " ", "prompt": "p", "short_caption": "s", "dense": ["no"], "text": None, "x": 1}
    )
    assert captions == {"text": "p", "brief": "s"}
    assert extra == {"x": 1}


# ---- decoding ----


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def test_exif_turns_are_made_and_measured():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = picture(40, 60, 0, "JPEG", exif=exif)
    assert measure(data, lambda: data) == (60, 40)
    assert decode(data).size == (40, 60)
    plain = np.asarray(decode(picture(40, 60, 0)))
    np.testing.assert_array_equal(np.asarray(decode(data)), np.rot90(plain, -1))


def test_a_large_head_is_read_whole():
    data = picture(40, 60, 0, "JPEG", icc_profile=b"\x00" * 200_000)
    assert measure(data[:65536], lambda: data) == (40, 60)


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    assert list(decode(saved(image)).get_flattened_data()) == [(255, 255, 255), (255, 0, 0)]


def test_sixteen_bit_grey_keeps_its_range():
    image = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert [value[0] for value in decode(saved(image)).get_flattened_data()] == [0, 128, 255]


@pytest.mark.parametrize("mode", ["L", "P", "LA", "CMYK", "1"])
def test_other_modes_become_rgb(mode):
    form = "JPEG" if mode == "CMYK" else "PNG"
    assert decode(saved(Image.new(mode, (4, 4)), form)).mode == "RGB"


def test_broken_pictures_are_a_value_error():
    for data in (b"", b"text", picture()[:700], picture(form="PNG")[:300]):
        with pytest.raises(ValueError, match="the picture cannot be"):
            decode(data)


def test_formats_are_told_by_their_bytes():
    assert [suffix_of(picture(form=form)) for form in ("JPEG", "PNG", "WEBP")] == ["jpg", "png", "webp"]
