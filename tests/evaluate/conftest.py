"""A small library and a scorer that needs no weights, for the tests of evaluation."""

from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("scipy")

from leanlens.evaluate import fid
from leanlens.pipeline.open import open_model
from leanlens.scenes.icons import make_library, open_library
from leanlens.scenes.sources import Drawings, read_sample

CONCEPTS = ("duck", "frog", "house", "car", "heart", "star", "t-shirt", "mushroom", "boot", "drum", "tree", "door")


class Bright:
    """Says how bright a picture is, and whether two things were asked for."""

    name = "bright"
    criteria = ("object", "two_objects")

    def __call__(self, images, prompts, truths=None) -> list[Mapping[str, float | None]]:
        return [
            {
                "object": round(float(np.asarray(image).mean() / 255), 3),
                "two_objects": 1.0 if len(truth["objects"]) == 2 else None,
            }
            for image, truth in zip(images, truths, strict=True)
        ]


@pytest.fixture
def scorer():
    return Bright()


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    concepts, drawings = read_sample()
    kept = [
        Drawings(one.style, one.origin, {name: one.found[name] for name in CONCEPTS if name in one.found})
        for one in drawings[:2]
    ]
    folder = tmp_path_factory.mktemp("evaluating") / "library"
    make_library([concept for concept in concepts if concept.name in CONCEPTS], kept, folder)
    return open_library(folder)


@pytest.fixture(autouse=True)
def _no_inception(monkeypatch):
    monkeypatch.setattr(fid, "_inception", lambda: None)


@pytest.fixture(scope="package")
def toy():
    return open_model("toy", "cpu", "float32")
