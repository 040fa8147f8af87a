"""Training times against the paper's figures and the distribution they come from."""

from statistics import NormalDist

import pytest
import torch

from leanlens.flow.times import spread_times, training_mu, training_times


@pytest.mark.parametrize(("tokens", "mu"), [(256, 1.0), (1024, 1.06), (2304, 1.16), (4096, 1.3)])
def test_mu_is_the_papers(tokens, mu):
    assert training_mu(tokens) == pytest.approx(mu, abs=1e-9)


def test_times_are_logit_normal():
    t = training_times(torch.randn(20000, generator=torch.Generator().manual_seed(1)), 4096)
    assert t.min() > 0
    assert t.max() < 1
    found = torch.quantile(torch.logit(t.double()), torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64))
    wanted = [NormalDist(1.3, 1.0).inv_cdf(share) for share in (0.1, 0.25, 0.5, 0.75, 0.9)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=0.04, rtol=0)


def test_another_mean_keeps_the_slope_and_another_width_is_wider():
    z = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    for tokens in (256, 1024, 4096):
        found = torch.logit(training_times(z, tokens, -0.5, 1.5))
        torch.testing.assert_close(found, training_mu(tokens) - 1.5 + 1.5 * z)


def test_shifting_is_the_shift_of_the_schedule():
    """sigmoid(mu + z) is the exponential time shift by mu of sigmoid(z)."""
    from leanlens.flow.schedule import shifted

    z = torch.tensor([-1.0, 0.0, 2.0])
    wanted = [shifted(torch.sigmoid(value).item(), training_mu(1024)) for value in z]
    torch.testing.assert_close(training_times(z, 1024), torch.tensor(wanted))


def test_fixed_times_are_quantiles():
    t = spread_times(5, 256)
    assert t[2].item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item())
    torch.testing.assert_close(torch.logit(t) - 1.0, -(torch.logit(t).flip(0) - 1.0), atol=1e-5, rtol=0)
    assert (t.diff() > 0).all()
