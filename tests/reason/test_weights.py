"""Weights on words mean nothing to Lens; the words do."""

import time

import pytest

from leanlens.reason import Ask, SceneReasoner
from leanlens.reason.weights import without_weights


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a (red:1.3) apple", "a red apple"),
        ("a (red apple: .8), (dog:-1)", "a red apple, dog"),
        ("((red)) apple and a [blue] ball", "red apple and a blue ball"),
        ("(((a cat:1.1):1.2))", "(a cat)"),
        ("a cat BREAK a dog AND a fox", "a cat, a dog, a fox"),
        ("a dog (brown) and a cat", "a dog (brown) and a cat"),
        (r"a cat \(black\)", "a cat (black)"),
        ('a sign "(a:1.2) BREAK [x]" and a (red:2) cup', 'a sign "(a:1.2) BREAK [x]" and a red cup'),
        ("[cat:dog:0.5] [cat|dog]", "[cat:dog:0.5] [cat|dog]"),
        ("break and a cat", "break and a cat"),
        ("", ""),
    ],
)
def test_the_marks_go_and_the_words_stay(written, read):
    assert without_weights(written) == read


def test_what_is_weighted_is_understood():
    plain, weighted = SceneReasoner()(
        [Ask(text, 5, 256, 256) for text in ("a red apple and a blue cup", "a (red:1.3) apple AND a [blue] ((cup))")]
    )
    assert {fact.value for fact in plain.facts} >= {"apple", "red", "cup", "blue"}
    values = [[(fact.key, fact.value) for fact in record.facts if fact.stated] for record in (plain, weighted)]
    assert values[0] == values[1]
    assert weighted.original == "a (red:1.3) apple AND a [blue] ((cup))"


@pytest.mark.parametrize("text", ["猫", "(", "a ", "猫狗", '"', "a red qwzrt, ", "((", "[", "left of "])
def test_a_strangers_prompt_takes_no_time(text):
    """A thousand characters are read in a moment, and thirty-two thousand are not read at all."""
    reasoner = SceneReasoner()
    reasoner([Ask("a cat", 5, 256, 256)])
    for count, most in ((1_000, 3.0), (31_000, 0.5)):
        prompt = (text * count)[:count]
        began = time.process_time()
        (record,) = reasoner([Ask(prompt, 5, 256, 256)])
        assert time.process_time() - began < most
        if count > 1_000:
            assert (record.prompt, record.left_alone) == (prompt, "it is longer than 1,000 characters")
