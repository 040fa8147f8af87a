from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from leanlens.evaluate.draw import draw_items
from leanlens.evaluate.results import results_of, write_results
from leanlens.evaluate.run import evaluate
from leanlens.evaluate.set_results import KeptImages, set_scorers_of
from leanlens.evaluate.set_scores import Network
from leanlens.evaluate.summary import render_results
from tests.evaluate.stub import Painter, stub_suite


@pytest.fixture
def network():
    calls = []

    def features(images):
        calls.append(len(images))
        return np.array([[np.asarray(image).mean() + at, 1.0] for at, image in enumerate(images)], np.float32)

    return Network("brightness", "abc", features), calls


def test_images_are_opened_one_by_one(tmp_path):
    suite = stub_suite(3)
    images = KeptImages([row[0] for row in draw_items(Painter(), suite.items, 1, 0, tmp_path)])
    assert len(images) == 3
    assert [image.size for image in images[1:]] == [(8, 8), (8, 8)]
    assert images[-1].tobytes() == images.images[2].open().tobytes()


def test_sets_are_scored_with_their_network_named(tmp_path, network):
    one, calls = network
    others = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 90, 180)]
    suite = replace(stub_suite(), set_scorers=set_scorers_of(one), reference=lambda: others)
    done = evaluate(suite, [lambda: Painter("a"), lambda: Painter("b", fails={"prompt 1"})], tmp_path)
    results = write_results(done, tmp_path)
    scores = results["set_scores"]
    assert list(scores["a"])[:3] == ["FID (brightness)", "KID (brightness)", "diversity (brightness)"]
    assert scores["a"]["FID (brightness)"] > 0
    assert results["set_scorers"]["KID (brightness)"]["identity"]["network"] == "brightness"
    assert results["set_scorers"]["diversity (brightness)"]["higher_is_better"] is None
    assert calls.count(4) == 1  # the first images of a, for both distances
    assert calls.count(3) == 2  # the reference, and those of b without the prompt that failed
    assert "## Sets of images" in render_results(results, {})


def test_without_set_scorers_nothing_is_written(tmp_path):
    assert "set_scores" not in results_of(evaluate(stub_suite(), [Painter], tmp_path))
