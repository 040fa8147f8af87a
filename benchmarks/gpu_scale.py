"""Builds the networks, inputs and cases of the GPU benchmark, at full size with random weights or as a tiny version.

The tiny version uses the same classes and calls, so that the benchmark can be tested on a CPU in a minute.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from transformers import GptOssConfig

from leanlens.flow.schedule import empirical_mu, linear_sigmas
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.features import TextFeatures
from leanlens.plan.compute import DenoiserSizes


@dataclass(frozen=True)
class Draw:
    """A picture, or a batch of them: side in pixels, steps, guidance scale, pictures."""

    side: int
    steps: int
    guidance: float
    batch: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        return self.side // 16, self.side // 16

    @property
    def title(self) -> str:
        many = f", batch {self.batch}" if self.batch > 1 else ""
        return f"{self.side} x {self.side}, {self.steps} steps, guidance {self.guidance:g}{many}"


@dataclass(frozen=True)
class Scale:
    """`train`: side -> numbers of pictures in a step, the largest that fits is taken; `products`: (rows, in, out)."""

    transformer: dict[str, Any]
    encoder: dict[str, Any]
    vae: dict[str, Any]
    draws: tuple[Draw, ...]
    small: Draw
    train: dict[int, tuple[int, ...]]
    products: tuple[tuple[int, int, int], ...]
    text_tokens: int
    prompt_tokens: int
    copied_bytes: int
    repeats: int
    backend: str = "inductor"
    sizes: DenoiserSizes = field(default_factory=DenoiserSizes)


FULL = Scale(
    transformer={},
    encoder={
        "num_hidden_layers": 24, "num_local_experts": 32, "num_experts_per_tok": 4, "vocab_size": 201088,
        "hidden_size": 2880, "intermediate_size": 2880, "head_dim": 64, "num_attention_heads": 64,
        "num_key_value_heads": 8, "sliding_window": 128,
    },
    vae={},
    draws=(
        Draw(1024, 20, 5), Draw(1024, 4, 1), Draw(1440, 20, 5), Draw(1440, 4, 1), Draw(1024, 4, 1, 4),
        Draw(1024, 20, 5, 4),
    ),
    small=Draw(512, 20, 5),
    train={512: (16, 8, 4), 768: (8, 4, 2), 1024: (4, 2, 1)},
    products=((4246, 1536, 4608), (4246, 1536, 4096), (4246, 4096, 1536), (8192, 8192, 8192)),
    text_tokens=150,
    prompt_tokens=250,
    copied_bytes=4 * 2**30,
    repeats=3,
)  # fmt: skip
_TINY_HEADS = 3  # width 192, MLP 512: sizes that float8 products take
TINY = Scale(
    transformer={
        "num_layers": 2, "num_attention_heads": _TINY_HEADS, "enc_hidden_dim": 48, "selected_layer_index": (0, 1, 2, 3),
    },
    encoder={
        "num_hidden_layers": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 64, "hidden_size": 48,
        "intermediate_size": 48, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "sliding_window": 8, "pad_token_id": 1, "lens_selected_layers": [0, 1, 2, 3],
    },
    vae={"block_out_channels": (16, 16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 64},
    draws=(Draw(64, 3, 5), Draw(64, 2, 1), Draw(96, 2, 1, 2)),
    small=Draw(32, 2, 5),
    train={32: (2, 1), 64: (1,)},
    products=((64, 192, 576),),
    text_tokens=5,
    prompt_tokens=9,
    copied_bytes=2**20,
    repeats=1,
    backend="eager",
    sizes=DenoiserSizes(layers=2, width=64 * _TINY_HEADS, text_channels=4 * 48),
)  # fmt: skip
SCALES = {"full": FULL, "tiny": TINY}


@contextmanager
def _made(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """What is built within is made on the device and in the dtype at once."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def build_transformer(scale: Scale, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    torch.manual_seed(0)
    with _made(device, dtype):
        return LensTransformer2DModel(**scale.transformer).eval().requires_grad_(False)


def build_encoder(scale: Scale, device: torch.device) -> Any:
    """The text encoder, experts in bfloat16 (40 GB at full size): MXFP4 kernels cannot be had without network."""
    with _made(device, torch.bfloat16):
        encoder = LensGptOssEncoder(GptOssConfig(**scale.encoder)).eval().requires_grad_(False)
    for weight in encoder.parameters():
        weight.normal_(std=0.02)
    return encoder


def build_vae(scale: Scale, device: torch.device, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    with _made(device, dtype):
        vae = AutoencoderKLFlux2(**scale.vae).eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)


def make_text(scale: Scale, batch: int, device: torch.device, dtype: torch.dtype) -> TextFeatures:
    width = scale.sizes.text_channels // 4
    layers = [torch.randn(batch, scale.text_tokens, width, device=device, dtype=dtype) for _ in range(4)]
    return TextFeatures(layers, torch.ones(batch, scale.text_tokens, dtype=torch.bool, device=device))


def make_scheduler(case: Draw) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    scheduler.set_timesteps(sigmas=linear_sigmas(case.steps), mu=empirical_mu(math.prod(case.grid), case.steps))
    scheduler.set_begin_index(0)
    return scheduler


def draw_with(transformer: Any, scale: Scale, case: Draw) -> Callable[[], torch.Tensor]:
    """A call without arguments that walks one drawing's noise levels, as the pipeline does."""
    from leanlens.pipeline.denoise import denoise

    device, dtype = transformer.device, transformer.dtype
    text = make_text(scale, case.batch, device, dtype)
    shape = (case.batch, math.prod(case.grid), scale.sizes.latent_channels)
    noise = torch.randn(shape, device=device, dtype=dtype)

    def run() -> torch.Tensor:
        scheduler = make_scheduler(case)
        return denoise(transformer, scheduler, noise, case.grid, text, text.without_text(), case.guidance)

    return run
