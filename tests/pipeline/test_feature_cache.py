"""The one cache of text features, and the one form in which they are written."""

import math

import pytest
import torch
from safetensors.torch import load_file

from leanlens.pipeline.feature_cache import FeatureCache, prompt_key
from leanlens.pipeline.features import TextFeatures
from leanlens.store import Store, content_key

KEY = content_key(a=1)


def some_features(seed=0, lengths=(3, 5), layers=12):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return TextFeatures([torch.randn(*mask.shape, 4, generator=generator) for _ in range(layers)], mask)


def same(one, other):
    assert len(one.layers) == len(other.layers)
    assert all(map(torch.equal, [*one.layers, one.mask], [*other.layers, other.mask]))
    return True


@pytest.mark.parametrize("features", [some_features(), some_features(lengths=(5,)), some_features().without_text()])
@pytest.mark.parametrize("prefix", ["", "positive."])
def test_features_are_written_in_one_form(features, prefix):
    tensors = features.to_tensors(prefix)
    assert (f"{prefix}mask" in tensors) == (not features.mask.all())
    assert f"{prefix}layer11" in tensors
    assert same(TextFeatures.from_tensors(tensors, prefix), features)


@pytest.mark.parametrize("names", ["prompts", "captions"])
def test_both_forms_of_older_versions_are_read(tmp_path, names):
    """Written here by hand as they were: a pair with its masks under numbers, a caption as its layers alone."""
    store = Store(tmp_path)
    if names == "prompts":
        entry = some_features(), some_features(1).without_text()
        store.save(KEY, {
            f"{name}.{part}": tensor
            for name, one in zip(("positive", "negative"), entry, strict=True)
            for part, tensor in [*enumerate(one.layers), ("mask", one.mask)]
        })  # fmt: skip
    else:
        entry = (some_features(lengths=(7,)),)
        store.save(KEY, {f"layer{number:02d}": layer for number, layer in enumerate(entry[0].layers)})
    found = FeatureCache(store).load(KEY)
    assert len(found) == len(entry)
    assert all(map(same, found, entry))


def test_a_caption_without_padding_is_written_as_before(tmp_path):
    FeatureCache(Store(tmp_path)).save(KEY, (some_features(lengths=(7,)),))
    assert sorted(load_file(Store(tmp_path).path(KEY))) == [f"layer{number:02d}" for number in range(12)]


def test_an_entry_is_found_in_memory_and_then_on_disk(tmp_path):
    entry = some_features(), some_features(1)
    cache = FeatureCache(Store(tmp_path))
    assert KEY not in cache
    assert cache.load(KEY) is None
    assert all(map(same, cache.find(KEY, lambda: entry), entry))
    assert cache.find(KEY, pytest.fail) is cache.load(KEY)
    cache.clear()
    assert cache.size == 0
    assert KEY in cache
    assert all(map(same, cache.find(KEY, pytest.fail), entry))
    assert all(map(same, FeatureCache(Store(tmp_path)).find(KEY, pytest.fail), entry))


def test_memory_holds_so_many_bytes_and_the_latest_in_any_case():
    one = some_features()
    cache = FeatureCache(memory=2 * one.size)
    for key in "abc":
        cache.save(key, (one,))
        cache.load("a")
    assert [key in cache for key in "abc"] == [True, False, True]  # "b" was unused for the longest time
    cache.memory = 0
    cache.save("d", (one,))
    assert [key in cache for key in "abcd"] == [False, False, False, True]
    cache.memory = math.inf
    for key in range(100):
        cache.save(str(key), (one,))
    assert cache.size == 101 * one.size
    cache.save("5", (one, one))  # in the place of the one before
    assert cache.size == 102 * one.size
    nothing = FeatureCache(memory=None)
    nothing.save("a", (one,))
    assert "a" not in nothing
    assert nothing.load("a") is None


def test_keys_are_those_of_caches_that_exist():
    depends_on = {"encoder": "x", "dtype": "torch.float32", "device": "cpu", "torch": "2.13.0"}
    assert prompt_key(("a", "b", "2026-05-23", 300), depends_on) == content_key(
        kind="prompt features", prompt="a", negative="b", date="2026-05-23", tokens=300, **depends_on
    )
    assert prompt_key(("a", "", "today", 300), {}) != prompt_key(("a", "", "2026-05-23", 300), {})
