"""Packing order, batch-norm statistics, and the way there and back."""

import pytest
import torch

from leanlens.models import vae as autoencoder
from leanlens.pipeline.toy import toy_pipeline


@pytest.fixture(scope="module")
def vae():
    vae = toy_pipeline().vae
    torch.manual_seed(0)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def test_channel_order_is_latent_channel_then_row_then_column():
    latents = torch.arange(2 * 4 * 6).view(1, 2, 4, 6)
    tokens = autoencoder.pack(latents)
    assert tokens.shape == (1, 6, 8)
    for row in range(2):
        for column in range(3):
            for channel in range(2):
                for p1 in range(2):
                    for p2 in range(2):
                        expected = latents[0, channel, 2 * row + p1, 2 * column + p2]
                        assert tokens[0, row * 3 + column, channel * 4 + p1 * 2 + p2] == expected
    assert torch.equal(autoencoder.unpack(tokens, (2, 3)), latents)


def test_encode_normalises_and_decode_undoes_it(vae):
    pixels = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        tokens = autoencoder.encode(vae, pixels)
        mean, std = vae.bn.running_mean, (vae.bn.running_var + 1e-4).sqrt()
        raw = autoencoder.pack(vae.encode(pixels).latent_dist.mode())
        assert tokens.shape == (2, 12, 128)
        assert torch.allclose(tokens * std + mean, raw, atol=1e-5)
        direct = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        assert torch.allclose(autoencoder.decode(vae, tokens, (4, 3)), direct, atol=1e-4)


def test_a_generator_samples_the_posterior(vae):
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        samples = [autoencoder.encode(vae, pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_slicing_decodes_picture_by_picture(vae):
    tokens = torch.randn(3, 4, 128)
    with torch.no_grad():
        together = autoencoder.decode(vae, tokens, (2, 2))
        vae.enable_slicing()
        seen = []
        hook = vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[0]))
        sliced = autoencoder.decode(vae, tokens, (2, 2))
    hook.remove()
    vae.disable_slicing()
    assert seen == [1, 1, 1]
    assert torch.allclose(together, sliced, atol=1e-4)


def test_token_size(vae):
    assert autoencoder.token_pixels(vae) == 16


@pytest.mark.parametrize(
    "method", ["nearest", "nearest-exact", "bilinear", "bilinear-antialias", "bicubic", "bicubic-antialias"]
)
def test_latents_are_resized_on_their_plane_and_not_within_tokens(method):
    class Plain:  # statistics that differ for each of the four places in a token
        config = type("Config", (), {"batch_norm_eps": 0.0})
        bn = type("Norm", (), {"running_mean": torch.arange(8.0), "running_var": torch.arange(1.0, 9.0)})

    planes = torch.randn(1, 2, 4, 6, generator=torch.manual_seed(0))
    mean, std = torch.arange(8.0), torch.arange(1.0, 9.0).sqrt()
    tokens = (autoencoder.pack(planes) - mean) / std
    resized = autoencoder.resize(Plain, tokens, (2, 3), (4, 6), method) * std + mean
    wanted = torch.nn.functional.interpolate(
        planes, size=(8, 12), mode=method.removesuffix("-antialias"), antialias=method.endswith("-antialias")
    )
    torch.testing.assert_close(autoencoder.unpack(resized, (4, 6)), wanted)
    torch.testing.assert_close(autoencoder.resize(Plain, tokens, (2, 3), (2, 3), "nearest"), tokens)
