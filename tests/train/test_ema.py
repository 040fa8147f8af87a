"""Averages against their definition: integrals of the profile, summed up by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from leanlens.train.ema import Averages, exponent_of, keep_share, mixture


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.25])
def test_the_exponent_gives_the_width(std):
    g = exponent_of(std)
    assert np.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3))) == pytest.approx(std, rel=1e-9)  # equation 123


def test_width_is_the_spread_of_the_profile():
    times = np.linspace(0, 1, 200_001)
    profile = times ** exponent_of(0.1)
    profile /= profile.sum()
    mean = (profile * times).sum()
    assert np.sqrt((profile * (times - mean) ** 2).sum()) == pytest.approx(0.1, rel=1e-3)


def profile_sums(values, std):
    """The average as a sum: value i, held while picture i was seen, weighs the profile's integral over it."""
    g = exponent_of(std)
    edges = (np.arange(len(values) + 1) / len(values)) ** (g + 1)
    return float((np.diff(edges) * values).sum())


class Number(nn.Module):
    def __init__(self):
        super().__init__()
        self.followed = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)


def walked(values, stds):
    model = Number()
    averages = Averages(model, stds)
    for step, value in enumerate(values):
        model.followed.data.fill_(value)
        averages.update(step + 1, 1)
    return model, averages


def test_average_is_the_integral_of_the_profile():
    values = np.random.default_rng(0).normal(size=50)
    _, averages = walked(values, (0.05, 0.2))
    for std in (0.05, 0.2):
        assert averages.copies[std]["followed"].item() == pytest.approx(profile_sums(values, std), abs=1e-5)
        assert "frozen" not in averages.copies[std]


def test_first_step_forgets_the_initial_weights():
    assert keep_share(0.05, 24, 24) == 0.0
    assert keep_share(0.05, 48, 24) == pytest.approx(0.5 ** (exponent_of(0.05) + 1))


def test_other_widths_are_rebuilt_from_snapshots():
    values = np.cumsum(np.random.default_rng(1).normal(size=400)) / 10
    stored, kept = [], []
    for images in range(25, 401, 25):
        _, averages = walked(values[:images], (0.05, 0.1))
        for std in (0.05, 0.1):
            stored.append((images, std))
            kept.append(averages.copies[std]["followed"].item())
    for std in (0.07, 0.15):
        weights = mixture(stored, (400, std))
        assert sum(weights) == pytest.approx(1)
        rebuilt = float(np.dot(weights, kept))
        assert rebuilt == pytest.approx(profile_sums(values, std), abs=0.02)
        assert abs(rebuilt - profile_sums(values, std)) < abs(kept[-1] - profile_sums(values, std)) / 5


def test_a_stored_average_is_rebuilt_from_itself():
    weights = mixture([(100, 0.05), (200, 0.05), (200, 0.1)], (200, 0.05))
    assert weights == pytest.approx([0, 1, 0], abs=1e-9)


def test_in_place_gives_the_average_and_then_the_weights_back():
    model, averages = walked([1.0, 2.0, 4.0], (0.1,))
    with averages.in_place(0.1):
        assert model.followed.item() == averages.copies[0.1]["followed"].item() != 4.0
    assert model.followed.item() == 4.0
    with averages.in_place(0):
        assert model.followed.item() == 4.0
