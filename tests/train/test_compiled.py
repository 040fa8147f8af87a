"""A compiler is asked whether it is right: stand-ins here, which are right, wrong, slow or broken."""

import time

import pytest
import torch
from torch import nn

from leanlens.train.compiled import compile_checked, undo_compile


class Slow(nn.Module):
    """A matrix product that takes its time."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        time.sleep(0.005)
        return x @ self.weight


def loss_of(module):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    return lambda: module(x).square().sum()


def compiles_to(monkeypatch, make):
    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", make(self)))


def test_what_is_right_and_faster_is_kept(monkeypatch, caplog):
    module = Slow()
    compiles_to(monkeypatch, lambda self: lambda x: x @ self.weight)
    with caplog.at_level("INFO"):
        assert compile_checked([module], loss_of(module))
    assert "gradients agree to 0.000" in caplog.text
    assert module._compiled_call_impl is not None
    assert module.weight.grad is None
    undo_compile([module])
    assert module._compiled_call_impl is None


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda self: lambda x: x @ self.weight.detach() + 0 * self.weight.sum(), "gradients are off by 1.00"),
        (lambda self: lambda x: (time.sleep(0.03), x @ self.weight)[1], "instead of"),
        (lambda self: lambda x: x.no_such_thing, "AttributeError: 'Tensor' object has no attribute"),
    ],
    ids=["without gradients", "slower", "broken"],
)
def test_what_is_not_is_undone_and_said(monkeypatch, caplog, forward, said):
    module = Slow()
    compiles_to(monkeypatch, forward)
    with caplog.at_level("INFO"):
        assert not compile_checked([module], loss_of(module))
    assert f"not compiled: {'' if said == 'instead of' else said}" in caplog.text
    assert said in caplog.text
    assert module._compiled_call_impl is None
    assert module.weight.grad is None
