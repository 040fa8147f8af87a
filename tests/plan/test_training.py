"""A run on some devices, in plain numbers."""

from dataclasses import replace

import pytest

from leanlens.plan.compute import MAX_TEXT_TOKENS, MEAN_TEXT_TOKENS, DenoiserSizes, training_flops
from leanlens.plan.devices import find_device
from leanlens.plan.memory import ModelSizes
from leanlens.plan.training import (
    MicroBatch,
    TrainingRun,
    activation_bytes,
    checkpoint_bytes,
    denoiser_parameters,
    flops_per_step,
    images_per_step,
    largest_batch,
    plan_training,
    state_bytes,
)

ONE_BLOCK = DenoiserSizes(layers=1, width=12, latent_channels=8, text_channels=16)
H200 = find_device("H200")
RUN = TrainingRun(ModelSizes(), (MicroBatch(512, 24, 0.5e9),), 100, 8, "bfloat16", 20e9, 16e9, cached=True)


def test_memory_is_a_sum_and_names_the_largest_batch():
    plan = plan_training(RUN, H200)
    assert plan.peak == pytest.approx(0.5e9 + 20e9 + 16e9 + 12e9)
    assert plan.fits
    most = plan.largest[512]
    assert plan_training(replace(RUN, batches=(MicroBatch(512, most, 0.5e9),)), H200).fits
    assert not plan_training(replace(RUN, batches=(MicroBatch(512, most + 1, 0.5e9),)), H200).fits


def test_hours_energy_and_money():
    one, eight = (plan_training(RUN, H200, count, 3.0) for count in (1, 8))
    assert one.hours == pytest.approx(100 * one.step_seconds / 3600)
    assert one.money == pytest.approx(3 * one.hours)
    assert one.kilowatt_hours == pytest.approx(0.7 * one.hours)
    assert one.hours / 8 < eight.hours < one.hours
    assert one.flops == eight.flops
    assert 0.1 < one.utilisation < 0.66
    assert plan_training(RUN, H200).money is None


def test_what_costs_more_takes_longer():
    plain = plan_training(RUN, H200).step_seconds
    assert plan_training(replace(RUN, recompute=True), H200).step_seconds > 1.2 * plain
    assert plan_training(replace(RUN, cached=False), H200).step_seconds > plain
    assert plan_training(replace(RUN, compiled=True), H200).step_seconds < plain


def test_weights_are_counted():
    """Of the released Lens as its file has them; of a narrow one by hand: attention, MLP, modulation, norms, ends."""
    assert denoiser_parameters(DenoiserSizes(), 64) == ModelSizes().denoiser_parameters
    streams = 2 * (4 * (12 * 12 + 12) + 3 * 12 * 32 + 6 * (12 * 12 + 12)) + 4 * 12 + 4 * 6
    ends = (8 * 12 + 12) + (16 + 16 * 12 + 12) + (256 * 12 + 12 + 12 * 12 + 12) + 2 * (12 * 12 + 12) + (8 * 12 + 8)
    assert denoiser_parameters(ONE_BLOCK, 6) == streams + ends


def test_bytes_are_counted():
    assert state_bytes(1000, averages=2) == 6 * 4000
    assert state_bytes(1000, averages=2, devices=3) == 2 * 4000
    assert checkpoint_bytes(1000, averages=2) == 5 * 4000
    deep, kept = replace(ONE_BLOCK, layers=10), (16 + MAX_TEXT_TOKENS) * 12
    assert activation_bytes(deep, 16, "float32") == 10 * 154 * kept
    assert activation_bytes(deep, 16, "bfloat16") == 10 * 129 * kept
    assert activation_bytes(deep, 16, "bfloat16", sharded=True) == 10 * 77 * kept
    assert activation_bytes(deep, 16, "float32", recompute=True) == (10 * 4 + 154) * kept
    assert activation_bytes(deep, 16, "bfloat16", sharded=True, recompute=True) == (10 * 2 + 77) * kept
    assert [largest_batch(100.0, 30, together) for together in (1, 2, 4)] == [3, 1, 0]
    assert largest_batch(-5.0, 30) == 0


def test_a_step_is_the_mean_over_resolutions():
    batches = (MicroBatch(64, 6, 1), MicroBatch(128, 2, 1))
    assert images_per_step(3, batches) == 12
    each = [count * training_flops(ONE_BLOCK, tokens, MEAN_TEXT_TOKENS) for count, tokens in ((6, 16), (2, 64))]
    assert flops_per_step(ONE_BLOCK, 3, batches) == 3 * sum(each) / 2


def test_wrong_numbers_are_told():
    with pytest.raises(ValueError, match="invalid count 3"):
        plan_training(RUN, H200, 3)
    with pytest.raises(ValueError, match="price_per_hour -1"):
        plan_training(RUN, H200, 1, -1)
