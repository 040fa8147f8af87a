"""Weights of latent channels follow from how far each of them moves pixels."""

import pytest
import torch

from leanlens.pipeline.toy import toy_pipeline
from leanlens.train.channel_weights import POWER, channel_moves


def test_a_channel_that_moves_nothing_weighs_nothing(tmp_path):
    vae = toy_pipeline().vae
    with torch.no_grad():
        vae.post_quant_conv.weight[:, 1] = 0
    vae.save_pretrained(tmp_path / "vae")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = channel_moves(tmp_path / "vae", images)
    moves, weights = found["moves"], found["weights"]
    assert len(moves) == len(weights) == vae.config.latent_channels
    assert moves[1] == weights[1] == 0
    assert min(moves[:1] + moves[2:]) > 0
    assert sum(weights) / len(weights) == pytest.approx(1, abs=0.01)
    strongest, other = moves.index(max(moves)), 0 if moves.index(max(moves)) else 2
    assert weights[strongest] / weights[other] == pytest.approx((moves[strongest] / moves[other]) ** POWER, rel=0.1)
