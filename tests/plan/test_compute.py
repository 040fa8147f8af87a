"""The count against torch's own, which counts while a model runs."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from leanlens.models.transformer import LensTransformer2DModel
from leanlens.plan.compute import (
    DenoiserSizes,
    autoencoder_flops,
    decoding_flops,
    denoiser_flops,
    text_encoder_flops,
    training_flops,
)

FULL = DenoiserSizes()


def test_full_size_is_the_published_figure():
    assert denoiser_flops(FULL, 4096, 165) == pytest.approx(16.95e12, rel=1e-3)
    assert denoiser_flops(FULL, 1024, 165) == pytest.approx(3.66e12, rel=1e-3)
    assert denoiser_flops(FULL, 4096, 0) == pytest.approx(16.09e12, rel=1e-3)


def counted(model, image, text, backward):
    """Forward (and backward) of one sample under torch's counter, attention taken apart into its products."""
    features = [torch.zeros(1, text, model.config.enc_hidden_dim, device="meta") for _ in range(4)]
    latents = torch.zeros(1, image, 128, device="meta")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        out = model(latents, features, None, torch.zeros(1, device="meta"), [(1, 16, image // 16)])
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("text", [0, 40])
def test_denoiser_at_full_width_agrees_with_torch(text):
    with torch.device("meta"):
        model = LensTransformer2DModel(num_layers=2)
    sizes = DenoiserSizes(layers=2)
    assert counted(model, 256, text, backward=False) == pytest.approx(denoiser_flops(sizes, 256, text), rel=1e-6)
    assert counted(model, 256, text, backward=True) == pytest.approx(training_flops(sizes, 256, text), rel=0.01)


def test_autoencoder_agrees_with_torch():
    from diffusers import AutoencoderKLFlux2

    with torch.device("meta"):
        vae = AutoencoderKLFlux2()
        pixels = torch.zeros(1, 3, 128, 96)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        vae.encode(pixels)
    channels = tuple(vae.config.block_out_channels)
    assert counter.get_total_flops() == pytest.approx(autoencoder_flops(128, 96, channels), rel=1e-6)


def test_decoder_agrees_with_torch():
    from diffusers import AutoencoderKLFlux2

    with torch.device("meta"):
        vae = AutoencoderKLFlux2()
        latents = torch.zeros(1, 32, 16, 12)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        vae.decode(latents)
    assert counter.get_total_flops() == pytest.approx(decoding_flops(128, 96), rel=1e-6)


def test_text_encoder_is_the_published_figure():
    assert text_encoder_flops(3_030_000_000, 262, 24, 4096) == pytest.approx(1.59e12, rel=0.03)
