import numpy as np
import pytest
from PIL import Image, ImageDraw

from leanlens.evaluate.judges.text import Recogniser, TextJudge
from leanlens.evaluate.metric import count_metric
from leanlens.evaluate.suite import Item
from leanlens.evaluate.suites.oneig_text import COUNTS, CRITERIA, cleaned, measure, text_score


def wants(*texts):
    return Item("text-000", "", truth={"text": repr(list(texts))})


def test_texts_are_cleaned_as_in_the_official_script():
    assert cleaned("['The  Title', 'A-b,\n2025!']") == "The Title Ab 2025"
    assert cleaned("['5G技术', 'Open AI ，2025']") == "5G技术OpenAI2025"


@pytest.mark.parametrize(
    ("transcript", "edits", "matched", "words"),
    [
        ("The Title\nby Ann", 0, 4, 4),
        ("The title by Ann", 1, 3, 4),  # case counts
        ("by Ann The Title", 14, 4, 4),  # order counts in edits alone
        ("", 16, 0, 4),
        ("addCriterion\nNo text recognized.", 16, 0, 4),
    ],
)
def test_counts_of_a_transcript(transcript, edits, matched, words):
    score, counts = measure(transcript, wants("The Title", "by Ann"))
    exact = int(edits == 0)
    assert [counts[name] for name in COUNTS] == [edits, exact, 1, matched, words]
    assert [counts[f"{name}_corrected"] for name in COUNTS] == [edits, exact, 1, matched, words]
    assert score == {"words": matched / words, "exact": exact}


def test_characters_of_a_chinese_text_are_matched_one_by_one():
    counts = measure("报告 2025业", wants("行业报告，2025"))[1]
    assert (counts["matched"], counts["words"], counts["edits"]) == (7, 8, 3)


def test_a_line_break_is_officially_an_n():
    counts = measure("Title A\nBy B", wants("Title A\nBy B"))[1]
    assert (counts["edits"], counts["matched"], counts["words"]) == (1, 2, 3)  # Title AnBy B
    assert [counts[f"{name}_corrected"] for name in COUNTS] == [0, 1, 1, 4, 4]
    nothing = measure("No text recognized", wants("No entry"))[1]
    assert (nothing["matched"], nothing["matched_corrected"]) == (1, 0)


@pytest.mark.parametrize(
    ("sums", "longest", "value"),
    [
        ([40, 1, 4, 15, 20], 100, 1 - 10 / 100 * (1 - 1 / 4) * (1 - 15 / 20)),
        ([40, 1, 4, 15, 20], 50, 1 - 10 / 50 * (1 - 1 / 4) * (1 - 15 / 20)),
        ([800, 0, 4, 0, 20], 100, 0.0),  # 200 edits count as 100
        ([0, 4, 4, 20, 20], 100, 1.0),
    ],
)
def test_the_score_is_a_product_of_three(sums, longest, value):
    assert text_score(longest)(np.array(sums, float)) == pytest.approx(value)


def test_the_score_of_a_model_comes_from_sums_over_its_images():
    transcripts = ["The Title by Ann", "The title by Ann", "The", None]
    counts = [[tuple(measure(one, wants("The Title", "by Ann"))[1][name] for name in COUNTS) if one else None]
              for one in transcripts]  # fmt: skip
    metric = count_metric("text", counts, text_score(100), len(COUNTS))
    edits = (0 + 1 + 13) / 3
    assert metric.value == pytest.approx(1 - edits / 100 * (1 - 1 / 3) * (1 - (4 + 3 + 1) / 12))
    assert metric.num == 3
    assert np.isnan(text_score(100)(np.zeros(5)))
    assert text_score(100)(np.ones((7, 5))).shape == (7,)


def test_drawn_text_is_exact_and_other_text_is_not():
    pytest.importorskip("rapidocr")
    from leanlens.scenes.layout import load_font

    def drawn(*lines):
        image = Image.new("RGB", (640, 256), (250, 250, 250))
        for row, line in enumerate(lines):
            ImageDraw.Draw(image).text((40, 30 + 90 * row), line, (20, 20, 60), load_font("inter", 44))
        return image

    judge = TextJudge("rapidocr", Recogniser(), CRITERIA, measure)
    shown, other = judge([drawn("Annual Report", "Sales 2025"), drawn("Cold", "Tea")],
                         [wants("Annual Report", "Sales 2025")] * 2)  # fmt: skip
    assert shown.score == {"words": 1, "exact": 1}
    assert other.score == {"words": 0, "exact": 0}
