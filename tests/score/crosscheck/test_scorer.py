import subprocess
import sys

import pytest
from PIL import Image

from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene
from leanlens.score.crosscheck.scorer import CRITERIA
from leanlens.score.protocol import Scorer
from leanlens.score.scene import CRITERIA as FIRST


def test_it_follows_the_protocol_and_judges_all_but_texts(second):
    checked: Scorer = second
    assert checked.name == "crosscheck"
    assert (*checked.criteria, "text") == FIRST
    assert checked([], [], []) == []


def test_it_shares_no_features_regions_or_training_images_with_the_first():
    barred = [f"leanlens.score.{name}" for name in ("features", "regions", "segmentation", "detection", "augmentation")]
    code = f"import sys, leanlens.score.crosscheck.scorer; print([m for m in {barred} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_most_true_pictures_pass_and_exchanged_ones_fail(shelf, second):
    scenes = [sample_scene(seed, shelf, None, (192, 192)) for seed in range(24)]
    pictures, truths = [render(scene, shelf) for scene in scenes], [scene.truth() for scene in scenes]
    own = second(pictures, [""] * 24, truths)
    other = second(pictures, [""] * 24, truths[1:] + truths[:1])

    def mean(scores):
        values = [value for score in scores for value in score.values() if value is not None]
        return sum(values) / len(values)

    assert mean(own) > 0.8
    assert mean(other) < 0.35


def test_pictures_judged_together_are_judged_as_one_by_one(shelf, second, monkeypatch):
    scenes = [sample_scene(seed, shelf, None, (160, 192)) for seed in range(3)]
    pictures, truths = [render(scene, shelf) for scene in scenes], [scene.truth() for scene in scenes]
    pictures.append(Image.new("L", (80, 96)))
    truths.append({})
    together = second(pictures, [""] * 4, truths)
    assert together[3] == dict.fromkeys(CRITERIA)
    monkeypatch.setattr("leanlens.score.crosscheck.scorer.TOGETHER", 1)
    assert second(pictures, [""] * 4, truths) == together


def test_what_is_unknown_is_not_judged(second):
    unknown = {"objects": [{"concept": "zeppelin", "color": "red", "count": 3}], "style": "twemoji"}
    (score,) = second([Image.new("RGB", (64, 64))], [""], [unknown])
    assert score == dict.fromkeys(CRITERIA)


def test_wrong_input_is_one_sentence(second):
    picture = Image.new("RGB", (64, 64))
    for truth, said in (
        ({"style": "oil", "objects": [{"concept": "duck"}]}, "invalid style 'oil': expected one of noto"),
        ({"objects": [{"concept": "duck", "color": "mauve"}]}, "invalid color 'mauve': expected one of red"),
        ({"background": {"kind": "plain", "colors": ["mauve"]}}, "invalid background color 'mauve': expected one of"),
        ({"background": {"kind": "dots", "colors": ["white"]}}, "expected 2 colors for kind dots"),
    ):
        with pytest.raises(ValueError, match=said):
            second([picture], [""], [truth])
    with pytest.raises(ValueError, match="truths is missing"):
        second([picture], [""])
