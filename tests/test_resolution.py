import pytest

from leanlens.resolution import BUCKETS, TRAINING_BUCKETS, resolve_size, sizes_at

# Tokens of the wide half and the square, as the released code lists them; the tall half mirrors it.
TOKENS = {
    1024: {"1:2": 4232, "9:16": 4128, "2:3": 4056, "3:4": 3888, "1:1": 4096},
    1440: {"1:2": 8450, "9:16": 8228, "2:3": 8030, "3:4": 7676, "1:1": 8100},
}


def test_the_two_released_tables():
    for base, tokens in TOKENS.items():
        sizes = sizes_at(base)
        assert len(sizes) == 9
        assert {ratio: sizes[ratio][0] * sizes[ratio][1] // 256 for ratio in tokens} == tokens
    assert sizes_at(1440)["1:2"] == (2080, 1040)


@pytest.mark.parametrize("base", [16, 64, 256, 512, 768, 1024, 1280, 1440, 2048])
def test_any_base_gives_whole_tokens_that_mirror_each_other(base):
    sizes = sizes_at(base)
    assert sizes["1:1"] == (base, base)
    for ratio, (height, width) in sizes.items():
        assert all(side % 16 == 0 and side >= 16 for side in (height, width))
        assert sizes[":".join(reversed(ratio.split(":")))] == (width, height)


def test_training_buckets():
    assert [len(sizes) for sizes in TRAINING_BUCKETS.values()] == [9, 9, 9]
    for base, sizes in TRAINING_BUCKETS.items():
        assert sizes == tuple((width, height) for height, width in reversed(sizes))
        assert (base, base) in sizes
        for height, width in sizes:
            assert height % 16 == width % 16 == 0
            assert 0.9 < height * width / base**2 < 1.07
    assert set(TRAINING_BUCKETS[1024]) == set(BUCKETS[1024].values())


def test_resolve_size():
    assert resolve_size() == (1024, 1024)
    assert resolve_size(1248, 1664) == (1248, 1664)
    assert resolve_size(base_resolution=1440) == (1440, 1440)
    assert resolve_size(aspect_ratio="16:9") == (768, 1376)
    assert resolve_size(base_resolution=1440, aspect_ratio="2:3") == (1760, 1168)
    assert resolve_size(aspect_ratio="32:18") == (768, 1376)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 1000, "width": 1024}, "height 1000: expected a positive multiple of 16.*992 and 1008"),
        ({"height": 1024, "width": 7}, "width 7: .*nearest: 16"),
        ({"height": -16, "width": 64}, "height -16: .*nearest: 16"),
        ({"height": 64.0, "width": 64}, "height 64.0: expected a positive multiple of 16"),
        ({"height": 1024}, "height 1024 was given without width"),
        ({"width": 1024}, "width 1024 was given without height"),
        ({"aspect_ratio": "5:7"}, "invalid aspect_ratio '5:7': .*1:2, 9:16"),
        ({"aspect_ratio": "16x9"}, "invalid aspect_ratio '16x9'"),
        ({"aspect_ratio": "0:0"}, "invalid aspect_ratio '0:0'"),
        ({"base_resolution": 1000}, "base_resolution 1000: .*992 and 1008"),
        ({"base_resolution": 0}, "base_resolution 0: "),
        ({"height": 64, "width": 64, "aspect_ratio": "1:1"}, "aspect_ratio '1:1' cannot be combined"),
        ({"height": 64, "width": 64, "base_resolution": 512}, "base_resolution 512 cannot be combined"),
    ],
)
def test_wrong_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve_size(**arguments)
