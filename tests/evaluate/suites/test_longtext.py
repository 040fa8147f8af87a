import hashlib
import json

import pytest
from PIL import Image, ImageDraw

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges import text
from leanlens.evaluate.suite import Item, Judgement
from leanlens.evaluate.suites import asking
from leanlens.evaluate.suites.data import SOURCES, Source
from leanlens.evaluate.suites.longtext import longtext, measure, words_of
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.score.protocol import Failed

ROWS = [
    {"category": "sign", "length": "short", "prompt": "a sign 'OPEN - 24/7'", "text": ["OPEN - 24/7"], "prompt_id": 0},
    {
        "category": "label", "length": "long", "prompt": "a café menu", "text": ["Café & Tea", "tea, tea!"],
        "text_length": 4, "prompt_id": 12,
    },
]  # fmt: skip
CHINESE = [{"category": "sign", "length": "short", "prompt": "招牌", "text": ["始于1998", "A b"], "prompt_id": 3}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small files of the suite's form in place of the real ones."""
    files = {}
    for name, rows in (("text_prompts.jsonl", ROWS), ("text_prompts_zh.jsonl", CHINESE)):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        (tmp_path / name).write_bytes(content)
        files[name] = (name, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(SOURCES, "longtext", Source("someone/suite", "0" * 40, "CC0-1.0", files))
    for module in (asking, text):
        monkeypatch.setattr(module, "recogniser_identity", lambda: {"rapidocr": "1"})
    return tmp_path


def test_the_items(folder):
    suite = longtext(SuiteOptions(data=folder))
    assert [item.id for item in suite.items] == ["0000", "0012"]
    assert suite.items[1].categories == ("label", "long")
    assert suite.items[1].truth == {"text": ["Café & Tea", "tea, tea!"], "language": "en"}
    assert suite.images_per_prompt == 4
    assert [judge.name for judge in suite.judges] == ["rapidocr"]
    assert suite.deviations[0] == "Text is read by rapidocr and not by Qwen2.5-VL-7B-Instruct."
    official = longtext(
        SuiteOptions(data=folder, num=1, endpoints=(Endpoint("http://h/v1", "Qwen/Qwen2.5-VL-7B-Instruct"),))
    )
    assert not any(line.startswith("Text is read by") for line in official.deviations)
    assert official.deviations[0] == "1 of the 2 prompts are used."
    chinese = longtext(SuiteOptions(data=folder, prompts="zh", size=512))
    assert (chinese.items[0].prompt, chinese.items[0].size) == ("招牌", (512, 512))
    with pytest.raises(ValueError, match="invalid prompts 'fr': expected en or zh"):
        longtext(SuiteOptions(data=folder, prompts="fr"))


def test_words_are_cleaned_as_in_the_official_script():
    assert words_of("OPEN - 24/7,\n  Wi-Fi", "en") == ["open", "247", "wifi"]  # a hyphen joins
    assert words_of("Café Piñata “À la carte”", "en") == ["café", "piata", "à", "la", "carte"]  # ñ is not listed
    assert words_of("始于 1998，A-b。", "zh") == list("始于1998Ab")  # case stays, spaces go


@pytest.mark.parametrize(
    ("transcript", "matched", "corrected"),
    [
        ("open 247", 2, 2),
        ("24/7\nOPEN open open", 2, 2),  # order and further words do not count
        ("OPEN 24", 1, 1),
        ("", 0, 0),
        ("No text recognized.", 0, 0),
        ("addCriterion\nOPEN 24/7", 2, 2),
    ],
)
def test_matches_of_a_transcript(transcript, matched, corrected):
    score, counts = measure(transcript, Item("0", "", truth={"text": ["OPEN - 24/7"], "language": "en"}))
    assert counts == {"matched": matched, "matched_corrected": corrected, "words": 2}
    assert score == {"words": matched / 2, "words (corrected)": corrected / 2}


def test_the_answer_for_no_text_can_match_officially():
    item = Item("0", "", truth={"text": ["No entry without text"], "language": "en"})
    assert measure("No text recognized", item)[1] == {"matched": 2, "matched_corrected": 0, "words": 4}
    leaked = Item("0", "", truth={"text": ["addCriterion"], "language": "en"})
    assert measure("addCriterion", leaked)[1]["matched"] == 1
    with pytest.raises(ValueError, match="item 7 asks for no words"):
        measure("", Item("7", "", truth={"text": ["!"], "language": "en"}))


def test_repeated_words_match_as_often_as_they_are_there():
    item = Item("0", "", truth={"text": ["Café & Tea", "tea, tea!"], "language": "en"})
    assert measure("TEA tea café", item)[1]["matched"] == 3
    chinese = Item("0", "", truth={"text": ["始于1998"], "language": "zh"})
    assert measure("1989 于", chinese)[1] == {"matched": 5, "matched_corrected": 5, "words": 6}


def judgement(transcript, item):
    """What the judge says of a transcript; None for one that failed."""
    if transcript is None:
        return Judgement({"words": Failed("late"), "words (corrected)": Failed("late")})
    score, counts = measure(transcript, item)
    return Judgement(score, {"text": transcript, **counts})


def test_the_text_score_is_a_micro_average(folder):
    suite = longtext(SuiteOptions(data=folder, endpoints=(Endpoint("http://h/v1", "m"),)))
    said = [["open 247", "OPEN", ""], ["café tea tea tea", "tea", None]]  # of 2 and 4 words
    judged = [
        {name: [judgement(one, item) for one in row] for name in ("m", "rapidocr")}
        for row, item in zip(said, suite.items, strict=True)
    ]
    metrics = {metric.name: metric for metric in suite.metrics(suite.items, judged)}
    assert list(metrics) == [
        "text score", "text score, corrected", "text score, rapidocr", "text score, corrected, rapidocr",
    ]  # fmt: skip
    assert metrics["text score"].value == pytest.approx((2 + 1 + 0 + 4 + 1) / (3 * 2 + 2 * 4))
    assert (metrics["text score"].num, metrics["text score"].failed) == (2, 1)


def test_drawn_text_scores_1_and_other_text_0():
    pytest.importorskip("rapidocr")
    from leanlens.scenes.layout import load_font

    def drawn(*lines):
        image = Image.new("RGB", (640, 256), (240, 236, 220))
        for row, line in enumerate(lines):
            ImageDraw.Draw(image).text((40, 30 + 90 * row), line, (20, 20, 20), load_font("inter", 40))
        return image

    item = Item("0", "", truth={"text": ["FRESH BREWS", "Since 1998"], "language": "en"})
    judge = text.TextJudge("rapidocr", text.Recogniser(), ("words", "words (corrected)"), measure)
    images = [drawn("FRESH BREWS", "Since 1998"), drawn("COLD TEA", "Until 2024"), drawn()]
    assert [one.score["words"] for one in judge(images, [item] * 3)] == [1, 0, 0]
