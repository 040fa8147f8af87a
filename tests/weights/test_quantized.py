"""Decoders against values that are known by construction."""

import pytest
import torch

from leanlens.weights.quantized import E2M1_VALUES, decode_mxfp4, decode_mxfp8, decode_nvfp4, unswizzle
from tests.weights import foreign


def test_mxfp4_of_hand_made_bytes():
    blocks = torch.zeros(1, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0] = 0x2 | 0xF << 4  # element 0 is code 2 = 1.0, element 1 is code 15 = -6.0
    blocks[0, 0, 15] = 0x7 | 0x1 << 4
    decoded = decode_mxfp4(blocks, torch.tensor([[128]], dtype=torch.uint8), torch.float32)
    assert decoded.shape == (1, 32)
    assert decoded[0, :2].tolist() == [2.0, -12.0]
    assert decoded[0, -2:].tolist() == [12.0, 1.0]
    assert decoded[0, 2:-2].abs().max() == 0


def test_every_code_of_e2m1():
    packed = torch.arange(16, dtype=torch.uint8).repeat(2)[:16].reshape(1, 1, 16)
    decoded = decode_mxfp4(packed, torch.tensor([[127]], dtype=torch.uint8), torch.float32)
    assert decoded[0, 0::2].tolist() == list(E2M1_VALUES)


def test_scales_at_the_ends_of_e8m0():
    blocks = torch.full((4, 16), 0x22, dtype=torch.uint8)  # all ones
    scales = torch.tensor([0, 1, 254, 255], dtype=torch.uint8)
    decoded = decode_mxfp4(blocks, scales, torch.float64).reshape(4, 32)
    assert decoded[:3, 0].tolist() == [2.0**-127, 2.0**-126, 2.0**127]
    assert decoded[3].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mxfp4_of_random_codes(dtype):
    blocks, scales, values = foreign.mxfp4((3, 10, 96), seed=0)
    assert torch.equal(decode_mxfp4(blocks, scales, dtype), values.to(dtype))


@pytest.mark.parametrize("shape", [(1, 1), (128, 4), (130, 5), (64, 6), (300, 9), (2944, 180)])
def test_unswizzle_undoes_the_padded_tiles(shape):
    matrix = torch.arange(shape[0] * shape[1]).remainder(251).to(torch.uint8).reshape(shape)
    stored = torch.from_numpy(foreign.swizzle(matrix.numpy()))
    assert torch.equal(unswizzle(stored, *shape), matrix)
    assert torch.equal(unswizzle(stored.flatten(), *shape), matrix)


def test_unswizzle_with_an_expert_axis():
    matrices = [
        torch.full((40, 3), expert, dtype=torch.uint8) + torch.arange(3, dtype=torch.uint8) for expert in (5, 90)
    ]
    stored = torch.stack([torch.from_numpy(foreign.swizzle(matrix.numpy())) for matrix in matrices])
    assert torch.equal(unswizzle(stored, 40, 3), torch.stack(matrices))


@pytest.mark.parametrize("shape", [(128, 128), (96, 160), (200, 32), (4, 64)])
def test_mxfp8(shape):
    weight, scales, values = foreign.mxfp8(shape, seed=1)
    assert torch.equal(decode_mxfp8(weight, scales, torch.float32), values.float())
    assert torch.equal(decode_mxfp8(weight, scales.view(torch.float8_e8m0fnu), torch.float32), values.float())


def test_mxfp8_scale_255_is_not_a_number():
    weight, scales, _ = foreign.mxfp8((4, 32), seed=1)
    scales[0, 0] = 255  # row 0, group 0
    decoded = decode_mxfp8(weight, scales, torch.float32)
    assert decoded[0].isnan().all()
    assert decoded[1:].isfinite().all()


@pytest.mark.parametrize("shape", [(64, 64), (130, 48), (3, 40, 80)])
def test_nvfp4(shape):
    packed, block, whole, values = foreign.nvfp4(shape, seed=2)
    assert torch.equal(decode_nvfp4(packed, block, whole, torch.float32), values.float())


def test_nibble_orders_are_opposite():
    byte = torch.full((1, 8), 0x2F, dtype=torch.uint8)  # high half 2 = 1.0, low half 15 = -6.0
    block = torch.from_numpy(foreign.swizzle(torch.tensor([[56]], dtype=torch.uint8).numpy())).view(torch.float8_e4m3fn)
    assert decode_nvfp4(byte, block, torch.ones(()), torch.float32)[0, :2].tolist() == [1.0, -6.0]
    blocks = torch.full((1, 1, 16), 0x2F, dtype=torch.uint8)
    ones = torch.tensor([[127]], dtype=torch.uint8)
    assert decode_mxfp4(blocks, ones, torch.float32)[0, :2].tolist() == [-6.0, 1.0]


def test_wrong_inputs_are_named():
    blocks, scales, _ = foreign.mxfp4((1, 2, 64), seed=0)
    with pytest.raises(ValueError, match=r"scales .* are not MXFP4"):
        decode_mxfp4(blocks, scales[..., :1], torch.float32)
    with pytest.raises(ValueError, match=r"blocks has dtype torch.int32"):
        decode_mxfp4(blocks.int(), scales, torch.float32)
    with pytest.raises(ValueError, match="is not MXFP8"):
        decode_mxfp8(torch.zeros(2, 32), scales, torch.float32)
    with pytest.raises(ValueError, match="do not fit a matrix of 40 x 3"):
        unswizzle(torch.zeros(40, 3, dtype=torch.uint8), 40, 3)
    packed, block, _, _ = foreign.nvfp4((2, 16, 32), seed=0)
    with pytest.raises(ValueError, match="tensor_scale has 3 values"):
        decode_nvfp4(packed, block, torch.ones(3), torch.float32)
    with pytest.raises(ValueError, match="is not NVFP4"):
        decode_nvfp4(packed, block.float(), torch.ones(2), torch.float32)
