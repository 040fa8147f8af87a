"""A run on some devices, in plain numbers."""

from dataclasses import replace

import pytest

from leanlens.plan.devices import find_device
from leanlens.plan.memory import ModelSizes
from leanlens.plan.training import MicroBatch, TrainingRun, plan_training

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


def test_wrong_numbers_are_told():
    with pytest.raises(ValueError, match="count 3 is not accepted"):
        plan_training(RUN, H200, 3)
    with pytest.raises(ValueError, match="price_per_hour -1"):
        plan_training(RUN, H200, 1, -1)
