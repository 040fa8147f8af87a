"""Attention written out is the attention of the model."""

import pytest
import torch

from leanlens.models import attention
from leanlens.models.attention import WrittenOutAttnProcessor, write_out_attention
from leanlens.models.transformer import LensAttnProcessor
from leanlens.train.denoiser_model import build_denoiser
from tests.train.tiny import tiny_recipe


def streams(tokens=20):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, tokens, 3, 8, generator=generator, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_the_fused_ones(masked):
    mask = torch.ones(2, 1, 1, 20, dtype=torch.bool)
    mask[1, ..., 13:] = False
    found = []
    for processor in (LensAttnProcessor(), WrittenOutAttnProcessor()):
        parts = streams()
        mixed = processor.mix(*parts, mask if masked else None)
        mixed.square().sum().backward()
        found.append([mixed.detach(), *(part.grad for part in parts)])
    for fused, written in zip(*found, strict=True):
        torch.testing.assert_close(written, fused, rtol=1e-4, atol=1e-5)


def test_long_rows_go_to_the_fused_kernel(monkeypatch):
    asked = []
    monkeypatch.setattr(LensAttnProcessor, "mix", lambda self, query, *rest: asked.append(query.shape[1]) or query)
    monkeypatch.setattr(attention, "TOKENS", 19)
    WrittenOutAttnProcessor().mix(*streams(20), None)
    WrittenOutAttnProcessor().mix(*streams(19), None)
    assert asked == [20]


@pytest.mark.parametrize("masked", [False, True])
def test_heads_one_by_one_are_the_fused_ones(masked):
    parts = [part.detach().bfloat16() for part in streams()]
    mask = torch.ones(2, 1, 1, 20, dtype=torch.bool)
    mask[1, ..., 13:] = False
    exact = LensAttnProcessor().mix(*(part.float() for part in parts), mask if masked else None)
    written = WrittenOutAttnProcessor(one_by_one=True).mix(*parts, mask if masked else None)
    assert (written.shape, written.dtype) == ((2, 20, 3, 8), torch.bfloat16)
    assert (written.float() - exact).norm() / exact.norm() < 0.006


def test_one_by_one_leaves_float32_to_the_fused_kernel(monkeypatch):
    asked = []
    monkeypatch.setattr(LensAttnProcessor, "mix", lambda self, query, *rest: asked.append(query.dtype) or query)
    WrittenOutAttnProcessor(one_by_one=True).mix(*streams(), None)
    WrittenOutAttnProcessor(one_by_one=True).mix(*(part.detach().bfloat16() for part in streams()), None)
    assert asked == [torch.float32]


def test_every_block_gets_it_and_no_name_changes(tmp_path):
    model = build_denoiser(tiny_recipe(tmp_path).model, seed=0)
    names = [*model.state_dict()]
    write_out_attention(model)
    assert {type(block.attn.processor) for block in model.transformer_blocks} == {WrittenOutAttnProcessor}
    assert [*model.state_dict()] == names
