import numpy as np
import pytest
from PIL import Image, ImageDraw

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges import text
from leanlens.evaluate.judges.text import NO_TEXT, Recogniser, TextJudge, VisionModel, counts_of
from leanlens.evaluate.metric import count_metric
from leanlens.evaluate.suite import Item, Judgement
from leanlens.score import ocr
from leanlens.score.protocol import Failed
from tests.mock_endpoint import Reply, cut_off, mock_endpoint, prompt_of


def letters(transcript, item):
    """A measure for these tests: the share of wanted letters that a transcript has."""
    found = sum(letter in transcript for letter in item.truth["text"])
    return {"letters": found / len(item.truth["text"])}, {"found": found, "letters": len(item.truth["text"])}


ITEMS = [
    Item("0", "a sign AB", truth={"text": "AB"}),
    Item("1", "a cat"),
    Item("2", "C", truth={"text": "C"}),
]
IMAGES = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]


class Said:
    def __init__(self, *texts):
        self.texts = list(texts)

    def identity(self):
        return {"reader": "said"}

    def __call__(self, images, items):
        assert len(images) == len(items) == len(self.texts)
        return self.texts


def test_an_item_without_text_is_not_read_and_a_failure_is_kept():
    judge = TextJudge("said", Said("xA", Failed("timeout: no answer")), ("letters",), letters)
    found = judge(IMAGES, ITEMS)
    assert found[0] == Judgement({"letters": 0.5}, {"text": "xA", "found": 1, "letters": 2})
    assert found[1] == Judgement({"letters": None})
    assert found[2] == Judgement({"letters": Failed("timeout: no answer")})
    assert judge.identity() == {"kind": "text", "format": 1, "reader": "said"}
    with pytest.raises(ValueError, match="images has 1 entries for 3 items"):
        judge(IMAGES[:1], ITEMS)


def test_counts_are_added_up_over_judged_images():
    one, none = Judgement({"letters": 0.5}, {"text": "xA", "found": 1, "letters": 2}), Judgement({"letters": None})
    failed = Judgement({"letters": Failed("timeout")})
    rows = [[one, one], [none, none], [failed, one], [failed, failed]]
    metric = count_metric("letters", counts_of(rows, ("found", "letters")))
    np.testing.assert_array_equal(metric.sums, [[2, 4], [0, 0], [1, 2], [0, 0]])
    assert (metric.value, metric.num, metric.failed) == (0.5, 2, 3)


def test_a_vision_model_is_asked_once_for_each_image(tmp_path):
    replies = {100: Reply("OPEN"), 50: cut_off(), 1024: Reply("No text recognized")}
    items = [Item("0", "", truth={"max_tokens": 100}), Item("1", "", truth={"max_tokens": 50}), Item("2", "")]
    with mock_endpoint(lambda body, count: replies[body["max_tokens"]]) as server:
        read = VisionModel(Endpoint(server.url, "some/reader", tries=1), tmp_path)
        first = read(IMAGES, items)
        assert first[0] == "OPEN"
        assert isinstance(first[1], Failed)
        assert first[1].reason.startswith("truncated")
        assert NO_TEXT.sub("", first[2]) == ""
        assert len(server.bodies) == 3
        assert all("No text recognized" in prompt_of(body) for body in server.bodies)
        assert read(IMAGES, items)[0] == "OPEN"
        assert len(server.bodies) == 4  # only the failure is asked again
        assert (read.identity()["model"], read.identity()["url"]) == ("some/reader", server.url)


def test_without_a_recogniser_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setattr(text, "recogniser_identity", lambda: None)
    with pytest.raises(ValueError, match=r"text cannot be read without a recogniser: .*\[ocr\]"):
        Recogniser()
    monkeypatch.setattr(text, "recogniser_identity", lambda: {"rapidocr": "1"})
    assert Recogniser().identity() == {"reader": "rapidocr", "rapidocr": "1"}


def test_a_recogniser_that_breaks_at_one_image_fails_there(monkeypatch):
    def read(image):
        if image is IMAGES[1]:
            raise RuntimeError("no memory")
        return ["A", "B"]

    monkeypatch.setattr(text, "read_texts", read)
    monkeypatch.setattr(text, "recogniser_identity", dict)
    assert Recogniser()(IMAGES, ITEMS) == ["A\nB", Failed("rapidocr: RuntimeError: no memory"), "A\nB"]


def test_the_identity_names_versions_and_checksums():
    pytest.importorskip("rapidocr")
    found = ocr.recogniser_identity()
    assert set(found) == {"rapidocr", "onnxruntime", "models", "enlarged_to"}
    assert len(found["models"]) >= 2
    assert all(len(digest) == 64 for digest in found["models"].values())


def test_it_reads():
    pytest.importorskip("rapidocr")
    from leanlens.scenes.layout import load_font

    image = Image.new("RGB", (192, 96), (250, 208, 32))
    ImageDraw.Draw(image).text((40, 30), "HELLO", (20, 20, 20), load_font("inter", 30))
    assert Recogniser()([image, Image.new("RGB", (64, 64))], ITEMS[:2]) == ["HELLO", ""]
