"""Reorders the weights of CPU linear layers once into oneDNN's blocked layout, which makes their products faster.

Names and weights stay; the products use a second copy of each weight in blocked order. Without it, every float32
product goes through MKL, which is slow on CPUs of other vendors, and every bfloat16 product reorders its weight again.
Results are equal up to rounding; the price is the memory of the copies.

Layers whose weight is later modified in place, moved, cast or trained use the plain product. A change that torch does
not track (`weight.data +=`, as in fusing a LoRA) is not noticed: see `restored`.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 1024  # a hint about the other operand; the layout is as good for other numbers


@dataclass(frozen=True)
class _Order:
    """A blocked copy. `plain` shares the memory and version of the weight, so that its address is not reused."""

    plain: Tensor
    version: int
    blocked: Tensor


_ORDERS: dict[int, _Order] = {}  # address of a weight -> its blocked copy


class ReorderedLinear(nn.Linear):
    """An `nn.Linear` that computes its product with the blocked copy of its weight."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            return F.linear(input, self.weight, self.bias)
        if torch.compiler.is_compiling():
            return torch.ops.leanlens.reordered_linear(input, self.weight, self.bias)
        return _product(input, self.weight, self.bias)


def reorder(module: nn.Module) -> int:
    """Reorder the weights of every CPU linear layer of `module` and return their number.

    Returns 0 and does nothing if torch has no oneDNN.
    """
    if not _can_reorder():
        return 0
    _register_for_compilers()
    layers: list[Any] = [layer for layer in module.modules() if type(layer) is nn.Linear and _fits(layer.weight)]
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight.detach()
            blocked = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
            _ORDERS[weight.data_ptr()] = _Order(weight, weight._version, blocked)
            layer.__class__ = ReorderedLinear
            layer._forget_order = weakref.finalize(layer, _ORDERS.pop, weight.data_ptr(), None)
    return len(layers)


def restore(module: nn.Module) -> None:
    """Undo `reorder` and free the copies."""
    layers: list[Any] = [layer for layer in module.modules() if type(layer) is ReorderedLinear]
    for layer in layers:
        layer.__class__ = nn.Linear
        layer._forget_order()
        del layer._forget_order


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Use plain layers inside the block, for code that modifies weights in place; reorder them again afterwards."""
    was_reordered = any(type(layer) is ReorderedLinear for layer in module.modules())
    restore(module)
    try:
        yield
    finally:
        if was_reordered:
            reorder(module)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    order = _ORDERS.get(weight.data_ptr())
    if order is None or order.version != weight._version or x.dtype != weight.dtype or not x.numel():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, order.blocked, bias, "none", [], "")


def _fits(weight: Tensor) -> bool:
    is_plain = weight.is_contiguous() and not weight.is_inference()  # inference tensors have no version counter
    return weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and is_plain


@lru_cache(maxsize=1)
def _can_reorder() -> bool:
    """Whether the two operators, which torch's compiler emits as well, work in this build of torch."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        weight, x = torch.eye(16), torch.arange(32.0).reshape(2, 16)
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, blocked, None, "none", [], ""), x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


@lru_cache(maxsize=1)
def _register_for_compilers() -> Any:
    """Register the product as a custom operator, on first use, so that compilers treat it as opaque."""
    library = torch.library.Library("leanlens", "FRAGMENT")
    library.define("reordered_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
    library.impl("reordered_linear", _product, "CPU")
    torch.library.register_fake("leanlens::reordered_linear", _shape_only, lib=library)
    return library


def _shape_only(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
