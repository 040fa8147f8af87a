"""Opens the frozen models of a denoiser's training: autoencoder, text encoder, tokenizer, scheduler."""

from typing import Any

import torch
from torch import nn

from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.plan.compute import autoencoder_flops, text_encoder_flops
from leanlens.presets import is_made
from leanlens.train.config import Model
from leanlens.train.resume import named


def open_frozen_models(
    model: Model, denoiser: LensTransformer2DModel, dtype: torch.dtype = torch.float32
) -> LensPipeline:
    """The pipeline of `denoiser` and the frozen models that the recipe names.

    Raises:
        ValueError: frozen models whose sizes are not those of the recipe.
    """
    if is_made(model.parts):
        from leanlens.pipeline.toy import toy_pipeline

        pipeline = toy_pipeline()
        pipeline.register_modules(transformer=denoiser)
    else:
        with named("model.parts"):
            pipeline = LensPipeline.from_pretrained(model.parts, transformer=denoiser, dtype=dtype)
    text = pipeline.text_encoder.config
    model.require_frozen_sizes(pipeline.vae.config.latent_channels, text.hidden_size, text.num_hidden_layers)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    return pipeline


def encoder_flops(pipeline: LensPipeline, height: int, width: int, text_tokens: int) -> int:
    """FLOP of encoding one picture and its caption, without a cache; `text_tokens` includes the template."""
    vae, text = pipeline.vae.config, pipeline.text_encoder.config
    picture = autoencoder_flops(height, width, vae.block_out_channels, vae.layers_per_block, vae.latent_channels)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return picture + text_encoder_flops(
        active_parameters(pipeline.text_encoder),
        text_tokens,
        text.num_hidden_layers,
        text.num_attention_heads * head_dim,
    )


def active_parameters(encoder: nn.Module) -> int:
    """Weights that one token uses: no embedding, no head, and only the experts it is routed to."""
    config: Any = encoder.config
    experts = getattr(config, "num_local_experts", None)
    total = 0
    for name, weight in encoder.named_parameters():
        if "embed_tokens" in name or name.startswith("lm_head"):
            continue
        routed = experts and ".experts." in name
        total += weight.numel() * config.num_experts_per_tok // experts if routed else weight.numel()
    return total
