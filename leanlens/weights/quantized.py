"""Decodes MXFP4, MXFP8, NVFP4, FP8, INT8, INT4 and NF4 weights, and encodes all of these except MXFP4 and NVFP4.

Shapes: E experts, N output rows, K input columns; G groups of columns that share a scale.

Sources: OCP Microscaling Formats (MX) v1.0 for E2M1, E4M3 and E8M0; NVIDIA's cuBLAS documentation, "1D block scaling
factors layout", for the order of the scales in MXFP8 and NVFP4 files; QLoRA, arXiv 2305.14314, appendix E, for the
levels of NF4; ComfyUI for FP8 with one scale and INT8 with one for each row.
"""

from functools import lru_cache
from math import nan

import torch
from torch import Tensor

# Code 0..15 of E2M1: one sign bit, two exponent bits, one mantissa bit.
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
# Code 0..255 of E8M0: a power of two; 255 is not a number.
E8M0_VALUES = (*(2.0 ** (code - 127) for code in range(255)), nan)

TILE_ROWS, TILE_COLUMNS = 128, 4

E4M3_MAX = 448.0
GROUP = 64  # values that share a scale in INT4 and NF4
# Quantiles of the normal distribution, scaled to -1..1, with an exact zero.
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def decode_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """MXFP4, groups of 32 values in 16 bytes: (..., G, 16) uint8 and (..., G) uint8 -> (..., 32 G) in `dtype`.

    The low half of a byte is the even element. Value = E2M1 * 2^(scale - 127).

    Raises:
        ValueError: shapes or dtypes that are not those of MXFP4.
    """
    _require_bytes("blocks", blocks)
    _require_bytes("scales", scales)
    if blocks.ndim < 2 or blocks.shape[-1] != 16 or blocks.shape[:-1] != scales.shape:
        raise ValueError(
            f"blocks {tuple(blocks.shape)} and scales {tuple(scales.shape)} are not MXFP4; "
            "expected (..., G, 16) and (..., G)"
        )
    values = _e2m1(blocks, high_first=False) * _e8m0(scales).unsqueeze(-1)  # (..., G, 32)
    return values.flatten(-2).to(dtype)


