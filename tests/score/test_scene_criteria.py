"""For each criterion and both checkers: an image made for it scores 1, the same image with that fact changed 0."""

import pytest
from PIL import Image, ImageDraw

from leanlens.scenes.icons import COLORS
from leanlens.scenes.layout import Background, load_font
from leanlens.scenes.render import draw_background
from leanlens.scenes.scene import PLAIN_COLORS
from leanlens.score.scene import CRITERIA, SceneScorer

BLUE = {"kind": "plain", "colors": ["light blue"]}
STRIPES = {"kind": "stripes", "colors": ["light blue", "navy blue"]}
LEFT, RIGHT, MIDDLE = (20, 80), (150, 80), (85, 80)
ROW = [(12, 20), (98, 20), (184, 20)]


def draw(shelf, things, background=BLUE, style="noto"):
    """(concept, colour, place) of things of 80 pixels on a background of 256 x 256."""
    rgb = tuple(PLAIN_COLORS[name] for name in background["colors"])
    image = draw_background(Background(background["kind"], tuple(background["colors"]), rgb, 0.09), 256, 256)
    for concept, color, place in things:
        sprite = shelf.sprite(concept, style, color, shelf.fit(concept, style, 72, 72))
        image.paste(sprite, place, sprite)
    return image


def stated(*objects, **more):
    """A truth of (concept, colour, count)."""
    rows = [{"id": name, "concept": name, "color": color or "natural", "count": num} for name, color, num in objects]
    return {"objects": rows, **more}


DUCK, CAR = ("duck", None, LEFT), ("car", None, RIGHT)
CASES = {
    "background": (stated(background=BLUE), [[DUCK]], [[DUCK], STRIPES]),
    "object": (stated(("duck", None, 1)), [[DUCK]], [[CAR]]),
    "two_objects": (
        stated(("duck", None, 1), ("car", None, 1)), [[DUCK, CAR]], [[("frog", None, LEFT), ("house", None, RIGHT)]],
    ),
    "more_objects": (
        stated(("duck", None, 1), ("car", None, 1), ("house", None, 1)),
        [[("duck", None, ROW[0]), ("car", None, ROW[1]), ("house", None, ROW[2])]],
        [[("frog", None, ROW[0]), ("boot", None, ROW[1]), ("drum", None, ROW[2])]],
    ),
    "count": (
        stated(("duck", None, 3)),
        [[("duck", None, place) for place in ROW]],
        [[("duck", None, place) for place in ROW[:2]]],
    ),
    "color": (stated(("heart", "purple", 1)), [[("heart", "purple", MIDDLE)]], [[("heart", "green", MIDDLE)]]),
    "color_binding": (
        stated(("heart", "purple", 1), ("star", "green", 1)),
        [[("heart", "purple", LEFT), ("star", "green", RIGHT)]],
        [[("heart", "green", LEFT), ("star", "purple", RIGHT)]],
    ),
    "position": (
        stated(("duck", None, 1), ("car", None, 1), relations=[["duck", "left of", "car"]]),
        [[DUCK, CAR]],
        [[("duck", None, RIGHT), ("car", None, LEFT)]],
    ),
    "style": (
        stated(("duck", None, 1), ("house", None, 1), style="noto"),
        [[DUCK, ("house", None, RIGHT)]],
        [[DUCK, ("house", None, RIGHT)], BLUE, "fluent-emoji-flat"],
    ),
}  # fmt: skip


@pytest.fixture(params=["scene", "crosscheck"])
def checker(request):
    return request.getfixturevalue("scorer" if request.param == "scene" else "second")


@pytest.mark.parametrize("criterion", CASES)
def test_a_constructed_image_scores_one_and_its_counterfactual_zero(checker, shelf, criterion):
    truth, right, wrong = CASES[criterion]
    good, bad = checker([draw(shelf, *right), draw(shelf, *wrong)], ["", ""], [truth, truth])
    assert (good[criterion], bad[criterion]) == (1, 0)


def test_every_criterion_has_its_case():
    assert {*CASES, "text"} == set(CRITERIA)
    assert set(COLORS) >= {"purple", "green"}


def test_a_written_word_scores_one_and_a_blank_board_zero(shelf, gallery):
    pytest.importorskip("rapidocr")
    scorer = SceneScorer(shelf, gallery)
    images = [Image.new("RGB", (256, 96), (250, 250, 250)) for _ in range(2)]
    ImageDraw.Draw(images[0]).text((30, 20), "OPEN", (20, 20, 20), load_font("inter", 56))
    scores = scorer(images, ["", ""], [{"texts": [["OPEN"]]}] * 2)
    assert [score["text"] for score in scores] == [1, 0]


def test_a_checker_is_known_by_the_checksums_of_its_weights(checker):
    identity = checker.identity()
    assert set(identity) == {"leanlens", "network", "fit"}
    assert {len(identity[name]) for name in ("network", "fit")} == {64}
    assert checker.identity() == identity
