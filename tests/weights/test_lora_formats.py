"""Adapter formats of other packages become plain LoRAs."""

import pytest
import torch
from safetensors.torch import save_file

from leanlens.plugins import ADAPTERS
from leanlens.weights.layouts import identify
from leanlens.weights.lora import as_lora, read_lora
from tests.plugin_package import install

LAYER = "transformer_blocks.0.attn.img_qkv"
SOURCE = """
def doubled(keys):
    '''`2 * NAME.hada_w1_a @ NAME.hada_w1_b`.'''
    if not all(key.endswith((".hada_w1_a", ".hada_w1_b")) for key in keys):
        return None
    return convert

def convert(tensors):
    names = {key.rpartition(".")[0] for key in tensors}
    plain = {f"{name}.lora_A.weight": tensors[f"{name}.hada_w1_b"] for name in names}
    return plain | {f"{name}.lora_B.weight": 2 * tensors[f"{name}.hada_w1_a"] for name in names}

def broken(keys):
    return lambda tensors: tensors["missing"]

def strange(keys):
    return lambda tensors: {"what.hada_w1": tensors[keys[0]]}
"""


def tensors(rank=2):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(96, rank, generator=generator), torch.randn(rank, 32, generator=generator)
    return {f"{LAYER}.hada_w1_a": left, f"{LAYER}.hada_w1_b": right}


def declare(monkeypatch, folder, function):
    install(monkeypatch, folder, SOURCE, {ADAPTERS: {"doubled": f"added:{function}"}})


def test_a_format_of_another_package_is_read(tmp_path, monkeypatch):
    save_file(tensors(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="LoHa"):
        read_lora(tmp_path / "a.safetensors")
    declare(monkeypatch, tmp_path, "doubled")
    for lora in (read_lora(tmp_path / "a.safetensors"), as_lora(tensors())):
        (layer,) = lora.layers.values()
        assert list(lora.layers) == [LAYER]
        left, right = tensors().values()
        torch.testing.assert_close(layer.scale * layer.b @ layer.a, 2 * left @ right)


def test_an_added_format_is_not_asked_about_a_plain_lora(tmp_path, monkeypatch):
    declare(monkeypatch, tmp_path, "broken")
    plain = {f"{LAYER}.lora_A.weight": torch.ones(1, 32), f"{LAYER}.lora_B.weight": torch.ones(96, 1)}
    assert list(as_lora(plain).layers) == [LAYER]


@pytest.mark.parametrize(
    ("function", "said"),
    [("broken", "the adapter format 'doubled' failed: KeyError: 'missing'"), ("strange", "LoHa")],
)
def test_a_failing_format_is_named(tmp_path, monkeypatch, function, said):
    declare(monkeypatch, tmp_path, function)
    with pytest.raises(ValueError, match=said):
        as_lora(tensors())


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    declare(monkeypatch, tmp_path, "doubled")
    monkeypatch.setattr("leanlens.weights.lora_formats.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"the limit is 0\.0 GB"):
        as_lora(tensors())


def test_inspection_does_not_refuse_it(tmp_path, monkeypatch):
    save_file({**tensors(), f"{LAYER}.alpha": torch.tensor(2.0)}, tmp_path / "a.safetensors")
    assert identify(tmp_path / "a.safetensors").refusal
    save_file(tensors(), tmp_path / "a.safetensors")
    declare(monkeypatch, tmp_path, "doubled")
    assert not identify(tmp_path / "a.safetensors").refusal