def decode_mxfp8(weight: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """MXFP8, groups of 32 columns: (..., N, K) float8_e4m3fn and swizzled E8M0 scales -> (..., N, K) in `dtype`.

    Raises:
        ValueError: shapes or dtypes that are not those of MXFP8.
    """
    if weight.dtype != torch.float8_e4m3fn or weight.ndim < 2 or weight.shape[-1] % 32:
        raise ValueError(
            f"weight {weight.dtype} {tuple(weight.shape)} is not MXFP8; "
            "expected float8_e4m3fn with a multiple of 32 columns"
        )
    scales = scales.view(torch.uint8) if scales.dtype == torch.float8_e8m0fnu else scales
    _require_bytes("scales", scales)
    return decode_mxfp8_groups(weight, unswizzle(scales, weight.shape[-2], weight.shape[-1] // 32), dtype)


def decode_mxfp8_groups(weight: Tensor, groups: Tensor, dtype: torch.dtype) -> Tensor:
    """MXFP8 whose E8M0 scales are in plain order: (..., N, K) and (..., N, G) -> (..., N, K) in `dtype`."""
    values = weight.float().unflatten(-1, (-1, 32)) * _e8m0(groups).unsqueeze(-1)
    return values.flatten(-2).to(dtype)


def decode_nvfp4(packed: Tensor, block_scale: Tensor, tensor_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """NVFP4, groups of 16 columns: (..., N, K / 2) uint8 -> (..., N, K) in `dtype`.

    The high half of a byte is the even element, the opposite of MXFP4. Value = E2M1 * block_scale * tensor_scale.

    Args:
        block_scale: float8_e4m3fn, swizzled, one for each group.
        tensor_scale: float32, a single one or one for each leading index of `packed` (each expert).

    Raises:
        ValueError: shapes or dtypes that are not those of NVFP4.
    """
    _require_bytes("packed", packed)
    if block_scale.dtype != torch.float8_e4m3fn or packed.ndim < 2 or packed.shape[-1] % 8:
        raise ValueError(
            f"packed {tuple(packed.shape)} with {block_scale.dtype} scales is not NVFP4; "
            "expected a multiple of 16 columns and float8_e4m3fn scales"
        )
    lead = packed.shape[:-2]
    if tensor_scale.numel() not in (1, lead.numel()):
        raise ValueError(f"tensor_scale has {tensor_scale.numel()} values; expected 1 or {lead.numel()}")
    groups = unswizzle(block_scale, packed.shape[-2], packed.shape[-1] // 8).float()  # (..., N, G)
    whole = tensor_scale.float().reshape(lead if tensor_scale.numel() == lead.numel() else (1,) * len(lead))
    values = _e2m1(packed, high_first=True).unflatten(-1, (-1, 16)) * (groups * whole[..., None, None]).unsqueeze(-1)
    return values.flatten(-2).to(dtype)


def encode_mxfp8(values: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> float8_e4m3fn (N, K) and E8M0 codes (N, G), not swizzled; no group's largest value is clipped.

    Raises:
        ValueError: K is not a multiple of 32.
    """
    groups = _grouped("mxfp8", values, 32)
    largest = groups.abs().amax(-1)
    exponent = torch.ceil(torch.log2(largest / E4M3_MAX)).clamp(-127, 127)  # of zeros: -inf
    codes = (groups / torch.exp2(exponent).unsqueeze(-1)).flatten(-2).to(torch.float8_e4m3fn)
    return codes, (exponent + 127).to(torch.uint8)


def encode_fp8(values: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> float8_e4m3fn (N, K) and one float32 scale; value = code * scale."""
    scale = _positive(values.float().abs().amax() / E4M3_MAX)
    return (values.float() / scale).to(torch.float8_e4m3fn), scale


def encode_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> int8 (N, K) in -127..127 and a float32 scale for each row (N, 1); value = code * scale."""
    scale = _positive(values.float().abs().amax(-1, keepdim=True) / 127)
    return (values.float() / scale).round().to(torch.int8), scale


def decode_scaled(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """FP8 with one scale, or INT8 with one for each row -> (N, K) in `dtype`."""
    return (codes.float() * scale.float()).to(dtype)


def encode_int4(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K), groups of 64 columns -> codes 0..15 (N, K / 2), bfloat16 steps and lowest values (N, G).

    The low half of a byte is the even column. Value = code * step + lowest.

    Raises:
        ValueError: K is not a multiple of 64.
    """
    groups = _grouped("int4", values, GROUP)
    lowest = groups.amin(-1).to(torch.bfloat16)
    step = _positive((groups.amax(-1) - lowest.float()) / 15).to(torch.bfloat16)
    codes = ((groups - lowest.float().unsqueeze(-1)) / step.float().unsqueeze(-1)).round().clamp(0, 15)
    codes = codes.to(torch.uint8).flatten(-2)
    return codes[:, 0::2] | codes[:, 1::2] << 4, step, lowest


def decode_int4(packed: Tensor, step: Tensor, lowest: Tensor, dtype: torch.dtype) -> Tensor:
    """Decode the result of `encode_int4` to (N, K) in `dtype`."""
    _require_bytes("packed", packed)
    if packed.shape[-1] * 2 != step.shape[-1] * GROUP or step.shape != lowest.shape:
        raise ValueError(
            f"packed {tuple(packed.shape)} with scales {tuple(step.shape)} and {tuple(lowest.shape)} is not INT4; "
            f"expected (N, G * {GROUP // 2}) and (N, G) twice"
        )
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).unflatten(-1, (-1, GROUP))  # (N, G, 64)
    return (codes * step.float().unsqueeze(-1) + lowest.float().unsqueeze(-1)).flatten(-2).to(dtype)


def encode_nf4(values: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> codes (N * K / 2, 1), the high half of a byte first, and float32 (N * K / 64,): bitsandbytes' order.

    Groups are 64 consecutive values and may span rows. Value = level * largest of the group.

    Raises:
        ValueError: N * K is not a multiple of 64.
    """
    groups = _grouped("nf4", values.reshape(1, -1), GROUP)[0]
    largest = groups.abs().amax(-1)
    levels = _table(NF4_LEVELS, values.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(groups / _positive(largest).unsqueeze(-1), between).to(torch.uint8).reshape(-1, 2)
    return codes[:, :1] << 4 | codes[:, 1:], largest


def decode_nf4(packed: Tensor, largest: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Decode the result of `encode_nf4` to `shape` in `dtype`."""
    _require_bytes("packed", packed)
    if packed.numel() * 2 != largest.numel() * GROUP:
        raise ValueError(
            f"packed {tuple(packed.shape)} with {largest.numel()} scales is not NF4; expected one per {GROUP} values"
        )
    values = _halves(packed.reshape(-1), _table(NF4_LEVELS, packed.device), high_first=True).reshape(-1, GROUP)
    return (values * largest.float().unsqueeze(-1)).reshape(shape).to(dtype)


def swizzle(scales: Tensor) -> Tensor:
    """(rows, columns) -> cuBLAS order, padded with zeros, two-dimensional: the inverse of `unswizzle`."""
    rows, columns = scales.shape
    down, across = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
    padded = scales.new_zeros(down * TILE_ROWS, across * TILE_COLUMNS)
    padded[:rows, :columns] = scales
    tiles = padded.reshape(down, 4, 32, across, 4).permute(0, 3, 2, 1, 4)  # r // 32, r % 32, c
    return tiles.reshape(down * TILE_ROWS, across * TILE_COLUMNS)


def unswizzle(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Scales in cuBLAS order -> (..., rows, columns), any dtype of one byte.

    The matrix of scales is padded to multiples of 128 rows and 4 columns and cut into tiles of that size, row-major.
    Inside a tile the scale of row r and column c is number (r % 32) * 16 + (r // 32) * 4 + c.

    Args:
        scales: flat or two-dimensional, or with the axis of the experts in front: (E, padded rows, padded columns).

    Raises:
        ValueError: their number is not that of the padded matrix.
    """
    lead = scales.shape[:-2] if scales.ndim > 2 else torch.Size()
    down, across = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
    needed = down * across * TILE_ROWS * TILE_COLUMNS * lead.numel()
    if scales.numel() != needed:
        raise ValueError(
            f"scales {tuple(scales.shape)} do not fit a matrix of {rows} x {columns} groups; expected {needed} values"
        )
    tiles = scales.view(torch.uint8).reshape(*lead, down, across, 32, 4, 4)  # r % 32, r // 32, c
    order = [*range(len(lead)), *(len(lead) + axis for axis in (0, 3, 2, 1, 4))]
    matrix = tiles.permute(order).reshape(*lead, down * TILE_ROWS, across * TILE_COLUMNS)
    return matrix[..., :rows, :columns].contiguous().view(scales.dtype)


def _e2m1(packed: Tensor, high_first: bool) -> Tensor:
    """(..., B) uint8 -> (..., 2 B) float32. One look-up per byte is faster than one per half."""
    return _halves(packed, _table(E2M1_VALUES, packed.device), high_first)


def _halves(packed: Tensor, table: Tensor, high_first: bool) -> Tensor:
    """(..., B) uint8 -> (..., 2 B): the table's values for both halves of each byte."""
    codes = torch.arange(256, device=packed.device)
    low, high = table[codes % 16], table[codes // 16]
    pairs = torch.stack((high, low) if high_first else (low, high), dim=-1)  # (256, 2)
    return pairs.index_select(0, packed.reshape(-1).int()).reshape(*packed.shape[:-1], -1)


def _e8m0(codes: Tensor) -> Tensor:
    return _table(E8M0_VALUES, codes.device)[codes.int()]


@lru_cache
def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A cached table on the device; otherwise every decoding would wait for its copy to the device."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def _grouped(name: str, values: Tensor, size: int) -> Tensor:
    """(N, K) -> float32 (N, G, size)."""
    if values.ndim != 2 or values.shape[-1] % size:
        raise ValueError(f"values {tuple(values.shape)} cannot be written as {name}; expected a multiple of {size}")
    return values.float().unflatten(-1, (-1, size))


def _positive(scale: Tensor) -> Tensor:
    """The scale, with zeros replaced by a positive value to divide by."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _require_bytes(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.uint8:
        raise ValueError(f"{name} has dtype {tensor.dtype}; expected torch.uint8")
