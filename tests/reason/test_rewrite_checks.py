"""What is wrong with rewrites: the table of good and bad ones, and each rule by itself."""

import tomllib
from pathlib import Path

import pytest

from leanlens.reason.language import find_language
from leanlens.reason.rewrite_checks import broken_rules, count_words

TABLE = tomllib.loads(Path(__file__).with_name("rewrites.toml").read_text(encoding="utf-8"))["rewrite"]
GOOD = [(row["original"], text) for row in TABLE for text in row["good"]]
BAD = [(row["original"], text, rule) for row in TABLE for rule, text in row["bad"]]


def checked(original, written, rule):
    """`cut` in the table is what the endpoint says of the answer."""
    return broken_rules(original, written, finish_reason="length" if rule == "cut" else "stop")


def test_the_table_is_large_and_in_several_languages():
    assert len(GOOD) >= 60
    assert len(BAD) >= 60
    assert {"en", "de", "fr", "es", "it", "pt", "ru", "zh", "ja"} <= {find_language(row["original"]) for row in TABLE}


@pytest.mark.parametrize(("original", "written"), GOOD)
def test_good_rewrites_pass(original, written):
    assert broken_rules(original, written) == []


@pytest.mark.parametrize(("original", "written", "rule"), BAD)
def test_bad_rewrites_do_not(original, written, rule):
    broken = checked(original, written, rule)
    assert any(rule in one for one in broken), broken


@pytest.mark.parametrize(("original", "written"), [(original, original) for original, _ in GOOD])
def test_a_prompt_keeps_all_that_it_states(original, written):
    lost = [one for one in broken_rules(original, written) if "markup" not in one]
    assert lost == []


def test_length():
    text = "A red fox sleeps in the snow. " * 2
    assert broken_rules("a red fox", text, most_words=14) == []
    assert broken_rules("a red fox", text, most_words=13) == ["it has 14 words; at most 13 are accepted"]
    assert broken_rules("a red fox", text, fits=lambda text: False) == ["it does not fit the text encoder's window"]
    assert count_words("两只黑猫 on a sofa's edge") == 6


def test_words_that_must_stay():
    assert broken_rules("inkwash a red fox", "A red fox in the snow.", kept=["inkwash"]) == ["it leaves out 'inkwash'"]


@pytest.mark.parametrize("written", ["", "  \n", "...", "——"])
def test_nothing(written):
    assert broken_rules("a red fox", written) == ["it is empty"]
