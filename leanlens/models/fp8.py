"""Computes the attention and gated MLP products of a transformer in float8 e4m3, on GPUs that support it.

Weights are converted once with one scale per row, activations at every call with one scale per token; sums are float32,
and outputs have the input's dtype. Modulation, embedders, norms and output keep their precision: in float8 they cause a
periodic grid in images.

This is an approximation: each product has an error of about 4%. It does not support LoRAs and cannot be undone.

Shapes: M tokens, K channels in, N channels out.
"""

from typing import Any

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
# Layers of a block that are computed in float8.
LAYERS = (
    *("attn.img_qkv", "attn.txt_qkv", "attn.to_out.0", "attn.to_add_out"),
    *(f"{stream}_mlp.{part}" for stream in ("img", "txt") for part in ("w1", "w2", "w3")),
)


class Fp8Linear(nn.Module):
    """`y = x W^T + b` with both operands in float8.

    Args:
        linear: the layer to replace; its bias is kept.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = _scaled(linear.weight.detach())
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", weight)  # (N, K)
        self.register_buffer("scale", scale.t())  # (1, N), float32
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.out_features)
        rows, scale = _scaled(x.reshape(-1, self.in_features))
        product = torch._scaled_mm(rows, self.weight.t(), scale, self.scale, out_dtype=torch.bfloat16)
        product = product.to(x.dtype).unflatten(0, x.shape[:-1])
        return product if self.bias is None else product + self.bias


def compute_in_fp8(transformer: Any) -> int:
    """Replace the layers in `LAYERS` and return their number.

    Raises:
        ValueError: the device does not support float8, or a layer is not a plain linear one with suitable sizes.
    """
    require_fp8(transformer.device)
    chosen = []
    for block in transformer.transformer_blocks:
        for name in LAYERS:
            linear = block.get_submodule(name)
            if not isinstance(linear, nn.Linear):
                raise ValueError(f"fp8 is not possible: {name} is a {type(linear).__name__}, not a plain linear layer")
            if linear.in_features % 16 or linear.out_features % 16:
                raise ValueError(
                    f"fp8 is not possible: {name} is {linear.out_features} x {linear.in_features}, and both must be "
                    "multiples of 16"
                )
            chosen.append((block, name, linear))
    for block, name, linear in chosen:
        block.set_submodule(name, Fp8Linear(linear))
    return len(chosen)


def require_fp8(device: torch.device) -> None:
    """Raise a ValueError unless the device supports float8: CUDA from compute capability 8.9, or the CPU (emulated)."""
    if device.type == "cpu":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(f"fp8 is not possible on {device}: it needs a GPU of compute capability 8.9 or more")


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K) -> float8 (M, K) and float32 scales (M, 1); value = code * scale."""
    scale = rows.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FP8), scale
