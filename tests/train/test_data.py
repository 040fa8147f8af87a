"""The data of a run: synthetic scenes in the buckets' own sizes, cut captions, text of few lengths."""

from itertools import islice

import numpy as np
import pytest

from leanlens.pictures.decode import decode
from leanlens.pipeline.toy import toy_pipeline
from leanlens.scenes import icons
from leanlens.train.data import open_data
from tests.train.tiny import CPU, tiny_recipe

SIZES = [[64, 64], [64, 96], [96, 64]]  # (height, width)


@pytest.fixture(scope="module", autouse=True)
def _scenes_cache(tmp_path_factory, worker_id):
    root = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str((root if worker_id == "master" else root.parent) / "scenes-cache"))
        yield


@pytest.fixture(scope="module")
def toy():
    return toy_pipeline(0)


def scenes_recipe(folder, scenes=None, **data):
    buckets = [{"base": 32, "batch": 2, "sizes": [[32, 32]]}, {"base": 64, "batch": 2, "sizes": SIZES}]
    scenes = {"num": 14, "validation": 4, "size": 64, "sources": "sample", **(scenes or {})}
    values = {"scenes": scenes, "buckets": buckets, "caption_dropout": 0.0, **data}
    return tiny_recipe(folder, data=values, validate={"every": 1, "batches": 2})


def sizes_in(source):
    return [decode(source.read(number).image).size for number in range(len(source.index()))]


def test_scenes_are_drawn_in_the_sizes_of_the_largest_buckets(tmp_path, toy):
    found = open_data(scenes_recipe(tmp_path, {"canvas": "buckets"}), toy, CPU)
    sizes = sizes_in(found.stream.sources[0])
    assert len(sizes) == 14
    assert set(sizes) == {(width, height) for height, width in SIZES}
    for batch in islice(found.stream, 8):
        for key, pixels in zip(batch.keys, batch.pixels, strict=True):
            picture = decode(found.stream.sources[0].read(int(key)).image)
            assert np.array_equal(pixels.permute(1, 2, 0), picture)  # nothing cut, nothing resized


def test_free_scenes_have_other_sizes_too(tmp_path, toy):
    sizes = set(sizes_in(open_data(scenes_recipe(tmp_path), toy, CPU).stream.sources[0]))
    assert not sizes <= {(width, height) for height, width in SIZES}


def test_captions_and_text_are_as_the_recipe_says(tmp_path, toy):
    wanted = scenes_recipe(tmp_path, {"canvas": "buckets"}, caption_words=12, text_multiple=32, full_batches=True)
    found = open_data(wanted, toy, CPU)
    whole = {caption for i in range(14) for caption in found.stream.sources[0].captions(i).values()}
    for batch in islice(found.stream, 4):
        assert len(batch.keys) == 2
        assert not set(batch.captions) & whole
        assert all(any(text.startswith(caption) for text in whole) for caption in batch.captions)
        assert found.encode(batch).text.mask.shape[1] % 32 == 0


def test_the_library_is_the_recipes(tmp_path, toy):
    few = ["balloon", "bird", "boot", "car", "castle", "cloud", "drum", "duck", "frog", "hammer", "panda", "tree"]
    icons.narrow(icons.library("sample"), few, ["noto"], tmp_path / "few")
    found = open_data(scenes_recipe(tmp_path / "run", {"sources": str(tmp_path / "few")}), toy, CPU)
    truths = [found.stream.sources[0].read(number).extra["truth"] for number in range(14)]
    assert {truth["style"] for truth in truths} == {"noto"}
    with pytest.raises(ValueError, match="sources 'everyday' are not in"):
        open_data(scenes_recipe(tmp_path / "other", {"sources": "everyday"}), toy, CPU)
