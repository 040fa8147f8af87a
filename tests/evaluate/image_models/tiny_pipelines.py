"""Pipelines of diffusers' own classes at toy size, with random weights, saved as folders that can be opened."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation


def byte_vocabulary(*special: str) -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    return {token: index for index, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}


def clip_tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: index for index, token in enumerate(tokens)}, [], model_max_length=77)


def t5_tokenizer(limit: int = 512) -> Any:
    from transformers import T5Tokenizer

    tokens = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return T5Tokenizer([(token, -1.0) for token in tokens], extra_ids=0, model_max_length=limit)


def qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    vocabulary = byte_vocabulary("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    template = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    return Qwen2Tokenizer(vocabulary, [], model_max_length=1024, chat_template=template)


def gemma_tokenizer(limit: int = 300) -> Any:
    from transformers import GemmaTokenizer

    vocabulary = {
        token: index for index, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS])
    }
    return GemmaTokenizer(vocabulary, [], model_max_length=limit)


def mistral_tokenizer() -> Any:
    from transformers import LlamaTokenizer

    tokens = ["<unk>", "<s>", "</s>", "<pad>", "▁", *LETTERS]
    template = (
        "<s>{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
    )
    return LlamaTokenizer(
        {token: index for index, token in enumerate(tokens)}, [], pad_token="<pad>", model_max_length=1024,
        chat_template=template,
    )  # fmt: skip


def clip_encoder(vocabulary: int, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2,
        projection_dim=projection or 16, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )  # fmt: skip
    kind: Any = CLIPTextModel if projection is None else CLIPTextModelWithProjection
    return kind(config).eval()


def t5_encoder(vocabulary: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).eval()


def autoencoder(levels: int = 2) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, norm_num_groups=4, latent_channels=4, sample_size=32,
        use_quant_conv=False, use_post_quant_conv=False,
        shift_factor=0.1, scaling_factor=0.5,
    ).eval()  # fmt: skip


def flow_scheduler(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def flux(guidance: bool = True) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        flow_scheduler(), autoencoder(), clip_encoder(len(clip)), clip, t5_encoder(len(t5)), t5,
        FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
        ),
    )  # fmt: skip


def flux2() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2Pipeline, Flux2Transformer2DModel
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    tokenizer = mistral_tokenizer()
    text = {
        "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 30, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": 32, "patch_size": 16, "head_dim": 8,
    }  # fmt: skip
    encoder = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)).eval()
    return Flux2Pipeline(
        flow_scheduler(),
        AutoencoderKLFlux2(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4, sample_size=32,
        ).eval(),
        encoder, tokenizer,
        Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2),
        ),
    )  # fmt: skip


def flux2_klein(distilled: bool = True) -> Any:
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3Config, Qwen3ForCausalLM

    large, tokenizer = flux2(), qwen_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=28, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    return Flux2KleinPipeline(
        large.scheduler,
        large.vae,
        Qwen3ForCausalLM(config).eval(),
        tokenizer,
        large.transformer,
        is_distilled=distilled,
    )


def stable_diffusion_3(dual: tuple[int, ...] = (0,)) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    return StableDiffusion3Pipeline(
        SD3Transformer2DModel(
            sample_size=16, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32, pos_embed_max_size=16,
            dual_attention_layers=dual, qk_norm="rms_norm",
        ),
        flow_scheduler(), autoencoder(), clip_encoder(len(clip), 16), clip, clip_encoder(len(clip), 16),
        clip_tokenizer(), t5_encoder_of(32, len(t5)), t5,
    )  # fmt: skip


def t5_encoder_of(width: int, vocabulary: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).eval()


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    return ZImagePipeline(
        flow_scheduler(), autoencoder(), Qwen3Model(config).eval(), tokenizer,
        ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
            axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64],
        ),
    )  # fmt: skip


def qwen_image() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()
    return QwenImagePipeline(
        flow_scheduler(use_dynamic_shifting=True),
        AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ).eval(),
        encoder, tokenizer,
        QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
        ),
    )  # fmt: skip


def pixart(sigma: bool = True) -> Any:
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    t5 = t5_tokenizer()
    return (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        tokenizer=t5, text_encoder=t5_encoder(len(t5)), vae=autoencoder(levels=4),
        transformer=PixArtTransformer2DModel(
            sample_size=32, num_layers=1, num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
            cross_attention_dim=16, caption_channels=16, use_additional_conditions=False, norm_num_groups=4,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


def sana() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    blocks = {f"{side}_block_types": ("ResBlock", "ResBlock") for side in ("encoder", "decoder")}
    sizes = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    layers = {f"{side}_layers_per_block": (1, 1) for side in ("encoder", "decoder")}
    scales = {f"{side}_qkv_multiscales": ((), ()) for side in ("encoder", "decoder")}
    return SanaPipeline(
        tokenizer, Gemma2Model(config).eval(),
        AutoencoderDC(latent_channels=4, attention_head_dim=2, **blocks, **sizes, **layers, **scales,
                      upsample_block_type="interpolate", downsample_block_type="stride_conv").eval(),
        SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=8,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
            sample_size=16,
        ),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    )  # fmt: skip


def prx() -> Any:
    from diffusers import PRXPipeline, PRXTransformer2DModel
    from transformers import T5GemmaConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    tokenizer = gemma_tokenizer(64)
    module = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    }  # fmt: skip
    config = T5GemmaConfig(encoder=module, decoder=module, is_encoder_decoder=False)
    pipeline = PRXPipeline(
        PRXTransformer2DModel(
            in_channels=4, patch_size=2, context_in_dim=16, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=1,
            axes_dim=[4, 4],
        ),
        flow_scheduler(), T5GemmaEncoder(config.encoder).eval(), tokenizer, autoencoder(levels=4),
        default_sample_size=256,
    )  # fmt: skip
    pipeline.config_of_the_whole = config
    return pipeline


def stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    clip = clip_tokenizer()
    return StableDiffusionXLPipeline(
        autoencoder(), clip_encoder(len(clip)), clip_encoder(len(clip), 16), clip, clip_tokenizer(),
        UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=64, cross_attention_dim=32, norm_num_groups=4,
        ),
        EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip


KINDS: dict[str, Callable[[], Any]] = {
    "FluxPipeline": flux,
    "Flux2Pipeline": flux2,
    "Flux2KleinPipeline": flux2_klein,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "ZImagePipeline": z_image,
    "QwenImagePipeline": qwen_image,
    "PixArtSigmaPipeline": pixart,
    "SanaPipeline": sana,
    "PRXPipeline": prx,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
}


def save(pipeline: Callable[[], Any], folder: Path) -> Path:
    """A pipeline of random weights, the same in every run, as a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = pipeline()
    made.save_pretrained(folder)
    if hasattr(made, "config_of_the_whole"):  # published with the configuration of encoder and decoder together
        made.config_of_the_whole.save_pretrained(folder / "text_encoder")
    return folder
