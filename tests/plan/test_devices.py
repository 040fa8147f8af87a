"""Names of cards as people and drivers write them."""

import pytest

from leanlens.plan.compute import DenoiserSizes
from leanlens.plan.devices import DEVICES, GIB, cpu, device_of_driver, find_device, with_memory
from leanlens.plan.rates import forward_seconds


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


def test_one_core_is_one_core():
    assert cpu(1).name == "CPU 1 core AVX2"
    assert find_device(cpu(1).name) == cpu(1)


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


def test_the_table_against_figures_from_elsewhere():
    """Dense 16-bit rates that papers name, and how long they say that 8.2 GB of weights take to read once."""
    assert find_device("A100 80GB").half == 312
    assert find_device("H100 SXM").half == pytest.approx(989.5, rel=0.001)
    for name, milliseconds in (("H200", 1.7), ("H100 SXM", 2.5)):
        assert 8.208 / find_device(name).bandwidth * 1000 == pytest.approx(milliseconds, rel=0.03)


def test_seconds_of_the_loop_against_rates_that_were_measured_elsewhere():
    """H100, 20 guided steps at 1024 pixels: 1.23 to 1.43 s of products and attention, 2.2 to 2.8 s in eager code."""
    card, sizes = find_device("H100 SXM"), DenoiserSizes()

    def loop(compiled):
        passes = (forward_seconds(card, "bfloat16", sizes, 4096, text, compiled) for text in (150, 0))
        return 20 * sum(passes)

    assert 1.23 < loop(True) < 1.6
    assert 2.2 < loop(False) < 2.8


def test_laptop_chips_are_not_taken_for_cards():
    assert find_device("RTX 4060 Laptop").bandwidth == 256
    assert find_device("RTX 4060").bandwidth == 272
    said = device_of_driver("NVIDIA GeForce RTX 4090 Laptop GPU", int(16 * 2**30 * 0.98))
    assert said is not None
    assert said.name == "RTX 4090 Laptop 16GB"


def test_every_generation_of_apple_chips_is_there_and_carries_its_memory():
    names = {device.name.rsplit(" ", 1)[0] for device in DEVICES if device.kind == "apple"}
    assert {f"M{n}{kind}" for n in (1, 2, 3, 4) for kind in ("", " Pro", " Max")} <= names
    assert with_memory(find_device("M2"), 16).name == "M2 16GB"
