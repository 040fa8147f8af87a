"""Models that are read layer by layer while they run: the same numbers, and next to nothing in memory."""

import pytest
import torch

from leanlens.pipeline.device import compute_device
from leanlens.weights.assemble import convert
from leanlens.weights.load import open_text_encoder, open_transformer
from leanlens.weights.stream import stream
from tests.plan.live import LiveBytes
from tests.weights import foreign
from tests.weights.test_packed import run

CPU = torch.device("cpu")


@torch.no_grad()
def test_a_transformer_from_disk(tmp_path):
    foreign.write_comfy_transformer(tmp_path / "lens.safetensors")
    streamed = stream(tmp_path / "lens.safetensors", "transformer", torch.float32)
    plain = open_transformer(tmp_path / "lens.safetensors", torch.float32)
    assert torch.equal(run(streamed), run(plain))
    assert torch.equal(run(streamed), run(plain))  # and again from the first layer
    assert all(weight.is_meta for weight in streamed.parameters())
    assert (compute_device(streamed), streamed.dtype) == (CPU, torch.float32)
    held = sum(weight.nbytes for weight in plain.parameters())
    with LiveBytes() as live:
        run(streamed)
    assert live.peak < held / 4


def test_a_packed_file_is_decoded_as_it_is_read(tmp_path):
    foreign.write_comfy_transformer(tmp_path / "lens.safetensors")
    convert(tmp_path / "lens.safetensors", tmp_path / "int8.safetensors", "comfy", quant="int8")
    streamed = stream(tmp_path / "int8.safetensors", "transformer", torch.float32)
    assert torch.equal(run(streamed), run(open_transformer(tmp_path / "int8.safetensors", torch.float32)))


@torch.no_grad()
def test_an_mxfp4_text_encoder_from_disk(tmp_path):
    foreign.write_mxfp4_encoder(tmp_path / "text_encoder")
    streamed = stream(tmp_path / "text_encoder", "text_encoder", torch.float32)
    plain = open_text_encoder(tmp_path / "text_encoder", torch.float32)
    ids, mask = torch.arange(12)[None] % 90, torch.ones(1, 12, dtype=torch.long)
    for one, other in zip(streamed(ids, mask), plain(ids, mask), strict=True):
        assert torch.equal(one, other)
    assert all(weight.is_meta for weight in streamed.parameters())


def test_another_component_is_refused(tmp_path):
    foreign.write_comfy_transformer(tmp_path / "lens.safetensors")
    with pytest.raises(ValueError, match=r"is a Lens transformer.*expected a GPT-OSS text encoder"):
        stream(tmp_path / "lens.safetensors", "text_encoder")
