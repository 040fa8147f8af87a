"""Linear layers on a processor, their weights laid out beforehand as oneDNN multiplies them.

Comes in: a module with linear layers on the CPU. Goes out: the same module, same names, same weights, whose products
run on a second copy of each weight in blocked order. Without it every float32 product goes through MKL, which does
poorly on processors of other makers, and every bfloat16 product reorders its weight anew. The sums are the same to
rounding; the price is the copies.

A weight that is changed in place afterwards is noticed and multiplied plainly; so is one that is moved, cast, or that
learns. What changes a weight behind torch's back (`weight.data +=`, as fusing a LoRA does) is not: see `restored`.

Knows nothing of what the layers are for.
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

ROWS = 1024  # a hint about the other operand; the order is as good for other numbers


@dataclass(frozen=True)
class _Order:
    """`plain` shares the memory and the version of the weight, and keeps its address from being used again."""

    plain: Tensor
    version: int
    blocked: Tensor


_ORDERS: dict[int, _Order] = {}  # address of a weight -> its blocked copy


class ReorderedLinear(nn.Linear):
    """An `nn.Linear` in everything but the route of its product."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            return F.linear(input, self.weight, self.bias)
        if torch.compiler.is_compiling():
            return torch.ops.leanlens.reordered_linear(input, self.weight, self.bias)
        return _product(input, self.weight, self.bias)


def reorder(module: nn.Module) -> int:
    """Lay out the weights of every linear layer of `module` that lies on the CPU; the number of layers.

    Nothing is done, and 0 returned, where torch comes without oneDNN.
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
    """Undo `reorder`: plain layers again, the copies gone."""
    layers: list[Any] = [layer for layer in module.modules() if type(layer) is ReorderedLinear]
    for layer in layers:
        layer.__class__ = nn.Linear
        layer._forget_order()
        del layer._forget_order


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Plain layers within, for what changes weights in place; laid out anew after it, if they were."""
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
    is_plain = weight.is_contiguous() and not weight.is_inference()  # those have no version to tell a change by
    return weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16) and is_plain


@lru_cache(maxsize=1)
def _can_reorder() -> bool:
    """The two operators are those that torch's own compiler emits; they are tried before they are relied on."""
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
    """Compilers take the product as it is and fuse what lies between; registered when first needed."""
    library = torch.library.Library("leanlens", "FRAGMENT")
    library.define("reordered_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
    library.impl("reordered_linear", _product, "CPU")
    torch.library.register_fake("leanlens::reordered_linear", _shape_only, lib=library)
    return library


def _shape_only(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
