import itertools

import numpy as np
import pytest

from leanlens.batches.assign import (
    assign,
    batch_sizes,
    buckets_of,
    candidates,
    check_table,
    crop_box,
    crop_loss,
    scale_to,
    scaled_table,
)
from leanlens.batches.weigh import sample_weights
from leanlens.resolution import TRAINING_BUCKETS

RANDOM_SIZES = [tuple(map(int, size)) for size in np.random.default_rng(0).integers(300, 3000, (300, 2))]


def test_a_bucket_gets_pictures_of_its_own_size_whole():
    for base, buckets in TRAINING_BUCKETS.items():
        for bucket in buckets:
            assert candidates(*bucket, TRAINING_BUCKETS, 1.0)[base] == bucket
            assert crop_loss(*bucket, bucket) == 0
            assert crop_box(*bucket, bucket) == (0, 0, bucket[1], bucket[0])
        assert assign(base, base, TRAINING_BUCKETS, 1.0) == (base, base)


@pytest.mark.parametrize("max_upscale", [1.0, 1.25, 2.0])
def test_no_picture_is_enlarged_beyond_the_factor_and_least_is_cut(max_upscale):
    for size in RANDOM_SIZES:
        for base, bucket in candidates(*size, TRAINING_BUCKETS, max_upscale).items():
            assert scale_to(*size, bucket) <= max_upscale
            others = [other for other in TRAINING_BUCKETS[base] if scale_to(*size, other) <= max_upscale]
            assert crop_loss(*size, bucket) == min(crop_loss(*size, other) for other in others)


def test_the_highest_base_that_is_reached_is_taken():
    assert assign(2000, 2000, TRAINING_BUCKETS) == (1024, 1024)
    assert assign(900, 900, TRAINING_BUCKETS, 1.25) == (1024, 1024)
    assert assign(900, 900, TRAINING_BUCKETS, 1.0) == (768, 768)
    assert assign(500, 500, TRAINING_BUCKETS, 1.25) == (512, 512)
    assert assign(500, 1000, TRAINING_BUCKETS, 1.0) == (352, 704)


def test_a_picture_too_small_is_told_why():
    reason = assign(300, 400, TRAINING_BUCKETS)
    assert reason == (
        "its 300 x 400 pixels (height x width) would be upscaled 1.52 times for the nearest bucket; max_upscale is 1.25"
    )


def test_turning_a_picture_turns_its_bucket():
    for height, width in RANDOM_SIZES:
        bucket, turned = (assign(*size, TRAINING_BUCKETS, 1.25) for size in ((height, width), (width, height)))
        if not isinstance(bucket, str):
            assert turned == bucket[::-1]


def test_the_crop_box_is_inside_centred_and_of_the_buckets_shape():
    for (height, width), bucket in itertools.product(RANDOM_SIZES[:60], buckets_of(TRAINING_BUCKETS)[::4]):
        left, top, right, bottom = crop_box(height, width, bucket)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (bottom - top) / (right - left) == pytest.approx(bucket[0] / bucket[1])
        assert (left, top) == pytest.approx((width - right, height - bottom), abs=1e-6)
        assert 1 - (right - left) * (bottom - top) / (height * width) == pytest.approx(
            crop_loss(height, width, bucket), abs=1e-9
        )


def test_batch_sizes_are_those_of_the_paper():
    sizes = batch_sizes(TRAINING_BUCKETS, 24)
    assert {base: {sizes[bucket] for bucket in buckets} for base, buckets in TRAINING_BUCKETS.items()} == {
        512: {24},
        768: {10},
        1024: {6},
    }


def test_equal_operations_leave_the_highest_base_one_picture_less():
    sizes = batch_sizes(TRAINING_BUCKETS, 24, rule="flops")
    assert [sizes[base, base] for base in (512, 768, 1024)] == [24, 10, 5]
    block = {base: 56.623e6 * (t := (base // 16) ** 2 + 165) + 6144 * t**2 for base in (512, 768, 1024)}
    total = [block[base] * sizes[base, base] for base in block]
    assert max(total) / min(total) < 1.04


def test_batches_never_vanish():
    assert set(batch_sizes(TRAINING_BUCKETS, 1).values()) == {1}
    assert set(batch_sizes(TRAINING_BUCKETS, 1, rule="flops").values()) == {1}


@pytest.mark.parametrize("factor", [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
def test_scaled_tables_are_tables(factor):
    table = scaled_table(factor)
    check_table(table)
    assert list(table) == [max(16, round(base * factor / 16) * 16) for base in TRAINING_BUCKETS]
    assert all((base, base) in buckets for base, buckets in table.items())
    assert all(bucket[::-1] in buckets for buckets in table.values() for bucket in buckets)
    if factor == 1:
        assert table == TRAINING_BUCKETS


def test_tables_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="become equal"):
        scaled_table(1 / 64)
    with pytest.raises(ValueError, match="no buckets"):
        check_table({512: ()})
    with pytest.raises(ValueError, match=r"\(500, 512\)"):
        check_table({512: ((500, 512),)})
    with pytest.raises(ValueError, match="duplicate bucket"):
        check_table({32: ((32, 32),), 64: ((32, 32),)})
    with pytest.raises(ValueError, match="base 0"):
        batch_sizes(TRAINING_BUCKETS, 0)
    with pytest.raises(ValueError, match="'area'"):
        batch_sizes(TRAINING_BUCKETS, 24, rule="area")


def test_weights_of_samples():
    counts = [24, 10, 6]
    by_sample, by_rank = sample_weights(counts), sample_weights(counts, "rank")
    assert by_sample == [1 / 40] * 3
    assert by_rank == pytest.approx([1 / 72, 1 / 30, 1 / 18])
    for weights in (by_sample, by_rank):
        assert sum(weight * count for weight, count in zip(weights, counts, strict=True)) == pytest.approx(1)
    with pytest.raises(ValueError, match="'token'"):
        sample_weights(counts, "token")
    with pytest.raises(ValueError, match="counts"):
        sample_weights([4, 0])
