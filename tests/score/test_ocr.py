import sys

import pytest
from PIL import Image, ImageDraw

from leanlens.score import ocr


def test_likeness():
    assert ocr.likeness("Open!", ["OPEN"]) == 1
    assert ocr.likeness("GRAND OPENING", ["grand", "opening"]) == 1
    assert 0.7 < ocr.likeness("OPEN", ["0PEN"]) < 1
    assert ocr.likeness("OPEN", []) < 0.1
    assert ocr.likeness("OPEN", ["CAFE", "OPEN", "24 H"]) == 1


def test_without_a_recogniser_nothing_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    monkeypatch.setattr(ocr, "_reader", ocr._reader.__wrapped__)
    assert ocr.read_texts(Image.new("RGB", (64, 64))) is None


def test_a_small_picture_is_enlarged_and_handed_over_as_bgr(monkeypatch):
    handed = []

    class Found:
        txts = ("HELLO",)

    monkeypatch.setattr(ocr, "_reader", lambda: lambda pixels: handed.append(pixels) or Found)
    assert ocr.read_texts(Image.new("RGB", (192, 96), (255, 0, 0))) == ["HELLO"]
    assert handed[0].shape == (384, 768, 3)
    assert tuple(handed[0][0, 0]) == (0, 0, 255)


def test_it_reads(tmp_path):
    pytest.importorskip("rapidocr")
    from leanlens.scenes.layout import load_font

    image = Image.new("RGB", (192, 96), (250, 208, 32))
    ImageDraw.Draw(image).text((40, 30), "HELLO", (20, 20, 20), load_font("inter", 30))
    assert ocr.likeness("HELLO", ocr.read_texts(image) or []) == 1
