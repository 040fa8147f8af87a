"""Lists the memory, rates and power of common cards and processors, looked up by name.

The figures are the makers' specifications, not measured: dense rates, without sparsity, at the boost clock; 16-bit
products with 32-bit sums, which GeForce cards make at half the rate of workstation cards; memory as it is sold, where a
"GB" is 2^30 bytes. The rates of processors are per core, and measured (see `cpu`).
"""

import difflib
import re
from dataclasses import dataclass, replace

GIB = 2**30
_PCIE = 25.0  # GB/s in each direction, fourth generation, sixteen lanes


@dataclass(frozen=True)
class Device:
    """The specifications of a device.

    Attributes:
        name: product name; with the memory where a card is sold with several.
        kind: nvidia, amd, apple or cpu.
        memory: GiB; of a unified device, the memory of the whole machine.
        bandwidth: of that memory, GB/s.
        half: dense 16-bit products with 32-bit sums, TFLOP/s; 0 if the device has none.
        single: float32, TFLOP/s, without TF32, as torch computes it by default.
        watts: the maker's limit for the card or chip.
        capability: CUDA's compute capability; 0 elsewhere.
        peer: link to another device of the same machine, GB/s in each direction; PCIe if there is nothing faster.
        bfloat16: whether `half` is also the rate of bfloat16.
        unified: the device computes in the machine's main memory.
        attention: of a processor, TFLOP/s of attention; 0 elsewhere, where it is a share of `half`.
        cores: of a processor; 0 elsewhere.
    """

    name: str
    kind: str
    memory: float
    bandwidth: float
    half: float
    single: float
    watts: int
    capability: float = 0.0
    peer: float = _PCIE
    bfloat16: bool = True
    unified: bool = False
    attention: float = 0.0
    cores: int = 0


def _nvidia(capability: float, *rows: tuple) -> list[Device]:
    """Rows of (name, GiB, GB/s, half, single, watts[, peer])."""
    return [
        Device(
            name,
            "nvidia",
            memory,
            bandwidth,
            half,
            single,
            watts,
            capability,
            peer=peer[0] if peer else _PCIE,
            bfloat16=capability >= 8,
        )
        for name, memory, bandwidth, half, single, watts, *peer in rows
    ]


def _amd(*rows: tuple) -> list[Device]:
    """Rows of (name, GiB, GB/s, half, single, watts[, peer])."""
    return [
        Device(name, "amd", memory, bandwidth, half, single, watts, peer=peer[0] if peer else _PCIE)
        for name, memory, bandwidth, half, single, watts, *peer in rows
    ]


def _apple(*rows: tuple) -> list[Device]:
    """Rows of (name, GiB, GB/s, TFLOP/s, watts); their GPUs compute 16 and 32 bits at about one rate."""
    return [
        Device(name, "apple", memory, bandwidth, rate, rate, watts, unified=True)
        for name, memory, bandwidth, rate, watts in rows
    ]


