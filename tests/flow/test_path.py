"""The path's identities, with numbers written down by hand."""

import pytest
import torch

from leanlens.flow import path


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 4, generator=generator), torch.randn(3, 5, 4, generator=generator)


def test_ends_are_the_picture_and_the_noise(pair):
    x0, noise = pair
    assert torch.equal(path.noised(x0, noise, torch.zeros(3)), x0)
    assert torch.equal(path.noised(x0, noise, torch.ones(3)), noise)


def test_a_quarter_of_the_way():
    x_t = path.noised(torch.tensor([[2.0]]), torch.tensor([[6.0]]), torch.tensor([0.25]))
    assert x_t.item() == 3.0
    assert path.velocity(torch.tensor([2.0]), torch.tensor([6.0])).item() == 4.0


def test_velocity_leads_to_both_ends_and_along_the_path(pair):
    x0, noise = pair
    t, s = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.05, 0.2, 0.8])
    x_t, v = path.noised(x0, noise, t), path.velocity(x0, noise)
    torch.testing.assert_close(path.picture_at(x_t, v, t), x0)
    torch.testing.assert_close(x_t + (s - t)[:, None, None] * v, path.noised(x0, noise, s))


def test_velocity_is_the_derivative_in_time(pair):
    x0, noise = pair
    _, derivative = torch.func.jvp(lambda t: path.noised(x0, noise, t), (torch.full((3,), 0.3),), (torch.ones(3),))
    torch.testing.assert_close(derivative, path.velocity(x0, noise))


def test_loss_is_one_number_for_each_sample(pair):
    x0, noise = pair
    predicted = path.velocity(x0, noise).clone()
    predicted[1] += 2.0
    torch.testing.assert_close(path.velocity_loss(predicted, x0, noise), torch.tensor([0.0, 4.0, 0.0]))
    assert path.velocity_loss(predicted.bfloat16(), x0, noise).dtype == torch.float32
