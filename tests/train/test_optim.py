"""Schedules by their numbers, and which optimiser has which weights."""

import pytest
import torch

from leanlens.config import checked
from leanlens.train.config import Optim
from leanlens.train.denoiser_model import build_denoiser, freeze_unread
from leanlens.train.muon import StackedMuon
from leanlens.train.optim import build_optimizers, clip_gradients, rate_factor, set_rate
from tests.train.tiny import tiny_recipe


def optim(**values):
    return checked(Optim, values)


def test_constant_after_warm_up():
    table = optim(warmup=4)
    assert [rate_factor(step, table) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_cosine_ends_at_its_floor_and_stays():
    table = optim(schedule="cosine", length=100, floor=0.1, warmup=20)
    assert rate_factor(20, table) == 1
    assert rate_factor(60, table) == pytest.approx(0.55)
    assert rate_factor(100, table) == rate_factor(1000, table) == pytest.approx(0.1)


def test_wsd_is_constant_then_falls_straight():
    table = optim(schedule="wsd", length=100, cooldown=0.2)
    assert [rate_factor(step, table) for step in (0, 50, 80, 90, 100)] == pytest.approx([1, 1, 1, 0.5, 0])


def test_schedules_need_a_length():
    with pytest.raises(ValueError, match=r"optim.length is missing; schedule 'wsd'"):
        optim(schedule="wsd")


@pytest.fixture
def model(tmp_path):
    model = build_denoiser(tiny_recipe(tmp_path).model, 0)
    freeze_unread(model)
    return model


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_every_trained_weight_has_exactly_one_optimiser(model, matrices):
    optimizers = build_optimizers(model, optim(matrices=matrices, weight_decay=0.1))
    ids = [id(weight) for one in optimizers for group in one.param_groups for weight in group["params"]]
    assert sorted(ids) == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)
    names = {id(weight): name for name, weight in model.named_parameters()}
    decayed = [
        names[id(weight)]
        for one in optimizers
        for group in one.param_groups
        if group["weight_decay"]
        for weight in group["params"]
    ]
    assert decayed
    assert not [name for name in decayed if name.endswith("bias") or ".norm_" in name]
    if matrices == "muon":
        owned = {names[id(weight)] for weight in optimizers[1].param_groups[0]["params"]}
        assert "transformer_blocks.0.attn.img_qkv.weight" in owned
        assert not [name for name in owned if "_mod." in name or "img_in" in name]


def test_rate_keeps_its_height(model):
    (optimizer,) = build_optimizers(model, optim(lr=0.5))
    set_rate([optimizer], 0.5)
    set_rate([optimizer], 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_clipping_scales_the_whole_gradient(model):
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    count = sum(weight.numel() for weight in model.parameters())
    assert clip_gradients(model, 1.0) == pytest.approx(count**0.5, rel=1e-4)
    assert sum(weight.grad.square().sum() for weight in model.parameters()).item() == pytest.approx(1, rel=1e-3)


def test_stacked_matrices_get_the_update_of_muon():
    """Tall and wide ones, one without a gradient, over several steps, and with the state of the other optimiser."""
    shapes = [(48, 16)] * 3 + [(16, 48)] * 2 + [(16, 16), (8, 24)]
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    words = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    weights = [[torch.nn.Parameter(weight.clone()) for weight in start] for _ in range(2)]
    own, other = StackedMuon(weights[0], **words), torch.optim.Muon(weights[1], **words)
    for _ in range(3):
        for mine, theirs in list(zip(*weights, strict=True))[:-1]:
            gradient = torch.randn(mine.shape, generator=generator)
            mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        other.step()
    for mine, theirs, before in zip(*weights, start, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-4)
        assert torch.equal(mine, before) == (mine is weights[0][-1])
    own.load_state_dict(other.state_dict())
    assert torch.equal(own.state[weights[0][0]]["momentum_buffer"], other.state[weights[1][0]]["momentum_buffer"])
