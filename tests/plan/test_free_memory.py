"""What fits into free memory: the planner's own workspaces, the most pictures, the largest size."""

import pytest

from leanlens.plan.free_memory import FreeMemory, largest_batch, largest_size, working_bytes
from leanlens.plan.memory import ModelSizes, decoding_bytes

LENS = ModelSizes()


def test_the_peak_is_that_of_the_stage_that_needs_most():
    memory = FreeMemory(0, "bfloat16", "cuda")
    one = working_bytes(LENS, memory, 1024, 1024)
    assert one == decoding_bytes(LENS.autoencoder, 1024, 1024, 2, 1.0)
    assert working_bytes(LENS, memory, 1024, 1024, 3) == 3 * one
    assert working_bytes(LENS, FreeMemory(0, "float32", "cuda"), 1024, 1024) == 2 * one
    assert working_bytes(LENS, FreeMemory(0, "bfloat16", "cpu"), 1024, 1024) > one
    # A very small picture needs no less than its prompt.
    assert working_bytes(LENS, memory, 16, 16) == working_bytes(LENS, memory, 32, 32) > 0


@pytest.mark.parametrize("kind", ["cuda", "cpu", "mps"])
def test_what_is_said_to_fit_fits_and_one_more_does_not(kind):
    need = working_bytes(LENS, FreeMemory(0, "bfloat16", kind), 768, 768)
    memory = FreeMemory(3.5 * need, "bfloat16", kind)
    assert largest_batch(LENS, memory, 768, 768, 8) == 3
    assert largest_batch(LENS, memory, 768, 768, 2) == 2
    assert largest_batch(LENS, FreeMemory(0.9 * need, "bfloat16", kind), 768, 768, 8) == 0


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (1040, 2080), (2080, 1040), (16, 4096)])
def test_the_largest_size_has_the_shape_and_is_the_largest(height, width):
    memory = FreeMemory(working_bytes(LENS, FreeMemory(0, "bfloat16"), height, width) * 0.6, "bfloat16")
    size = largest_size(LENS, memory, height, width)
    assert size is not None
    assert all(side % 16 == 0 and side >= 16 for side in size)
    assert working_bytes(LENS, memory, *size) <= memory.free
    assert size[0] * size[1] < height * width
    assert abs(size[0] - size[1] * height / width) <= 16 or min(size) == 16
    larger = (size[0] + 16 * height / min(height, width), size[1] + 16 * width / min(height, width))
    assert working_bytes(LENS, memory, round(larger[0]), round(larger[1])) > memory.free


def test_all_of_it_fits_or_nothing_does():
    assert largest_size(LENS, FreeMemory(1e15, "bfloat16"), 1024, 768) == (1024, 768)
    assert largest_size(LENS, FreeMemory(1e3, "bfloat16"), 1024, 768) is None
    with pytest.raises(ValueError, match="invalid dtype 'int3'"):
        working_bytes(LENS, FreeMemory(1, "int3"), 64, 64)
