"""Block-quantised weights to plain tensors: MXFP4, MXFP8 and NVFP4.

Comes in: the stored integers and scales of one tensor. Goes out: its values. Knows nothing of files and names.

Shapes: E experts, N output rows, K input columns; G groups of columns that share a scale.

Sources: OCP Microscaling Formats (MX) v1.0 for E2M1, E4M3 and E8M0; NVIDIA's cuBLAS documentation, "1D block scaling
factors layout", for the order of the scales in MXFP8 and NVFP4 files.
"""

from math import nan

import torch
from torch import Tensor

# Code 0..15 of E2M1: one sign bit, two exponent bits, one mantissa bit.
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
# Code 0..255 of E8M0: a power of two; 255 is not a number.
E8M0_VALUES = (*(2.0 ** (code - 127) for code in range(255)), nan)

TILE_ROWS, TILE_COLUMNS = 128, 4


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
            "(..., G, 16) and (..., G) are accepted"
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
            "float8_e4m3fn with a multiple of 32 columns is accepted"
        )
    scales = scales.view(torch.uint8) if scales.dtype == torch.float8_e8m0fnu else scales
    _require_bytes("scales", scales)
    groups = unswizzle(scales, weight.shape[-2], weight.shape[-1] // 32)  # (..., N, G)
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
            "a multiple of 16 columns and float8_e4m3fn scales are accepted"
        )
    lead = packed.shape[:-2]
    if tensor_scale.numel() not in (1, lead.numel()):
        raise ValueError(f"tensor_scale has {tensor_scale.numel()} values; 1 or {lead.numel()} are accepted")
    groups = unswizzle(block_scale, packed.shape[-2], packed.shape[-1] // 8).float()  # (..., N, G)
    whole = tensor_scale.float().reshape(lead if tensor_scale.numel() == lead.numel() else (1,) * len(lead))
    values = _e2m1(packed, high_first=True).unflatten(-1, (-1, 16)) * (groups * whole[..., None, None]).unsqueeze(-1)
    return values.flatten(-2).to(dtype)


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
            f"scales {tuple(scales.shape)} do not fit a matrix of {rows} x {columns} groups; "
            f"{needed} values are accepted"
        )
    tiles = scales.view(torch.uint8).reshape(*lead, down, across, 32, 4, 4)  # r % 32, r // 32, c
    order = [*range(len(lead)), *(len(lead) + axis for axis in (0, 3, 2, 1, 4))]
    matrix = tiles.permute(order).reshape(*lead, down * TILE_ROWS, across * TILE_COLUMNS)
    return matrix[..., :rows, :columns].contiguous().view(scales.dtype)


def _e2m1(packed: Tensor, high_first: bool) -> Tensor:
    """(..., B) uint8 -> (..., 2 B) float32. One look-up for each byte is faster than one for each half."""
    table = torch.tensor(E2M1_VALUES, device=packed.device)
    codes = torch.arange(256, device=packed.device)
    low, high = table[codes % 16], table[codes // 16]
    pairs = torch.stack((high, low) if high_first else (low, high), dim=-1)  # (256, 2)
    return pairs.index_select(0, packed.reshape(-1).int()).reshape(*packed.shape[:-1], -1)


def _e8m0(codes: Tensor) -> Tensor:
    return torch.tensor(E8M0_VALUES, device=codes.device)[codes.int()]


def _require_bytes(name: str, tensor: Tensor) -> None:
    if tensor.dtype != torch.uint8:
        raise ValueError(f"{name} has dtype {tensor.dtype}; torch.uint8 is accepted")
