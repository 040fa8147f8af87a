"""Noise levels against published values and the scheduler that walks them."""

import math

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from leanlens.flow.schedule import empirical_mu, inference_sigmas, linear_mu, linear_sigmas, shift_mu
from leanlens.weights.assemble import OFFICIAL_SCHEDULER

PUBLISHED = {  # (tokens, steps): (mu, first levels after 1, last level before 0)
    (4096, 20): (2.198022, [0.994191, 0.987814, 0.980784, 0.972994, 0.964313], 0.321603),
    (4096, 4): (2.291180, [0.967384, 0.908144, 0.767200], 0.767200),
    (8100, 4): (1.827754, [0.949134, 0.861494, 0.674617], 0.674617),
    (8100, 20): (1.827754, [], 0.246627),
    (8100, 50): (1.827754, [], 0.112639),
    (1024, 20): (1.916348, [], None),
}


@pytest.mark.parametrize(("case", "expected"), PUBLISHED.items())
def test_published_values(case, expected):
    mu, first, last = expected
    assert empirical_mu(*case) == pytest.approx(mu, abs=1e-6)
    sigmas = inference_sigmas(*case)
    assert (sigmas[0], sigmas[-1], len(sigmas)) == (1.0, 0.0, case[1] + 1)
    assert sigmas[1 : 1 + len(first)] == pytest.approx(first, abs=1e-6)
    if last is not None:
        assert sigmas[-2] == pytest.approx(last, abs=1e-6)


@pytest.mark.parametrize("tokens", [60, 256, 4096, 8450])
@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_the_scheduler_walks_the_same_levels(tokens, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(**OFFICIAL_SCHEDULER)
    scheduler.set_timesteps(sigmas=linear_sigmas(steps), mu=shift_mu(scheduler.config, tokens, steps))
    assert scheduler.sigmas.tolist() == pytest.approx(inference_sigmas(tokens, steps), abs=1e-6)


def test_other_rules():
    assert shift_mu({"shift_rule": "constant", "shift": 3.0}, 1, 1) == pytest.approx(math.log(3))
    line = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
    assert shift_mu({"shift_rule": "linear", **line}, 4096, 7) == pytest.approx(1.15)
    assert linear_mu(8100, 0.5, 1.15, 256, 4096) == pytest.approx(empirical_mu(8100, 20), abs=1e-4)
    with pytest.raises(ValueError, match=r"shift_rule 'cosine' .* expected one of empirical, linear, constant"):
        shift_mu({"shift_rule": "cosine"}, 1, 1)
