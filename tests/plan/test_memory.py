"""Predicted workspaces against tensors counted while the real classes run: at toy width, and at full width on fakes."""

import pytest
import torch
from diffusers import AutoencoderKLFlux2
from torch._subclasses.fake_tensor import FakeTensorMode

from leanlens.models import transformer as denoiser
from leanlens.models import vae as autoencoder
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.plan.compute import DenoiserSizes
from leanlens.plan.memory import (
    AutoencoderSizes,
    EncoderSizes,
    ModelSizes,
    decoding_bytes,
    denoising_bytes,
    encoding_bytes,
    part_bytes,
    tiled_share,
)
from tests.plan.live import LiveBytes


@pytest.fixture
def in_dtype(request):
    torch.set_default_dtype(request.param)
    denoiser._rotary_tables.cache_clear()  # a table made earlier would not be counted, and a fake one must not stay
    yield request.param
    denoiser._rotary_tables.cache_clear()
    torch.set_default_dtype(torch.float32)


both = pytest.mark.parametrize("in_dtype", [torch.float32, torch.bfloat16], indirect=True, ids=str)


@torch.no_grad()
def denoising_peak(model, side, text):
    features = [torch.zeros(1, text, model.config.enc_hidden_dim) for _ in range(4)]
    latents, level = torch.zeros(1, side * side, 128), torch.zeros(1)
    # The negative side's features lie beside these; a step keeps the first branch's velocity while the second runs.
    inputs = latents.untyped_storage().nbytes() + 2 * sum(x.untyped_storage().nbytes() for x in features)
    empty = [feature[:, :0] for feature in features]
    with LiveBytes([*model.parameters(), *features, latents, level]) as live:
        for text_of in (features, empty, features):
            velocity = model(latents, text_of, None, level, [(1, side, side)])  # noqa: F841 - kept alive
    return live.peak + inputs


@torch.no_grad()
def decoding_peak(vae, side):
    tokens = torch.zeros(1, side * side, 4 * vae.config.latent_channels)
    with LiveBytes([*vae.parameters(), *vae.buffers(), tokens]) as live:
        autoencoder.decode(vae, tokens, (side, side))
    return live.peak


@both
def test_toy_width_within_a_tenth(in_dtype):
    from leanlens.pipeline.toy import toy_pipeline

    pipeline, element = toy_pipeline(), in_dtype.itemsize
    model, vae = pipeline.transformer.to(in_dtype), pipeline.vae.to(in_dtype)
    sizes = DenoiserSizes(2, 128, 128, 4 * 48)
    assert denoising_bytes(sizes, 2, 1024, 64, element) == pytest.approx(denoising_peak(model, 32, 64), rel=0.1)
    small = AutoencoderSizes(channels=(16, 16, 32, 32), layers_per_block=1)
    assert decoding_bytes(small, 512, 512, element) == pytest.approx(decoding_peak(vae, 32), rel=0.1)


@torch.no_grad()
def test_toy_text_encoder_within_a_tenth():
    from leanlens.pipeline.toy import toy_pipeline

    encoder = toy_pipeline().text_encoder
    ids, mask = torch.ones(1, 200, dtype=torch.long), torch.ones(1, 200, dtype=torch.long)
    with LiveBytes([*encoder.parameters(), *encoder.buffers(), ids, mask]) as live:
        encoder(ids, mask)
    sizes = EncoderSizes(layers=4, width=48, heads=4, attention_width=64)
    assert encoding_bytes(sizes, 200, 4) == pytest.approx(live.peak, rel=0.1)


@pytest.mark.long
@both
@pytest.mark.parametrize("side", [64, 90])
def test_full_width_within_a_tenth(in_dtype, side):
    """Fake tensors have sizes and no memory, so the released width at 1024 and 1440 pixels is counted anywhere."""
    with FakeTensorMode():
        model = denoiser.LensTransformer2DModel(num_layers=2)
        peak = denoising_peak(model, side, 165)
        pixels = decoding_peak(AutoencoderKLFlux2().eval(), side)
    element = in_dtype.itemsize
    assert denoising_bytes(DenoiserSizes(), 24, side * side, 165, element) == pytest.approx(peak, rel=0.1)
    assert decoding_bytes(AutoencoderSizes(), 16 * side, 16 * side, element) == pytest.approx(pixels, rel=0.1)


def test_parts_have_the_published_sizes():
    bf16 = part_bytes(ModelSizes(), "bfloat16", packed=False)
    assert bf16["transformer"] == 8_208_450_304
    assert bf16["text_encoder"] == pytest.approx(40.7e9, rel=0.01)
    assert part_bytes(ModelSizes(), "float32", False)["vae"] == pytest.approx(336e6, rel=0.01)
    packed = part_bytes(ModelSizes(), "bfloat16", packed=True)["text_encoder"]
    assert packed + 201088 * 2880 * 2 == pytest.approx(13.8e9, rel=0.01)  # the files, which hold the head too
    with pytest.raises(ValueError, match="invalid dtype 'int3'"):
        part_bytes(ModelSizes(), "int3", False)


def test_gpt_oss_parameters_are_those_of_the_class():
    from transformers import GptOssConfig

    with torch.device("meta"):
        models = [LensGptOssEncoder(GptOssConfig(num_hidden_layers=n, num_local_experts=32)) for n in (1, 2)]
    one, two = (sum(weight.numel() for weight in model.parameters()) for model in models)
    assert EncoderSizes().parameters == one + 23 * (two - one)


def test_large_pictures_are_tiled():
    assert tiled_share(AutoencoderSizes(), 1440, 1440) == 1
    assert tiled_share(AutoencoderSizes(), 2048, 2048) > 1.2
    assert decoding_bytes(AutoencoderSizes(), 2048, 2048, 2) < 2 * decoding_bytes(AutoencoderSizes(), 1024, 1024, 2)