DEVICES: tuple[Device, ...] = (
    *_nvidia(
        12.0,
        ("RTX 5060 8GB", 8, 448, 38.4, 19.2, 145),
        ("RTX 5060 Ti 8GB", 8, 448, 47.4, 23.7, 180),
        ("RTX 5060 Ti 16GB", 16, 448, 47.4, 23.7, 180),
        ("RTX 5070 12GB", 12, 672, 61.7, 30.9, 250),
        ("RTX 5070 Ti 16GB", 16, 896, 87.9, 43.9, 300),
        ("RTX 5080 16GB", 16, 960, 112.6, 56.3, 360),
        ("RTX 5090 32GB", 32, 1792, 209.5, 104.8, 575),
        ("RTX PRO 6000 Blackwell 96GB", 96, 1792, 503.8, 126.0, 600),
    ),
    # Laptop chips by their own data sheets, at the top of the range of watts that makers of laptops may choose from.
    *_nvidia(
        12.0,
        ("RTX 5060 Laptop 8GB", 8, 384, 29.0, 14.5, 100),
        ("RTX 5070 Laptop 8GB", 8, 384, 35.5, 17.7, 100),
        ("RTX 5070 Ti Laptop 12GB", 12, 672, 46.9, 23.4, 115),
        ("RTX 5080 Laptop 16GB", 16, 896, 61.4, 30.7, 150),
        ("RTX 5090 Laptop 24GB", 24, 896, 79.8, 39.9, 150),
    ),
    *_nvidia(
        8.9,
        ("RTX 4050 Laptop 6GB", 6, 192, 18.0, 9.0, 115),
        ("RTX 4060 Laptop 8GB", 8, 256, 23.2, 11.6, 115),
        ("RTX 4070 Laptop 8GB", 8, 256, 31.2, 15.6, 115),
        ("RTX 4080 Laptop 12GB", 12, 432, 49.4, 24.7, 150),
        ("RTX 4090 Laptop 16GB", 16, 576, 65.9, 33.0, 150),
    ),
    *_nvidia(
        8.6,
        ("RTX 3050 Laptop 4GB", 4, 192, 14.2, 7.1, 80),
        ("RTX 3060 Laptop 6GB", 6, 336, 21.8, 10.9, 115),
        ("RTX 3070 Laptop 8GB", 8, 448, 31.8, 15.9, 125),
        ("RTX 3080 Laptop 16GB", 16, 448, 38.0, 19.0, 150),
        ("RTX 3080 Ti Laptop 16GB", 16, 512, 47.2, 23.6, 150),
    ),
    *_nvidia(
        8.9,
        ("RTX 4060 8GB", 8, 272, 30.2, 15.1, 115),
        ("RTX 4060 Ti 8GB", 8, 288, 44.1, 22.1, 160),
        ("RTX 4060 Ti 16GB", 16, 288, 44.1, 22.1, 165),
        ("RTX 4070 12GB", 12, 504, 58.3, 29.1, 200),
        ("RTX 4070 Super 12GB", 12, 504, 71.0, 35.5, 220),
        ("RTX 4070 Ti 12GB", 12, 504, 80.2, 40.1, 285),
        ("RTX 4070 Ti Super 16GB", 16, 672, 88.2, 44.1, 285),
        ("RTX 4080 16GB", 16, 717, 97.5, 48.7, 320),
        ("RTX 4080 Super 16GB", 16, 736, 104.4, 52.2, 320),
        ("RTX 4090 24GB", 24, 1008, 165.2, 82.6, 450),
        ("RTX 5000 Ada 32GB", 32, 576, 261.1, 65.3, 250),
        ("RTX 6000 Ada 48GB", 48, 960, 364.2, 91.1, 300),
        ("L4 24GB", 24, 300, 121.0, 30.3, 72),
        ("L40 48GB", 48, 864, 181.0, 90.5, 300),
        ("L40S 48GB", 48, 864, 362.0, 91.6, 350),
    ),
    *_nvidia(
        8.6,
        ("RTX 3050 8GB", 8, 224, 18.2, 9.1, 130),
        ("RTX 3060 12GB", 12, 360, 25.5, 12.7, 170),
        ("RTX 3060 Ti 8GB", 8, 448, 32.4, 16.2, 200),
        ("RTX 3070 8GB", 8, 448, 40.6, 20.3, 220),
        ("RTX 3070 Ti 8GB", 8, 608, 43.5, 21.7, 290),
        ("RTX 3080 10GB", 10, 760, 59.5, 29.8, 320),
        ("RTX 3080 Ti 12GB", 12, 912, 68.2, 34.1, 350),
        ("RTX 3090 24GB", 24, 936, 71.2, 35.6, 350, 56.0),
        ("RTX 3090 Ti 24GB", 24, 1008, 80.0, 40.0, 450, 56.0),
        ("RTX A4000 16GB", 16, 448, 76.7, 19.2, 140),
        ("RTX A5000 24GB", 24, 768, 111.1, 27.8, 230, 56.0),
        ("RTX A6000 48GB", 48, 768, 154.8, 38.7, 300, 56.0),
        ("A10 24GB", 24, 600, 125.0, 31.2, 150),
        ("A40 48GB", 48, 696, 149.7, 37.4, 300, 56.0),
    ),
    *_nvidia(
        8.0,
        ("A30 24GB", 24, 933, 165.0, 10.3, 165, 100.0),
        ("A100 40GB", 40, 1555, 312.0, 19.5, 400, 300.0),
        ("A100 80GB", 80, 2039, 312.0, 19.5, 400, 300.0),
    ),
    *_nvidia(
        9.0,
        ("H100 PCIe 80GB", 80, 2000, 756.0, 51.0, 350, 50.0),
        ("H100 SXM 80GB", 80, 3350, 989.0, 67.0, 700, 450.0),
        ("H100 NVL 94GB", 94, 3938, 835.0, 60.0, 400, 300.0),
        ("H200 141GB", 141, 4800, 989.0, 67.0, 700, 450.0),
    ),
    *_nvidia(10.0, ("B200 180GB", 180, 7700, 2250.0, 75.0, 1000, 900.0)),
    *_nvidia(
        7.5,
        ("RTX 2080 Ti 11GB", 11, 616, 53.8, 13.4, 250),
        ("T4 16GB", 16, 320, 65.0, 8.1, 70, 12.5),
    ),
    *_nvidia(7.0, ("V100 16GB", 16, 900, 125.0, 15.7, 300, 150.0), ("V100 32GB", 32, 900, 125.0, 15.7, 300, 150.0)),
    *_amd(
        ("RX 7800 XT 16GB", 16, 624, 74.7, 37.3, 263),
        ("RX 7900 XT 20GB", 20, 800, 103.0, 51.5, 315),
        ("RX 7900 XTX 24GB", 24, 960, 122.8, 61.4, 355),
        ("RX 9070 XT 16GB", 16, 640, 195.0, 48.7, 304),
        ("PRO W7900 48GB", 48, 864, 122.6, 61.3, 295),
        ("MI210 64GB", 64, 1638, 181.0, 22.6, 300, 50.0),
        ("MI300X 192GB", 192, 5300, 1307.0, 163.4, 750, 64.0),
        ("MI325X 256GB", 256, 6000, 1307.0, 163.4, 1000, 64.0),
    ),
    # One row for each chip, with a common memory; --ram takes what a machine has. Rates are those of all GPU cores.
    *_apple(
        ("M1 16GB", 16, 68, 2.6, 20),
        ("M1 Pro 32GB", 32, 200, 5.2, 30),
        ("M1 Max 64GB", 64, 400, 10.4, 60),
        ("M1 Ultra 128GB", 128, 800, 20.8, 120),
        ("M2 24GB", 24, 100, 3.6, 20),
        ("M2 Pro 32GB", 32, 200, 6.8, 35),
        ("M2 Max 96GB", 96, 400, 13.6, 65),
        ("M2 Ultra 192GB", 192, 800, 27.2, 150),
        ("M3 24GB", 24, 100, 3.5, 22),
        ("M3 Pro 36GB", 36, 150, 6.4, 40),
        ("M3 Max 128GB", 128, 400, 14.2, 80),
        ("M3 Ultra 256GB", 256, 819, 28.4, 180),
        ("M4 32GB", 32, 120, 4.6, 25),
        ("M4 Pro 48GB", 48, 273, 9.2, 50),
        ("M4 Max 128GB", 128, 546, 18.4, 90),
    ),
)

