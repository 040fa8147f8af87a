"""Whether images fit into the free memory of a device whose model is open, and which size would fit instead.

Weights are on the device already and are not counted again.
"""

import math
from dataclasses import dataclass

from leanlens.plan.compute import MEAN_TEXT_TOKENS
from leanlens.plan.memory import (
    PREFIX_TOKENS,
    ModelSizes,
    decoding_bytes,
    denoising_bytes,
    element_bytes,
    encoding_bytes,
)
from leanlens.plan.rates import assumed


@dataclass(frozen=True)
class FreeMemory:
    """The free memory of a model's device.

    Attributes:
        free: free bytes.
        dtype: bfloat16, float16 or float32.
        kind: cpu, cuda, mps or xpu.
    """

    free: float
    dtype: str
    kind: str = "cpu"


def working_bytes(model: ModelSizes, memory: FreeMemory, height: int, width: int, pictures: int = 1) -> float:
    """Peak bytes of drawing `pictures` in one batch, without the weights; prompts are encoded one by one.

    Raises:
        ValueError: an unknown dtype.
    """
    element, fused = element_bytes(memory.dtype), memory.kind != "mps"
    scratch = assumed("scratch_cpu" if memory.kind == "cpu" else "scratch_gpu")
    encoding = encoding_bytes(model.encoder, MEAN_TEXT_TOKENS + PREFIX_TOKENS, element)
    tokens = height * width // 256
    denoising = denoising_bytes(model.denoiser, model.heads, tokens, MEAN_TEXT_TOKENS, element, fused)
    decoding = decoding_bytes(model.autoencoder, height, width, element, scratch, fused)
    return max(encoding, pictures * denoising, pictures * decoding)


def largest_batch(model: ModelSizes, memory: FreeMemory, height: int, width: int, most: int) -> int:
    """How many images of this size fit into one batch, at most `most`; 0 if not even one does."""
    fitting = (
        count for count in range(most, 0, -1) if working_bytes(model, memory, height, width, count) <= memory.free
    )
    return next(fitting, 0)


def largest_size(model: ModelSizes, memory: FreeMemory, height: int, width: int) -> tuple[int, int] | None:
    """(height, width) of the largest image of about this shape that fits, in multiples of 16, or None."""
    low, high = 0, max(height, width) // 16  # the longer side in tokens; what needs more never needs less memory
    while low < high:
        middle = (low + high + 1) // 2
        size = _shaped(height, width, middle)
        low, high = (middle, high) if working_bytes(model, memory, *size) <= memory.free else (low, middle - 1)
    return _shaped(height, width, low) if low else None


def _shaped(height: int, width: int, longer: int) -> tuple[int, int]:
    """The size of this shape whose longer side is `longer` tokens."""
    factor = longer * 16 / max(height, width)
    return tuple(max(16, math.floor(side * factor / 16 + 1e-9) * 16) for side in (height, width))  # type: ignore[return-value]
