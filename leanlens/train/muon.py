"""Muon for many small matrices: torch's own optimiser, with all matrices of one shape in one Newton-Schulz iteration.

torch's update launches some 30 kernels for each matrix, and a large device with a small model waits for them. Stacked,
an update is a handful of products for each shape.

Shapes: K matrices of one shape, (K, N, M) together.

Source: Muon, arXiv 2502.16982; steps and constants are torch's.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon`, whose arguments and state it has, on matrices that are whole on one device."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every matrix that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[tuple(weight.shape)].append(weight)
            for shape, weights in alike.items():
                self._update(weights, group, 0.2 * max(shape) ** 0.5)
        return loss

    def _update(self, weights: Sequence[Tensor], group: dict[str, Any], size: float) -> None:
        """`size` brings the root mean square of an update to AdamW's."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight, gradient in zip(weights, gradients, strict=True):
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        whole = orthogonal(torch.stack(list(updates)), group["ns_coefficients"], group["ns_steps"], group["eps"])
        torch._foreach_mul_(list(weights), 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(list(weights), list(whole.to(weights[0].dtype).unbind()), alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest matrix with singular values of about 1 to each of (K, N, M), in bfloat16."""
    a, b, c = coefficients
    x = matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
