"""Names of cards as people and drivers write them."""

import pytest

from leanlens.plan.devices import DEVICES, GIB, cpu, device_of_driver, find_device


def test_the_table_is_large_and_names_are_their_own():
    assert len(DEVICES) >= 40
    assert len({device.name for device in DEVICES}) == len(DEVICES)
    for device in DEVICES:
        assert find_device(device.name) == device
        assert min(device.memory, device.bandwidth, device.half, device.single, device.watts) > 0


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("RTX 3060 12GB", "RTX 3060 12GB"),
        ("rtx3060", "RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB"),
        ("4060", "RTX 4060 8GB"),
        ("4070ti super", "RTX 4070 Ti Super 16GB"),
        ("H200", "H200 141GB"),
        ("Apple M4 Max", "M4 Max 128GB"),
        ("A100 80 GB", "A100 80GB"),
    ],
)
def test_names_as_people_write_them(said, name):
    if said == "4060":
        with pytest.raises(ValueError, match="several devices"):
            find_device(said)
        said = "RTX 4060"
    assert find_device(said).name == name


def test_unknown_and_ambiguous_names_are_told():
    with pytest.raises(ValueError, match="RTX 4060 Ti 8GB, RTX 4060 Ti 16GB; name one"):
        find_device("RTX 4060 Ti")
    with pytest.raises(ValueError, match=r"not in the table; the nearest are .*RTX 4090"):
        find_device("RTX 4091")
    with pytest.raises(ValueError, match="instructions 'AVX9'"):
        find_device("CPU 8 cores AVX9")


@pytest.mark.parametrize(
    ("driver", "gib", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 23.65, "RTX 4090 24GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 15.7, "RTX 4060 Ti 16GB"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", 79.2, "H100 PCIe 80GB"),
        ("NVIDIA H200", 139.8, "H200 141GB"),
        ("NVIDIA GeForce GT 710", 2.0, None),
    ],
)
def test_names_as_drivers_say_them(driver, gib, name):
    found = device_of_driver(driver, int(gib * GIB))
    assert (found and found.name) == name


def test_a_processor_is_the_sum_of_its_cores():
    assert cpu(8, "AVX2").single == pytest.approx(8 * cpu(1, "AVX2").single)
    assert cpu(8, "AVX2").half == 0
