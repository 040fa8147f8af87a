"""What the check of rewritten prompts says of captions written by hand, and of the embedded reasoner's."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy")

from leanlens.scenes.describe import STYLE_PHRASES
from leanlens.scenes.names import Concept

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import asked
        import faithfulness

        yield asked, faithfulness
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def icons(bench):
    from leanlens.reason.words import known_things

    kinds = dict.fromkeys(bench[0].SUPPORTS, "support") | dict.fromkeys(bench[0].SHAPES, "shape")
    kinds |= {"octagon": "shape", "rounded square": "shape", "sign": "sign", "label": "sign"}
    concepts = {name: Concept(name, kinds.get(name, "object"), f"{name}s") for name in known_things()}
    return type("Names", (), {"concepts": concepts})()


CAPTION = (
    'This flat picture shows two red cars and a sign that says "OPEN". A single even cream tone fills the background. '
    'The sign says "OPEN". The two red cars are to the left of the sign. The two red cars are arranged side by side, '
    "one next to the other. The sign is large in the frame and sits on the right. Nothing else appears in the picture."
)


@pytest.fixture
def wish(bench):
    asked, _ = bench
    things = (asked.Wanted("car", "car", 2, "red", "scarlet"), asked.Wanted("sign", "sign", board="sign"))
    return asked.Wish(
        things, relation=(0, "left of", 1), background=("plain", ("cream",)), style="fluent-emoji-flat", texts=("OPEN",)
    )


def test_a_caption_that_keeps_all_is_faithful(bench, icons, wish):
    verdict = bench[1].judge(wish, CAPTION, bench[1].Reader(icons))
    assert all(is_kept for _, is_kept in verdict.facts), verdict.facts
    assert sorted(kind for kind, _ in verdict.facts) == sorted(
        ["thing", "thing", "number", "number", "color", "relation", "background", "style", "quoted string"]
    )
    assert verdict.wrong == ()


@pytest.mark.parametrize(
    ("old", "new", "lost", "wrong"),
    [
        ("two red cars", "three red cars", "number", "number"),
        ("two red cars", "two blue cars", "color", "color"),
        ("two red cars", "two red buses", "thing", "extra thing"),
        ("two red cars and", "two red cars, a dog and", None, "extra thing"),
        ("two red cars and", "two red cars, a blimp and", None, "extra thing"),
        ("even cream tone", "even teal tone", "background", "background"),
        ("flat picture", "glossy 3D picture", "style", "style"),
        ('"OPEN"', '"OPENS"', "quoted string", "quoted string"),
        ("to the left of", "to the right of", "relation", "relation"),
        ("sits on the right", "sits on the left", None, None),
    ],
)
def test_what_is_changed_is_found(bench, icons, wish, old, new, lost, wrong):
    caption = CAPTION.replace(old, new).replace(old.capitalize(), new.capitalize())
    verdict = bench[1].judge(wish, caption, bench[1].Reader(icons))
    assert lost is None or (lost, False) in verdict.facts
    assert wrong in [kind for kind, _ in verdict.wrong] if wrong else not verdict.wrong


def test_a_thing_that_stands_on_the_other_side_is_found(bench, icons):
    asked, faithfulness = bench
    wish = asked.Wish((asked.Wanted("cat", "cat"), asked.Wanted("dog", "dog")), relation=(0, "left of", 1))
    caption = "This flat picture shows a cat and a dog. A single even white tone fills the background. The cat is {}."
    right, left = "large in the frame and sits on the right", "large in the frame and sits on the left"
    for a, b, wrong in ((left, right, []), (right, left, ["place"])):
        said = caption.format(a) + f" The dog is {b}. The cat is to the left of the dog."
        verdict = faithfulness.judge(wish, said, faithfulness.Reader(icons))
        assert [kind for kind, _ in verdict.wrong] == wrong


def test_the_phrasings_are_many_and_the_wishes_varied(bench, icons):
    asked, _ = bench
    found = asked.wishes(300, 5, icons)
    assert len({wish.prompt for wish in found}) == 300
    assert found == asked.wishes(300, 5, icons)
    forms = (
        *set(asked.FRAMES), *set(asked.ONE_COLORED), *set(asked.SEVERAL_COLORED), *set(asked.PAIRS), *asked.TEXTS,
        *(form for forms in asked.RELATIONS.values() for form in forms),
        *(form for forms in asked.BACKGROUNDS.values() for form in forms),
    )  # fmt: skip
    assert len(forms) >= 60
    kinds = {kind for wish in found for kind in wish.kinds}
    assert {"one", "several", "pair", "related", "triple", "text", "correction", "negation", "style"} <= kinds
    assert {wish.style for wish in found} - {None} <= set(STYLE_PHRASES)
    assert all(text in wish.prompt for wish in found for text in wish.texts)


def test_the_embedded_reasoner_keeps_what_was_said(bench, icons):
    _, faithfulness = bench
    counts, failed = faithfulness.measure(250, 21, icons)
    stated = [counts["kept"][kind] for kind in ("thing", "number", "color", "quoted string")]
    yes, num = sum(one["yes"] for one in stated), sum(one["num"] for one in stated)
    assert yes / num >= 0.995, [(kind, wish.prompt, answer.prompt) for kind, wish, answer in failed]
    assert counts["kept"]["quoted string"]["yes"] == counts["kept"]["quoted string"]["num"]
    assert sum(counts["contradictions"].values()) <= 2, counts["contradictions"]
    assert counts["rewritten"] >= 245
