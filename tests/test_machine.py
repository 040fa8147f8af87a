import mmap
import sys

import pytest
import torch

from leanlens.machine import describe_machine, forget_peak_memory, peak_memory, processor_name


def test_the_machine_has_a_name():
    assert processor_name()
    assert describe_machine()


def test_the_peak_of_memory_is_in_bytes():
    assert 10e6 < peak_memory(torch.device("cpu")) < 1e12


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets the peak of a process")
def test_a_peak_of_memory_that_is_past_can_be_forgotten():
    before = peak_memory(torch.device("cpu"))
    block = mmap.mmap(-1, 400_000_000)
    block.write(b"1" * len(block))
    block.close()
    high = peak_memory(torch.device("cpu"))
    forget_peak_memory()
    assert peak_memory(torch.device("cpu")) < high - 200_000_000
    assert high > before
