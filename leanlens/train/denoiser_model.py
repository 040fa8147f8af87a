"""Builds the denoiser of a recipe with its initial weights.

Source: Lens, arXiv 2605.21573, does not state the initialisation; ours starts every block as the identity (adaLN-Zero,
arXiv 2212.09748).
"""

from typing import Any

import torch
from torch import nn

from leanlens.models.transformer import LensTransformer2DModel
from leanlens.plan.compute import DenoiserSizes
from leanlens.train.config import Model


def build_denoiser(sizes: Model, seed: int, device: str = "cpu") -> LensTransformer2DModel:
    """The transformer of a recipe in float32, with weights that depend on nothing but `seed`.

    On the device "meta" it has shapes and no weights.
    """
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LensTransformer2DModel(
            num_layers=sizes.num_layers,
            num_attention_heads=sizes.num_attention_heads,
            attention_head_dim=sizes.attention_head_dim,
            axes_dims_rope=sizes.axes_dims_rope,
            in_channels=4 * sizes.out_channels,
            out_channels=sizes.out_channels,
            enc_hidden_dim=sizes.enc_hidden_dim,
            selected_layer_index=sizes.selected_layer_index,
        )
        initialise(model)
    return model


def initialise(model: LensTransformer2DModel) -> None:
    """Xavier for matrices, zero for biases, modulation and the last projection: the first prediction is zero."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if "_mod." in name or name.startswith(("norm_out.", "proj_out")):
            nn.init.zeros_(module.weight)
        elif name.startswith("time_text_embed."):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def freeze_unread(model: LensTransformer2DModel) -> None:
    """Freeze the weights that no output depends on: those of the text output of the last block."""
    last: Any = model.transformer_blocks[-1]
    for module in (last.attn.to_add_out, last.txt_mlp, last.txt_norm2):
        module.requires_grad_(False)


def sizes_of(model: LensTransformer2DModel) -> DenoiserSizes:
    """The sizes that its cost depends on."""
    config = model.config
    return DenoiserSizes(
        layers=config.num_layers,
        width=config.num_attention_heads * config.attention_head_dim,
        latent_channels=config.in_channels,
        text_channels=config.enc_hidden_dim * len(config.selected_layer_index),
    )
