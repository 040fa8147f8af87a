"""Where things run: device, dtype and tiling of an opened pipeline.

Comes in: a pipeline and what was asked for. Goes out: the pipeline, placed. Knows nothing of prompts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Decoding in tiles changes pixels near the seams, so no size the released Lens draws is tiled: its largest bucket has
# 8,450 tokens (1040 x 2080).
TILE_ABOVE_TOKENS = 8450

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def compute_device(module: Any) -> torch.device:
    """The device a module computes on, which differs from where its weights lie while they are offloaded."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    from diffusers.hooks.group_offloading import _get_group_onload_device, _is_group_offload_enabled

    if _is_group_offload_enabled(module):
        return _get_group_onload_device(module)
    return next(module.parameters()).device


@contextmanager
def tiled_decoding(vae: Any, grid: tuple[int, int]) -> Iterator[None]:
    """Decode in tiles within this block if the (h, w) grid of tokens is larger than any official picture."""
    asked = vae.use_tiling
    try:
        if grid[0] * grid[1] > TILE_ABOVE_TOKENS:
            vae.enable_tiling()
        yield
    finally:
        vae.use_tiling = asked


def resolve_device(name: str | None) -> torch.device:
    """`name` as a torch device; None or "auto" takes cuda, then mps, then cpu.

    Raises:
        ValueError: a device this machine does not have.
    """
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); give cpu, cuda, cuda:0 or mps") from None
    return device


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """`name` as a dtype; None or "auto" takes bfloat16, or float32 on a processor that has no bfloat16 arithmetic.

    Raises:
        ValueError: an unknown name.
    """
    if name in (None, "auto"):
        return torch.float32 if device.type == "cpu" and not _cpu_has_bfloat16() else torch.bfloat16
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not accepted; use one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _cpu_has_bfloat16() -> bool:
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag)() for flag in flags if hasattr(torch.cpu, flag))
