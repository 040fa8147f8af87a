"""Compiles modules for training if that keeps their gradients and saves time.

A compiler may be right for one network and device and wrong for the next (docs/log.md has a case with gradients of
zero), so every compilation is tested on a trial loss.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from leanlens.log import logger

MAX_ERROR = 0.2  # of the length of a parameter's gradient; bfloat16 alone makes 0.03 to 0.17
TIMED = 3  # calls, of which the fastest counts


def compile_checked(modules: Sequence[nn.Module], loss: Callable[[], Tensor]) -> bool:
    """Compile modules in place; undo it, with a message, if their gradients change or take as long as before.

    Args:
        modules: at least one, with parameters that need gradients.
        loss: a scalar that depends on them and on nothing that changes from call to call. Their gradients are cleared.

    Returns:
        Whether they are compiled now.
    """
    parameters = [value for module in modules for value in module.parameters() if value.requires_grad]
    before, seconds_before = _gradients(loss, parameters)
    try:
        for module in modules:
            module.compile()
        after, seconds_after = _gradients(loss, parameters)
    except Exception as failure:  # any failure of the compiler: the modules work without it
        return _give_up(modules, f"{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0]}")
    error = _difference(before, after)
    took = f"a step takes {seconds_after:.3f} s instead of {seconds_before:.3f}"
    if not error <= MAX_ERROR:
        return _give_up(modules, f"gradients are off by {error:.2f} of their length")
    if seconds_after >= seconds_before:
        return _give_up(modules, took)
    logger.info("compiled: %s, gradients agree to %.3f", took, error)
    return True


def undo_compile(modules: Iterable[nn.Module]) -> None:
    """Let modules run as they were written; nothing where they were not compiled."""
    for module in modules:
        module._compiled_call_impl = None  # what `Module.compile` sets; torch has no call that takes it back


def _give_up(modules: Iterable[nn.Module], why: str) -> bool:
    undo_compile(modules)
    logger.info("not compiled: %s", why)
    return False


def _gradients(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> tuple[list[Tensor], float]:
    """The gradients, and the seconds that they take once everything is warm."""
    seconds = []
    for _ in range(TIMED + 1):
        _clear(parameters)
        _wait(parameters[0])
        began = time.perf_counter()
        loss().backward()
        _wait(parameters[0])
        seconds.append(time.perf_counter() - began)
    found = [torch.zeros_like(value) if value.grad is None else value.grad.clone() for value in parameters]
    _clear(parameters)
    return found, min(seconds[1:])


def _clear(parameters: Iterable[nn.Parameter]) -> None:
    for value in parameters:
        value.grad = None


def _wait(value: Tensor) -> None:
    if value.device.type == "cuda":
        torch.cuda.synchronize(value.device)


def _difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest over the parameters that matter, 1 % of the longest at least, in parts of their own length."""
    lengths = [float(value.norm()) for value in before]
    least = 0.01 * max(lengths)
    off = [
        float((one - other).norm()) / length
        for one, other, length in zip(before, after, lengths, strict=True)
        if length > least
    ]
    return max(off, default=0.0)
