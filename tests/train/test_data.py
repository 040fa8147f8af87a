"""The data of a run: synthetic scenes in the buckets' own sizes, cut captions, text of few lengths."""

from itertools import islice

import numpy as np
import pytest
import torch

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


@pytest.fixture
def in_process(monkeypatch):
    """Chunks are drawn here: starting processes takes longer than drawing these few."""
    from leanlens.scenes.draw import draw_chunk
    from leanlens.train import scenes

    def drawn_chunks(folder, num, seed, canvas, rules, first=0, processes=None):
        for start in range(first, num, 10):
            yield draw_chunk(str(folder), start, min(10, num - start), seed, canvas, rules)

    monkeypatch.setattr(scenes, "drawn_chunks", drawn_chunks)
    return scenes


def resident_recipe(folder, **data):
    data = {"buckets": [{"base": 64, "batch": 2, "sizes": SIZES}], "caption": "mix", **data}
    return scenes_recipe(folder, {"canvas": "buckets", "num": 24}, resident=True, **data)


def test_resident_scenes_are_encoded_once(tmp_path, toy, in_process, monkeypatch):
    """In all sizes of the buckets, and found again in the run's folder or in a cache that runs share."""
    first = open_data(resident_recipe(tmp_path / "run"), toy, CPU)
    assert len(first.stream) == 24
    assert set(first.stream.counts) == {(64, 64), (64, 96), (96, 64)}
    assert [path.suffix for path in (tmp_path / "run" / "data").iterdir() if path.is_file()] == [".safetensors"]
    kept = open_data(resident_recipe(tmp_path / "other", cache=str(tmp_path / "cache")), toy, CPU)
    monkeypatch.setattr(in_process, "drawn_chunks", lambda *given: pytest.fail("drawn again"))
    again = open_data(resident_recipe(tmp_path / "run"), toy, CPU)
    found = open_data(resident_recipe(tmp_path / "third", cache=str(tmp_path / "cache")), toy, CPU)
    for one, *others in zip(*(islice(data.stream, 30) for data in (first, again, kept, found)), strict=True):
        encoded = first.encode(one)
        for data, other in zip((again, kept, found), others, strict=True):
            assert (other.bucket, other.keys) == (one.bucket, one.keys)
            assert torch.equal(data.encode(other).latents, encoded.latents)
            assert all(map(torch.equal, data.encode(other).text.layers, encoded.text.layers))


def test_resident_scenes_have_held_out_ones_and_a_cost(tmp_path, toy, in_process):
    data = open_data(resident_recipe(tmp_path), toy, CPU)
    assert len(data.validation) == 2
    assert data.encode(data.validation[0]).latents.shape[0] == len(data.validation[0].keys)
    batch = next(iter(data.stream))
    with_pictures = data.cost(batch, data.encode(batch))
    list(islice(data.stream, data.stream.micro_batches_of_epoch))
    assert 0 < data.cost(batch, data.encode(batch)) < with_pictures


def test_encoded_folders_are_learnt_as_they_are(tmp_path, toy, in_process, monkeypatch):
    wanted = resident_recipe(tmp_path / "run")
    assert in_process.encode_scenes(wanted, toy, tmp_path / "parts") == 24
    drawn = open_data(wanted, toy, CPU)
    monkeypatch.setattr(in_process, "drawn_chunks", lambda *given: iter(()))
    assert in_process.encode_scenes(wanted, toy, tmp_path / "parts") == 24  # all there
    read = open_data(resident_recipe(tmp_path / "run", encoded=[str(tmp_path / "parts")]), toy, CPU)
    for one, other in zip(islice(drawn.stream, 12), islice(read.stream, 12), strict=True):
        assert torch.equal(drawn.encode(one).latents, read.encode(other).latents)
    with pytest.raises(ValueError, match="holds scenes of another recipe"):
        in_process.encode_scenes(resident_recipe(tmp_path / "run", caption_words=3), toy, tmp_path / "parts")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"encoded": ["a"]}, r"data\.encoded needs data\.resident = true"),
        ({"resident": True}, r"data\.resident needs data\.scenes with canvas"),
    ],
)
def test_what_cannot_be_resident_is_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        scenes_recipe(tmp_path, **data)
