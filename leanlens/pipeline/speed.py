"""Makes an opened pipeline faster; `docs/speed.md` has the numbers.

Some ways give the same image up to rounding: attention kernels, compiled blocks, CUDA graphs, weight layouts for
processors, channels-last convolutions. Others change the image: float8 products, step caches, guidance on only a part
of the steps. These are off unless they are asked for, and are recorded in the image's file.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from leanlens.log import warn_once

# Word -> what the number behind its colon is, and the number without one.
CACHES = {
    "first-block": ("threshold", 0.1),
    "taylor": ("interval", 2.0),
    "taylor-lite": ("interval", 2.0),
}
GRAPHS = 32  # of one block: with and without text, one picture and several, padded or not, and as many sizes of weights


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Settings that make drawing faster.

    Attributes:
        attention: attention kernel by its name in diffusers ("_native_cudnn", "flash", "_flash_3", ...), "auto" for the
            best at hand, None for torch's own choice.
        graphs: with compiled blocks on a CUDA GPU, replay them as CUDA graphs; pays where launching takes longer than
            computing, at 512 pixels and below.
        decoder: with compiled blocks, compile the autoencoder's decoder too, anew for every size of picture.
        fp8: products of attention and MLPs in float8 (`models/fp8.py`).
        cache: a step cache, "first-block:THRESHOLD", "taylor:INTERVAL" or "taylor-lite:INTERVAL".
        guided_share: share of the steps, counted from the first, that use guidance.

    Raises:
        ValueError: an invalid value.
    """

    attention: str | None = None
    graphs: bool = False
    decoder: bool = False
    fp8: bool = False
    cache: str | None = None
    guided_share: float = 1.0

    def __post_init__(self) -> None:
        check_guided_share(self.guided_share)
        if self.cache is not None:
            read_cache(self.cache)

    def conditions(self) -> dict[str, Any]:
        """The settings that can change an image; defaults are left out."""
        return {name: value for name, value in vars(self).items() if value != getattr(Speed, name)}

    @classmethod
    def of_record(cls, run: Mapping[str, Any]) -> "Speed":
        """The settings in an image's record, so that it can be drawn again."""
        return cls(**{name: run[name] for name in vars(cls()) if name in run})


def apply_speed(pipeline: Any, device: torch.device, speed: Speed, compiled: bool) -> None:
    """Apply speed settings to a pipeline.

    Raises:
        ValueError: a setting that this device or these weights do not support, or that cannot be combined.
    """
    transformer = pipeline.transformer
    if compiled and speed.cache is not None:
        raise ValueError(f"cache {speed.cache!r} cannot be combined with compile; leave one of them out")
    if speed.graphs and not (compiled and device.type == "cuda"):
        raise ValueError("graphs need compile and a CUDA device; leave it out, or give both")
    if speed.decoder and not compiled:
        raise ValueError("decoder needs compile, and a C++ compiler on a processor; leave it out, or give both")
    if next(pipeline.vae.parameters()).device.type == device.type:  # not where it waits elsewhere
        pipeline.vae.to(memory_format=torch.channels_last)  # the order that convolutions are computed in
    if speed.attention is not None:
        transformer.set_attention_backend(best_attention(device) if speed.attention == "auto" else speed.attention)
    if speed.fp8:
        from leanlens.models.fp8 import compute_in_fp8

        compute_in_fp8(transformer)
    if speed.cache is not None:
        transformer.enable_cache(cache_config(speed.cache))
    if compiled:
        compile_blocks(transformer, device, speed.graphs)
    if speed.decoder:
        compile_decoder(pipeline.vae)


def compile_blocks(transformer: Any, device: torch.device, graphs: bool = False, backend: Any = "inductor") -> None:
    """Compile the repeated block once for all sizes of picture and text.

    On a processor its weights are laid out first, and its attention written out unless a kernel was chosen.
    """
    if device.type == "cpu":
        from leanlens.models.attention import write_out_attention
        from leanlens.models.onednn import reorder

        reorder(transformer)
        if all(block.attn.processor._attention_backend is None for block in transformer.transformer_blocks):
            write_out_attention(transformer, one_by_one=True)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    options = {"mode": "reduce-overhead", "dynamic": False} if graphs else {"dynamic": True}
    transformer.compile_repeated_blocks(fullgraph=True, backend=backend, **options)


def compile_decoder(vae: Any, backend: Any = "inductor") -> None:
    """Compile the decoder of an autoencoder where it is, a graph for every size."""
    vae.decoder.compile(backend=backend, dynamic=False)


def best_attention(device: torch.device) -> str:
    """The fastest kernel for unmasked attention at head width 64 that is installed; nothing is downloaded.

    By the rates of the FlashAttention papers on H100: FlashAttention-3 476 TFLOP/s, cuDNN 408, FlashAttention-2 321.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        from diffusers.utils import is_flash_attn_3_available

        return "_flash_3" if is_flash_attn_3_available() else "_native_cudnn"
    return "native"


def check_guided_share(share: float) -> None:
    """Raise a ValueError unless `share` is above 0 and up to 1."""
    if not 0 < share <= 1:
        raise ValueError(f"invalid guided_share {share}: expected a number above 0 and up to 1")


def read_cache(text: str) -> tuple[str, float]:
    """A cache's name and its number.

    Raises:
        ValueError: an unknown name, or an invalid number.
    """
    match = re.fullmatch(r"([a-z-]+)(?::(\d+(?:\.\d+)?|\.\d+))?", text)
    name = match[1] if match else text
    if match is None or name not in CACHES:
        known = ", ".join(f"{known}:{what.upper()}" for known, (what, _) in CACHES.items())
        raise ValueError(f"invalid cache {text[:60]!r}: expected one of {known}")
    what, usual = CACHES[name]
    number = usual if match[2] is None else float(match[2])
    if what == "interval" and (number != int(number) or number < 2):
        raise ValueError(f"invalid cache {text!r}: expected an integer from 2 as its interval")
    return name, number


def cache_config(text: str) -> Any:
    """The configuration of a step cache for diffusers."""
    from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

    name, number = read_cache(text)
    if name == "first-block":
        return FirstBlockCacheConfig(threshold=number)
    return TaylorSeerCacheConfig(cache_interval=int(number), use_lite_mode=name == "taylor-lite")


def can_compile(device: torch.device) -> bool:
    """Whether blocks can be compiled for a device; warns once where a processor lacks a C++ compiler."""
    if device.type != "cpu":
        return True
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if any(shutil.which(compiler) for compiler in compilers if compiler):
        return True
    warn_once("No C++ compiler was found, so the model runs uncompiled; install g++, clang++ or MSVC to compile it.")
    return False
