"""Guidance: the direction is extrapolated, the length of every token stays."""

import torch

from leanlens.flow.guidance import guided_velocity


def test_direction_of_plain_guidance_and_length_of_the_conditional():
    torch.manual_seed(0)
    conditional, unconditional = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    guided = guided_velocity(conditional, unconditional, 5.0)
    plain = unconditional + 5.0 * (conditional - unconditional)
    assert torch.allclose(guided.norm(dim=-1), conditional.norm(dim=-1), atol=1e-5)
    assert torch.allclose(torch.cosine_similarity(guided, plain, dim=-1), torch.ones(2, 5), atol=1e-6)


def test_scale_1_gives_the_conditional_up_to_rounding():
    torch.manual_seed(0)
    conditional, unconditional = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    assert torch.allclose(guided_velocity(conditional, unconditional, 1.0), conditional, atol=1e-6)


def test_a_short_extrapolation_is_lengthened_and_a_zero_one_stays_zero():
    conditional = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    unconditional = torch.tensor([[[1.9, 0.0], [2.0, 0.0]]])
    assert torch.allclose(guided_velocity(conditional, unconditional, 2.0), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))


def test_the_dtype_stays():
    velocity = torch.randn(1, 2, 4, dtype=torch.bfloat16)
    assert guided_velocity(velocity, velocity * 0.5, 3.0).dtype is torch.bfloat16
