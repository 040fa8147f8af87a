"""Counts the floating-point operations of one image of an opened Lens model with the planner's formulas."""

from typing import Any

from leanlens.models.vae import token_pixels
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.compute import DenoiserSizes, decoding_flops, denoiser_flops, text_encoder_flops

COUNTED_PROMPT = "A photograph of a red apple on a wooden table."
"""The prompt whose image is counted, for models of every kind."""


def image_flop(opened: OpenedModel, request: ImageRequest) -> int:
    """FLOP of a request: every call of the denoiser, encoding the prompt once, decoding the latents once.

    Of the text encoder, the tokens that the denoiser reads are counted; those of a template before them, which are
    dropped, are not.
    """
    positive, negative = (int(features.mask.sum()) for features in opened.features(request))
    sizes, side = _denoiser(opened), token_pixels(opened.pipeline.vae)
    image_tokens = (request.height // side) * (request.width // side)
    texts = [positive] if request.guidance_scale == 1 else [positive, negative]
    step = sum(denoiser_flops(sizes, image_tokens, tokens) for tokens in texts)
    encoding = sum(_encoding(opened.pipeline.text_encoder, tokens) for tokens in texts)
    vae = opened.pipeline.vae.config
    decoding = decoding_flops(
        request.height, request.width, tuple(vae.block_out_channels), vae.layers_per_block, vae.latent_channels
    )
    return request.num_inference_steps * step + encoding + decoding


def _denoiser(opened: OpenedModel) -> DenoiserSizes:
    config = opened.pipeline.transformer.config
    return DenoiserSizes(
        config.num_layers,
        config.num_attention_heads * config.attention_head_dim,
        config.in_channels,
        config.enc_hidden_dim * len(config.selected_layer_index),
    )


def _encoding(encoder: Any, tokens: int) -> int:
    """FLOP of encoding so many tokens; 0 where the encoder is not in memory."""
    if encoder is None:
        return 0
    config = encoder.config
    share = getattr(config, "num_experts_per_tok", 1) / getattr(config, "num_local_experts", 1)
    weights = {name: one.numel() for name, one in encoder.named_parameters() if one.dim() > 1}
    met = sum(
        count * (share if ".experts." in name else 1)
        for name, count in weights.items()
        if not any(word in name for word in ("embed_tokens", "lm_head"))
    )
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return text_encoder_flops(int(met), tokens, config.num_hidden_layers, width)
