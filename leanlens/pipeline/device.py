"""Device and dtype by name, and the device that a module computes on."""

from typing import Any

import torch

from leanlens.plan import options

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in options.DTYPES}


def resolve_device(name: str | None) -> torch.device:
    """The torch device called `name`; None or "auto" is the first of cuda, mps and cpu that is there.

    Raises:
        ValueError: a device this machine does not have.
    """
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        usable = device.type in ("cpu", "cuda", "mps", "xpu") and (device.type != "cpu" or device.index is None)
        if usable:
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        usable = False
    if not usable:
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"device {name!r} cannot be used here; give auto, {', '.join(here)}")
    return device


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """`name` as a dtype; None or "auto" takes bfloat16, or float32 on a processor that has no bfloat16 arithmetic.

    Raises:
        ValueError: an unknown name.
    """
    if name in (None, "auto"):
        return torch.float32 if device.type == "cpu" and not _cpu_has_bfloat16() else torch.bfloat16
    name = options.SHORT_DTYPES.get(str(name), name)
    if name not in DTYPES:
        raise ValueError(f"invalid dtype {name!r}: expected one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """torch.bfloat16 -> "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def compute_device(module: Any) -> torch.device:
    """The device that a module computes on; offloaded weights may lie on another."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    from diffusers.hooks.group_offloading import _get_group_onload_device, _is_group_offload_enabled

    if _is_group_offload_enabled(module):
        return _get_group_onload_device(module)
    return next(module.parameters()).device


def _cpu_has_bfloat16() -> bool:
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag)() for flag in flags if hasattr(torch.cpu, flag))