# Of one core, TFLOP/s: products in 16 bits and in float32, attention; measured on an EPYC with AVX-512 and bfloat16
# (0.45 and 0.105, attention 0.088). The other two rows are the same arithmetic with their instructions' share: AVX2 has
# half the width and no bfloat16.
_CORE = {"AVX-512 bfloat16": (0.45, 0.105, 0.088), "AVX-512": (0.0, 0.105, 0.088), "AVX2": (0.0, 0.053, 0.044)}
_CORE_WATTS, _CORE_BANDWIDTH = 6, 5.0  # for each core; a channel of memory serves several


def cpu(cores: int, instructions: str = "AVX2", memory: float = 32) -> Device:
    """A processor with `cores` physical cores and `memory` GiB.

    Raises:
        ValueError: an unknown instruction set, or no cores.
    """
    if instructions not in _CORE:
        raise ValueError(f"invalid instructions {instructions!r}: expected one of {', '.join(_CORE)}")
    if cores < 1:
        raise ValueError(f"invalid cores {cores}: expected an integer from 1")
    half, single, attention = (rate * cores for rate in _CORE[instructions])
    return Device(
        f"CPU {cores} core{'s' * (cores > 1)} {instructions}",
        "cpu", memory, _CORE_BANDWIDTH * cores, half, single, _CORE_WATTS * cores,
        bfloat16=half > 0, unified=True, attention=attention, cores=cores,
    )  # fmt: skip


