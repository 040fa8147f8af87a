import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from leanlens.evaluate.draw import RECORD, draw_items, find_image, image_key, seeds_of
from leanlens.evaluate.suite import Drawn, ImageFailed, Item
from tests.evaluate.stub import Painter

ITEMS = [Item(f"{index:05d}", f"prompt {index}", size=(8, 8)) for index in range(3)]


def test_an_image_is_drawn_once(tmp_path):
    painter = Painter()
    first = draw_items(painter, ITEMS, 2, 5, tmp_path)
    assert painter.drawn == 6
    assert [[image.seed for image in row] for row in first] == [[5, 1_000_005], [6, 1_000_006], [7, 1_000_007]]
    assert draw_items(painter, ITEMS, 2, 5, tmp_path) == first
    assert painter.drawn == 6
    with Image.open(first[0][1].path) as image:
        record = json.loads(image.info[RECORD])
    assert record["key"] == image_key(painter.identity(), ITEMS[0], 1_000_005) == first[0][1].path.stem
    assert record["seconds"] == 0.25


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n", "half", "flipped"])
def test_a_damaged_image_is_drawn_again(tmp_path, damage):
    painter = Painter()
    (row,) = draw_items(painter, ITEMS[:1], 1, 0, tmp_path)
    whole = row[0].path.read_bytes()
    pixels = whole.index(b"IDAT") + 10
    flipped = whole[:pixels] + bytes([whole[pixels] ^ 255]) + whole[pixels + 1 :]
    broken = {"half": whole[: len(whole) // 2], "flipped": flipped}
    row[0].path.write_bytes(broken.get(damage, damage))
    (again,) = draw_items(painter, ITEMS[:1], 1, 0, tmp_path)
    assert painter.drawn == 2
    assert again[0].path.read_bytes() == whole


def test_another_model_prompt_size_or_seed_is_another_image():
    item = ITEMS[0]
    keys = {
        image_key({"model": "a"}, item, 0),
        image_key({"model": "b"}, item, 0),
        image_key({"model": "a"}, ITEMS[1], 0),
        image_key({"model": "a"}, Item("x", item.prompt, size=(16, 8)), 0),
        image_key({"model": "a"}, item, 1),
    }
    assert len(keys) == 5
    assert image_key({"model": "a"}, Item("other", item.prompt, ("c",), {"a": 1}, (8, 8)), 0) in keys


def test_shards_draw_every_image_once_between_them(tmp_path):
    painters = [Painter(), Painter()]
    rows = [draw_items(painter, ITEMS, 1, 0, tmp_path, shard=(part, 2)) for part, painter in enumerate(painters)]
    assert [painter.drawn for painter in painters] == [2, 1]
    assert [[len(row) for row in part] for part in rows] == [[1, 0, 1], [0, 1, 0]]
    whole = Painter()
    assert len(draw_items(whole, ITEMS, 1, 0, tmp_path)) == 3
    assert whole.drawn == 0


def test_an_image_that_cannot_be_drawn_is_named_and_tried_again(tmp_path):
    painter = Painter(fails={"prompt 1"})
    said = []
    rows = draw_items(painter, ITEMS, 1, 0, tmp_path, said.append)
    assert [row[0].failed for row in rows] == ["", "the prompt was refused", ""]
    key = rows[1][0].key
    assert find_image(tmp_path, key, 1) is None
    assert find_image(tmp_path, key, 1, with_failed=True).failed == "the prompt was refused"
    with pytest.raises(ValueError, match="could not be drawn: the prompt was refused"):
        rows[1][0].open()
    painter.fails = set()
    assert [row[0].failed for row in draw_items(painter, ITEMS, 1, 0, tmp_path)] == ["", "", ""]
    assert painter.drawn == 3
    assert find_image(tmp_path, key, 1, with_failed=True).failed == ""
    assert said[-1] == "painter: image 3 of 3"


def test_what_is_no_rgb_image_becomes_one(tmp_path):
    class Grey(Painter):
        def draw(self, item, seed):
            return Drawn(Image.new("LA", (4, 4), (9, 255)), float("nan"), {"prompt": "é"})

    ((image,),) = draw_items(Grey(), ITEMS[:1], 1, 0, tmp_path)
    assert np.asarray(image.open()).tolist()[0][0] == [9, 9, 9]
    assert (image.seconds, image.machine, image.reasoned) == (None, "", {"prompt": "é"})


def test_seeds_of_a_prompt_are_far_apart():
    assert seeds_of(2, 3, 10) == [12, 1_000_012, 2_000_012]
    assert issubclass(ImageFailed, Exception)


@pytest.mark.parametrize(
    "record",
    ["[1]", "null", '"key"', "[" * 5000, '{"key": "KEY"}',
     '{"key": "KEY", "seconds": "x", "reasoned": null, "machine": "", "notes": {}}'],
)  # fmt: skip
def test_an_image_with_a_damaged_record_is_drawn_again(tmp_path, record):
    (kept,) = draw_items(Painter(), ITEMS[:1], 1, 0, tmp_path)[0]
    text = PngImagePlugin.PngInfo()
    text.add_text(RECORD, record.replace("KEY", kept.key))
    Image.new("RGB", (8, 8)).save(kept.path, pnginfo=text)
    assert find_image(tmp_path, kept.key, 0) is None
    draw_items(Painter(), ITEMS[:1], 1, 0, tmp_path)
    assert find_image(tmp_path, kept.key, 0) == kept


def test_an_image_of_too_many_pixels_is_damaged(tmp_path, monkeypatch):
    (kept,) = draw_items(Painter(), ITEMS[:1], 1, 0, tmp_path)[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    assert find_image(tmp_path, kept.key, 0) is None
    with pytest.raises(ValueError, match="cannot be read"):
        kept.open()
