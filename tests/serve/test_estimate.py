"""What a server says of an image before it is drawn."""

import pytest

from leanlens.pipeline import auto
from leanlens.plan.choose import Machine
from leanlens.plan.devices import find_device
from leanlens.plan.options import LoadOptions
from leanlens.serve import estimate as estimate_module
from leanlens.serve.estimate import Estimates
from leanlens.web.estimate import estimate_line, larger_models_line

NANO, TURBO = ("nano", 256, 256, 20, 2.0, 1), ("turbo", 1024, 1024, 4, 1.0, 1)


@pytest.fixture
def small_card(monkeypatch):
    """A machine with a card of 12 GB beside 32 GB of main memory."""
    import torch

    from leanlens.pipeline import device

    machine = Machine(find_device("RTX 3060"), 32)
    monkeypatch.setattr(auto, "find_machine", lambda *_: machine)
    monkeypatch.setattr(estimate_module, "find_machine", lambda *_: machine)
    monkeypatch.setattr(device, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(device, "resolve_dtype", lambda *_: torch.bfloat16)


@pytest.mark.parametrize("models", [("nano", "turbo"), ("turbo", "nano")])
def test_each_model_has_its_own_estimate_whatever_the_order(settings, small_card, models):
    chosen = {model: auto.choose_model(model, LoadOptions()).options for model in models}
    assert chosen["nano"].offload == "none" != chosen["turbo"].offload
    estimates = Estimates(settings(models=models, devices=("auto",), load=LoadOptions(), load_by_model=chosen))
    nano, turbo = estimates.plan(*NANO), estimates.plan(*TURBO)
    assert (nano.fits, turbo.fits) == (True, True)
    assert max(nano.choice.vram.values()) < 2e9 < max(turbo.choice.vram.values()) < 12 * 2**30
    assert turbo.options.offload == chosen["turbo"].offload


def test_it_speaks_of_the_device_and_dtype_of_the_server(settings):
    plan = Estimates(settings(models=("nano",))).plan("nano", 128, 128, 20, 5.0, 1)
    assert (plan.options.device, plan.options.dtype) == ("cpu", "float32")
    assert estimate_line(plan).endswith(" GB of memory.")
    assert estimate_line(plan).startswith("Estimate: ")


def test_a_model_that_is_not_here(settings):
    with pytest.raises(ValueError, match="nowhere"):
        Estimates(settings()).plan("/nowhere/x", 128, 128, 4, 5.0, 1)


def test_larger_models_are_named_where_none_is_offered(settings, small_card):
    found = Estimates(settings(models=("nano",))).larger_models()
    assert list(found) == ["turbo", "rl"]
    assert larger_models_line(found).startswith("This machine can also run turbo (about ")
    assert larger_models_line(found).endswith("leanlens serve --model turbo")
    assert Estimates(settings(models=("nano", "base"))).larger_models() == {}
    assert larger_models_line({}) == ""