def find_device(name: str) -> Device:
    """The device of that name: "RTX 3060 12GB", "rtx3060", "NVIDIA H200", "CPU 8 cores AVX2".

    Raises:
        ValueError: no such device, or several; the message lists the nearest names, or all of them.
    """
    if match := re.fullmatch(r"cpu\s+(\d+)\s*cores?(?:\s+(.+))?", name.strip(), re.IGNORECASE):
        wanted = next((key for key in _CORE if key.lower() == (match[2] or "AVX2").lower()), match[2])
        return cpu(int(match[1]), wanted)
    words = _words(name)
    exact = [device for device in DEVICES if words == _words(device.name)]
    unsized = [device for device in DEVICES if words == [word for word in _words(device.name) if not _is_size(word)]]
    within = [device for device in DEVICES if words and set(words) <= set(_words(device.name))]
    found = exact or unsized or within
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"gpu {name[:60]!r} is several devices: {', '.join(device.name for device in found)}; name one"
        )
    names = [device.name for device in DEVICES]
    by_words = {" ".join(_words(known)): known for known in names}
    near = [by_words[key] for key in difflib.get_close_matches(" ".join(words)[:200], by_words, n=3, cutoff=0.5)]
    raise ValueError(
        f"gpu {name[:60]!r} is not in the table; "
        + (f"the nearest are {', '.join(near)}" if near else f"examples are {', '.join(names[:40:8])}")
        + "; or give its memory with --vram"
    )


def device_of_driver(name: str, total_bytes: int) -> Device | None:
    """The device that a driver calls `name` ("NVIDIA A100-SXM4-80GB"), or None if it is not in the table.

    Cards of one name are told apart by `total_bytes`, which is a little less than the nominal memory.
    """
    said = set(_words(name))
    fitting = [
        device
        for device in DEVICES
        if {word for word in _words(device.name) if not _is_size(word)} - {"sxm", "pcie", "blackwell"} <= said
        and 0.9 < total_bytes / GIB / device.memory < 1.08
    ]
    if not fitting:
        return None
    most = max(len(_words(device.name)) for device in fitting)
    best = [device for device in fitting if len(_words(device.name)) == most]
    slower = min(best, key=lambda device: device.bandwidth)  # the driver does not always say which build it is
    return next((device for device in best if set(_words(device.name)) & {"sxm", "pcie"} & said), slower)


def card_of(memory: float) -> Device:
    """A card of which only the memory, GiB, is known; its rates are 0, so no times are predicted."""
    if memory <= 0:
        raise ValueError(f"invalid vram {memory:g}: expected the card's memory in GB, above 0")
    return Device(f"a card of {memory:g} GB", "nvidia", memory, 0, 0, 0, 0, 8.0)


def with_memory(device: Device, memory: float) -> Device:
    """The same device with another memory, GiB."""
    return replace(device, name=re.sub(r" \d+GB$", f" {memory:g}GB", device.name), memory=memory)


def _words(name: str) -> list[str]:
    """Lower-case words and numbers without makers and series: "NVIDIA GeForce RTX 3060 12GB" -> rtx 3060 12gb."""
    lower = re.sub(r"(?<!\d)(\d+)\s*g(i?)b\b", r"\1gb", name.lower())
    lower = re.sub(r"\b(rtx|rx)(?=\d)", r"\1 ", lower)
    lower = re.sub(r"\b(\d{4})(ti|xtx|xt|super)\b", r"\1 \2", lower)
    lower = re.sub(r"\bsxm\d?\b", "sxm", lower)
    noise = {"nvidia", "geforce", "amd", "radeon", "instinct", "apple", "tesla", "generation", "graphics", "hbm3"}
    return [word for word in re.findall(r"[a-z0-9]+", lower) if word not in noise]


def _is_size(word: str) -> bool:
    return re.fullmatch(r"\d+gb", word) is not None
