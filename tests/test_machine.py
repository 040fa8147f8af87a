import torch

from leanlens.machine import describe_machine, peak_memory, processor_name


def test_the_machine_has_a_name():
    assert processor_name()
    assert describe_machine()


def test_the_peak_of_memory_is_in_bytes():
    assert 10e6 < peak_memory(torch.device("cpu")) < 1e12
