"""Builds the optimisers of a recipe, and computes the learning rate of each step.

Sources: AdamW, constant rate and betas are the paper's (Lens, arXiv 2605.21573, section 3); Muon scaled to AdamW's
update size, arXiv 2502.16982.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leanlens.train.config import Optim


def build_optimizers(model: nn.Module, optim: Optim, counted: int = 0) -> list[torch.optim.Optimizer]:
    """One AdamW, or Muon for the matrices of attention and MLP and AdamW for the rest.

    Vectors (biases, norms) have no weight decay. Every group remembers its full rate as `peak_lr`. Every weight has its
    moments from the start, zeros, so that a checkpoint before the first step holds them.

    Args:
        counted: steps that AdamW's bias correction counts before the first.

    Raises:
        ValueError: `matrices = "muon"` with a torch that has none.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    by_muon = {name for name, weight in named if optim.matrices == "muon" and _is_block_matrix(name, weight)}
    rest = [(name, weight) for name, weight in named if name not in by_muon]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": [weight for _, weight in rest if weight.ndim > 1], "weight_decay": optim.weight_decay},
                {"params": [weight for _, weight in rest if weight.ndim < 2], "weight_decay": 0.0},
            ],
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            fused=all(weight.device.type == "cpu" for _, weight in rest) or None,  # None leaves it to torch
        )
    ]
    if by_muon:
        optimizers.append(_muon([weight for name, weight in named if name in by_muon], optim))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        _begin(optimizer, counted)
    return optimizers


def _begin(optimizer: torch.optim.Optimizer, counted: int) -> None:
    """Create the moments of every weight: by a step with zero gradients and rate 0, which changes nothing else."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"]
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(counted)


def set_rate(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Every group's learning rate becomes its full rate times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def rate_factor(step: int, optim: Optim) -> float:
    """Factor of the learning rate for update number `step`, counted from 0; 1 at the peak of the schedule."""
    if step < optim.warmup:
        return (step + 1) / optim.warmup
    if optim.schedule == "constant" or optim.length is None:
        return 1.0
    start = optim.warmup if optim.schedule == "cosine" else round(optim.length * (1 - optim.cooldown))
    done = min(max((step - start) / max(optim.length - start, 1), 0.0), 1.0)
    left = (1 + math.cos(math.pi * done)) / 2 if optim.schedule == "cosine" else 1 - done
    return optim.floor + (1 - optim.floor) * left


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale all gradients so that their joint norm is at most `limit`; the norm before, also of sharded ones."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    full = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(full)


def _is_block_matrix(name: str, weight: Tensor) -> bool:
    """Modulation, embedders and the ends stay with AdamW: each of their rows acts alone."""
    return weight.ndim == 2 and name.startswith("transformer_blocks.") and "_mod." not in name


def _muon(matrices: list[Tensor], optim: Optim) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"optim.matrices 'muon' needs torch 2.9 or newer, this is {torch.__version__}; use 'adamw'")
    from leanlens.train.muon import StackedMuon  # needs torch's Muon, which is checked above

    is_sharded = any(hasattr(weight, "full_tensor") for weight in matrices)
    kind = torch.optim.Muon if is_sharded else StackedMuon
    return kind(matrices, lr=optim.muon_lr, weight_decay=optim.weight_decay, adjust_lr_fn="match_rms_adamw")
