import hashlib
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges import text
from leanlens.evaluate.suite import Item, Judgement
from leanlens.evaluate.suites import asking
from leanlens.evaluate.suites.cvtg import CRITERIA, cvtg, measure
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.score.protocol import Failed

PROMPTS = {
    "CVTG/2.json": ["A sign 'READ'. A cup with 'Good MORNING'.", "A board 'Sale' and a car 'Drive'."],
    "CVTG-Style/3_combined.json": ["A shop 'Open' in red, a bag 'Bag' in bold, a door 'In'."],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for module in (asking, text):
        monkeypatch.setattr(module, "recogniser_identity", lambda: {"rapidocr": "1"})
    for name, prompts in PROMPTS.items():
        (tmp_path / name).parent.mkdir()
        rows = [{"index": index, "prompt": prompt, "carrier_list": []} for index, prompt in enumerate(prompts)]
        (tmp_path / name).write_text(json.dumps({"data_list": rows}))
    return tmp_path


def test_the_items(folder):
    suite = cvtg(SuiteOptions(data=folder, endpoints=(Endpoint("http://h/v1", "vision"),)))
    assert [item.id for item in suite.items] == ["CVTG-2-0", "CVTG-2-1", "CVTG-style-3-0"]
    assert suite.items[0].truth == {"text": ["READ", "Good MORNING"]}
    assert suite.items[2].categories == ("3 regions", "CVTG-style")
    assert suite.images_per_prompt == 1
    assert [judge.name for judge in suite.judges] == ["rapidocr", "vision"]
    digest = hashlib.sha256((folder / "CVTG/2.json").read_bytes()).hexdigest()
    assert suite.source["files"]["CVTG/2.json"] == {"sha256": digest}
    assert suite.deviations[-1] == "3 of 2,000 prompts."
    assert any("CLIPScore" in line for line in suite.deviations)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"2\.json has no prompts; expected"),
        ('{"data_list": []}', r"2\.json has no prompts"),
        ('{"data_list": [{"prompt": "a \'B\'"}, {"prompt": "no text"}]}', r"2\.json entry 1 has no prompt with words"),
        ('{"data_list": ["a \'B\'"]}', r"2\.json entry 0 has no prompt with words"),
    ],
)
def test_another_form_is_an_error(folder, content, message):
    (folder / "CVTG/2.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        cvtg(SuiteOptions(data=folder))


def test_the_folder_is_named_where_it_is_missing(tmp_path):
    with pytest.raises(ValueError, match="cvtg needs a folder with the files of CVTG-2K"):
        cvtg(SuiteOptions())
    with pytest.raises(ValueError, match=r"has no file such as CVTG/2\.json"):
        cvtg(SuiteOptions(data=tmp_path / "none"))


@pytest.mark.parametrize(
    ("transcript", "found", "likeness"),
    [
        ("read\nGOOD Morning", 3, 3.0),
        ("morning good read", 3, 3.0),  # in any order
        ("Reed Good Morning!", 1, (1 - 1 / 4.00001) + 1 + (1 - 1 / 8.00001)),  # punctuation counts
        ("", 0, 0.0),
        ("No text recognized", 0, 0.0),
    ],
)
def test_words_of_a_transcript(transcript, found, likeness):
    score, counts = measure(transcript, Item("0", "", truth={"text": ["READ", "Good MORNING"]}))
    assert counts == {"words": 3, "found": found, "likeness": pytest.approx(likeness, abs=1e-4)}
    assert score == {"words": found / 3, "likeness": pytest.approx(likeness / 3, abs=1e-4)}


def test_a_word_that_is_wanted_twice_matches_one_word_twice():
    assert measure("sale", Item("0", "", truth={"text": ["Sale", "SALE now"]}))[1]["found"] == 2


def judgement(transcript, item):
    """What the judge says of a transcript; None for one that failed."""
    if transcript is None:
        return Judgement(dict.fromkeys(CRITERIA, Failed("late")))
    score, counts = measure(transcript, item)
    return Judgement(score, {"text": transcript, **counts})


def test_accuracy_and_ned_are_means_over_all_words(folder):
    suite = cvtg(SuiteOptions(data=folder))
    said = ["read good evening", "xxxxx", "open bag in"]  # of 3, 2 and 3 words
    judged = [{"rapidocr": [judgement(one, item)]} for one, item in zip(said, suite.items, strict=True)]
    metrics = {metric.name: metric for metric in suite.metrics(suite.items, judged)}
    assert list(metrics) == [
        "word accuracy", "word accuracy, 2 regions", "word accuracy, 3 regions",
        "NED", "NED, 2 regions", "NED, 3 regions",
    ]  # fmt: skip
    assert metrics["word accuracy"].value == pytest.approx(5 / 8)
    assert metrics["word accuracy, 2 regions"].value == pytest.approx(2 / 5)
    assert metrics["word accuracy, 3 regions"].value == 1
    evening = 1 - 3 / 7  # morning -> evening: three letters are replaced
    assert metrics["NED"].value == pytest.approx((1 + 1 + evening + 0 + 0 + 3) / 8, abs=1e-5)
    assert metrics["NED, 2 regions"].value == pytest.approx((2 + evening) / 5, abs=1e-5)
    judged[1] = {"rapidocr": [judgement(None, suite.items[1])]}
    metric = suite.metrics(suite.items, judged)[0]
    assert (metric.value, metric.num, metric.failed) == (pytest.approx(5 / 6), 2, 1)
    np.testing.assert_array_equal(metric.sums, [[2, 3], [0, 0], [3, 3]])


def test_drawn_text_scores_1_and_other_text_0():
    pytest.importorskip("rapidocr")
    from leanlens.scenes.layout import load_font

    def drawn(*words):
        image = Image.new("RGB", (512, 320), (30, 60, 40))
        for row, word in enumerate(words):
            ImageDraw.Draw(image).text((60, 30 + 90 * row), word, (250, 250, 240), load_font("inter", 44))
        return image

    item = Item("0", "", truth={"text": ["READ", "Good Morning"]})
    judge = text.TextJudge("rapidocr", text.Recogniser(), CRITERIA, measure)
    shown, other, nothing = judge([drawn("Good Morning", "READ"), drawn("Hill", "Sky"), drawn()], [item] * 3)
    assert shown.score == {"words": 1, "likeness": pytest.approx(1)}
    assert other.score["words"] == 0
    assert nothing.score == {"words": 0, "likeness": pytest.approx(0, abs=1e-5)}
