"""Scorers by name: built in, of an installed package, or of a module."""

import pytest
from PIL import Image

from leanlens.plugins import SCORERS
from leanlens.score.named import open_scorer
from tests.plugin_package import install

SOURCE = """
class Red:
    name = "red"
    criteria = ("red",)

    def __call__(self, images, prompts, truths=None):
        return [{"red": image.getpixel((0, 0))[0] / 255} for image in images]

class Fails:
    def __init__(self):
        import nowhere_at_all

nothing = dict
"""


@pytest.fixture(autouse=True)
def _package(tmp_path, monkeypatch):
    names = {"red": "added:Red", "empty": "added:nothing", "fails": "added:Fails", "missing": "added:Missing"}
    install(monkeypatch, tmp_path, SOURCE, {SCORERS: names})


@pytest.mark.parametrize("name", ["red", "added:Red"])
def test_a_scorer_of_another_package(name):
    scorer = open_scorer(name, {})
    assert scorer([Image.new("RGB", (1, 1), "red")], ["a"]) == [{"red": 1.0}]


def test_built_in_names_come_first():
    assert open_scorer("red", {"red": lambda: "built in"}) == "built in"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blue", "invalid scorer 'blue': expected scene, empty, fails, missing, red, or MODULE:NAME"),
        ("empty", "scorer 'empty' is not a scorer: it needs name, criteria and __call__"),
        ("fails", "scorer 'fails' cannot be used: No module named 'nowhere_at_all'"),
        ("missing", "added declares 'missing'"),
        ("nowhere_at_all:X", "cannot be used: No module named 'nowhere_at_all'"),
        ("added:Missing", "cannot be used: module 'added' has no attribute 'Missing'"),
    ],
)
def test_what_is_no_scorer_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        open_scorer(name, {"scene": None})
