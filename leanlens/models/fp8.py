"""Linear layers whose products are computed in 8-bit floating point, on GPUs that have such arithmetic.

Comes in: a transformer. Goes out: the same transformer, the products of its attention and gated MLPs in float8 e4m3:
the weights once, each row by its own scale, the activations at every call, each token by its own scale; sums are
float32, answers in the dtype that came in. Modulation, embedders, norms and output keep their precision: coarse, they
show in pictures as a periodic grid.

An approximation: each product is off by about 4%. It takes no LoRA, and the weights cannot be had back.

Shapes: M tokens, K channels in, N channels out.
"""

from typing import Any

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
# Of a block, what is computed so.
LAYERS = (
    *("attn.img_qkv", "attn.txt_qkv", "attn.to_out.0", "attn.to_add_out"),
    *(f"{stream}_mlp.{part}" for stream in ("img", "txt") for part in ("w1", "w2", "w3")),
)


class Fp8Linear(nn.Module):
    """`y = x W^T + b` with both operands in float8.

    Args:
        linear: the layer it stands for; its bias is kept as it is.
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
    """Replace the products of `LAYERS`; the number of layers.

    Raises:
        ValueError: a device without float8 products, weights that are not plain, or sizes they do not take.
    """
    require_fp8(transformer.device)
    chosen = []
    for block in transformer.transformer_blocks:
        for name in LAYERS:
            linear = block.get_submodule(name)
            if not isinstance(linear, nn.Linear):
                raise ValueError(f"fp8 is not accepted: {name} is a {type(linear).__name__}, not a plain linear layer")
            if linear.in_features % 16 or linear.out_features % 16:
                raise ValueError(
                    f"fp8 is not accepted: {name} is {linear.out_features} x {linear.in_features}, and both must be "
                    "multiples of 16"
                )
            chosen.append((block, name, linear))
    for block, name, linear in chosen:
        block.set_submodule(name, Fp8Linear(linear))
    return len(chosen)


def require_fp8(device: torch.device) -> None:
    """Raise a ValueError unless the device multiplies float8: CUDA from compute capability 8.9 on; the CPU emulates."""
    if device.type == "cpu":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(f"fp8 is not accepted on {device}: it needs a GPU of compute capability 8.9 or more")


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K) -> float8 (M, K) and the scales (M, 1) float32 that give the rows back."""
    scale = rows.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FP8), scale
