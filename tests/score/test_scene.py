from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene
from leanlens.score.protocol import Scorer
from leanlens.score.regions import estimate_backdrop
from leanlens.score.scene import CRITERIA, SceneScorer, is_background


def scenes(shelf, num, things):
    found, seed = [], 0
    while len(found) < num:
        scene = sample_scene(seed, shelf, None, (192, 192))
        seed += 1
        relations = {word for _, word, _ in scene.relations}
        if len(scene.things) == things and not relations & {"in front of"} and not scene.texts:
            found.append(scene)
    return found


@pytest.fixture(scope="module")
def judged(shelf, scorer):
    """Five scenes of one thing and five of two: their truths, and the scores of true and of exchanged truths."""
    kept = scenes(shelf, 5, 1) + scenes(shelf, 5, 2)
    pictures, truths = [render(scene, shelf) for scene in kept], [scene.truth() for scene in kept]
    prompts = [""] * len(kept)
    wrong = truths[1:5] + truths[:1] + truths[6:] + truths[5:6]
    return truths, scorer(pictures, prompts, truths), scorer(pictures, prompts, wrong), wrong


def rate(scores, criterion):
    values = [score[criterion] for score in scores if score[criterion] is not None]
    return sum(value >= 1 for value in values) / len(values), len(values)


def test_it_follows_the_protocol(scorer):
    checked: Scorer = scorer
    assert checked.name == "scene"
    assert checked.criteria == CRITERIA
    assert checked([], [], []) == []


@pytest.mark.parametrize("criterion", ["background", "object", "two_objects", "color", "style"])
def test_true_pictures_pass(judged, criterion):
    share, count = rate(judged[1], criterion)
    assert share >= 0.8, count
    assert count >= 4


def test_pictures_of_something_else_fail(judged):
    truths, _, scores, wrong = judged
    told_apart = [
        (score, truth, other)
        for score, truth, other in zip(scores, truths, wrong, strict=True)
        if not {o["concept"] for o in truth["objects"]} & {o["concept"] for o in other["objects"]}
    ]
    for criterion in ("object", "two_objects"):
        values = [score[criterion] for score, *_ in told_apart if score[criterion] is not None]
        assert len(values) >= 3
        assert sum(value >= 1 for value in values) <= 1
    backgrounds = [
        score["background"] for score, truth, other in zip(scores, truths, wrong, strict=True)
        if truth["background"] != other["background"]
    ]  # fmt: skip
    assert sum(backgrounds) <= 1


def test_one_scene_and_what_is_wrong_with_it(shelf, scorer):
    """Each fact changed by itself turns its own criterion, and no other."""
    scene = next(
        scene for scene in scenes(shelf, 40, 2)
        if scene.relations[0][1] in ("left of", "above") and all(thing.color for thing in scene.things)
        and len({thing.color for thing in scene.things}) == 2 and len({thing.concept for thing in scene.things}) == 2
    )  # fmt: skip
    picture, truth = render(scene, shelf), scene.truth()

    def ask(changed):
        (score,) = scorer([picture], [""], [changed])
        return score

    good = ask(truth)
    assert all(value in (1.0, None) for value in good.values()), good
    (a, word, b) = truth["relations"][0]
    turned = ask({**truth, "relations": [[b, word, a]]})
    assert turned == {**good, "position": 0.0}
    first, second = truth["objects"]
    swapped = [{**first, "color": second["color"]}, {**second, "color": first["color"]}]
    exchanged = ask({**truth, "objects": swapped})
    assert exchanged == {**good, "color": 0.0, "color_binding": 0.0}
    more = ask({**truth, "objects": [{**first, "count": first["count"] + 2}, second]})
    assert more["count"] is not None
    assert more["count"] < 1
    assert more["two_objects"] == 1
    assert ask({**truth, "background": {"kind": "plain", "colors": ["maroon"]}})["background"] == 0.0


def test_what_is_not_stated_is_not_judged(shelf, scorer):
    picture = render(scenes(shelf, 1, 1)[0], shelf)
    (score,) = scorer([picture], ["x"], [{}])
    assert score == dict.fromkeys(CRITERIA)
    unknown = {"objects": [{"concept": "zeppelin", "color": "red", "count": 3}], "style": "twemoji"}
    (score,) = scorer([picture], ["x"], [unknown])
    assert score == dict.fromkeys(CRITERIA)


def test_pictures_of_nothing_and_of_noise(scorer):
    truth = {"objects": [{"concept": "duck", "color": "red", "count": 2}], "style": "noto", "texts": [["HELLO"]]}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    for picture in (Image.new("RGB", (96, 64)), noise):
        (score,) = scorer([picture], [""], [truth])
        assert (score["object"], score["count"], score["style"]) == (0, 0, 0)
        assert score["text"] is None  # no recogniser


def test_texts_are_compared_without_case_and_spaces(shelf, gallery):
    scorer = SceneScorer(shelf, gallery, read=lambda image: ["op", "EN"])
    truths = [{"texts": [["Open"]]}, {"texts": [["OPEN"], ["SHUT"]]}]
    scores = scorer([Image.new("RGB", (64, 64))] * 2, ["", ""], truths)
    assert scores[0]["text"] == 1
    assert 0 < scores[1]["text"] < 1


def test_wrong_input_is_one_sentence(scorer):
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(ValueError, match="truths is missing"):
        scorer([picture], [""])
    with pytest.raises(ValueError, match="prompts has 2 entries for 1 images"):
        scorer([picture], ["", ""], [{}])
    with pytest.raises(ValueError, match="invalid style 'oil': expected one of noto"):
        scorer([picture], [""], [{"style": "oil", "objects": [{"concept": "duck"}]}])


def test_a_background_is_its_kind_and_its_colors(shelf):
    scene = next(one for one in scenes(shelf, 60, 1) if one.background.kind == "ground")
    found = estimate_backdrop(np.asarray(render(scene, shelf)))
    stated = scene.truth()["background"]
    assert is_background(found, stated)
    assert not is_background(found, {"kind": "ground", "colors": ["brown", "navy blue"]})
    assert not is_background(found, {**stated, "kind": "gradient", "colors": ["white", "teal"]})
    moved = replace(scene, background=replace(scene.background, share=0.5))
    assert is_background(estimate_backdrop(np.asarray(render(moved, shelf))), stated)


def test_pictures_of_several_sizes_are_judged_together_as_one_by_one(shelf, scorer, monkeypatch):
    kept = [*scenes(shelf, 2, 1), *scenes(shelf, 3, 2)]
    pictures, truths = [render(scene, shelf) for scene in kept], [scene.truth() for scene in kept]
    pictures[1] = pictures[1].resize((160, 224))
    truths[2] = {"background": truths[2]["background"]}
    pictures.append(Image.new("L", (80, 96)))
    truths.append({})
    together = scorer(pictures, [""] * 6, truths)
    assert together == [scorer.judge(picture, truth) for picture, truth in zip(pictures, truths, strict=True)]
    monkeypatch.setattr("leanlens.score.scene.TOGETHER", 2)
    assert scorer(pictures, [""] * 6, truths) == together
