"""Measures how far each latent channel of an autoencoder moves pixels, and derives loss weights from that."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from leanlens.models import vae as autoencoder

NUDGE = 0.5  # standard deviations by which a channel is moved
POWER = 1.5  # of the pixels' move that a channel's weight in the denoiser's loss is


@torch.no_grad()
def channel_moves(folder: Path, pictures: Tensor) -> dict[str, list[float]]:
    """`moves`: the mean change of decoded pixels by half a standard deviation of noise on one latent channel;
    `weights`: the weights in the denoiser's loss that follow from it, with mean 1."""
    vae = AutoencoderKLFlux2.from_pretrained(folder).to(pictures.device)
    latents = autoencoder.encode(vae, pictures)
    grid = (pictures.shape[2] // 16, pictures.shape[3] // 16)
    plain = autoencoder.decode(vae, latents, grid)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents.device)
    moves = []
    for channel in range(vae.config.latent_channels):
        nudged = latents.clone()
        nudged[..., 4 * channel : 4 * channel + 4] += NUDGE * noise[..., 4 * channel : 4 * channel + 4]
        moves.append(float((autoencoder.decode(vae, nudged, grid) - plain).abs().mean()))
    powers = [move**POWER for move in moves]
    mean = sum(powers) / len(powers)
    return {"moves": [round(move, 4) for move in moves], "weights": [round(power / mean, 2) for power in powers]}
