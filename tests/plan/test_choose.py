"""The choice on twelve named devices, and against what users report."""

import pytest

from leanlens.plan.choose import Drawing, Machine, Pins, choose
from leanlens.plan.devices import cpu, find_device
from leanlens.plan.memory import ModelSizes
from leanlens.plan.rates import ASSUMPTIONS

LENS = ModelSizes()
TURBO = Drawing(steps=4, guidance=1.0)


def machine(name, ram=64.0):
    device = find_device(name)
    return Machine(device, device.memory if device.unified else ram)


def chosen(name, drawing=TURBO, ram=64.0, packed=True, **pins):
    return choose(machine(name, ram), LENS, packed, drawing, Pins(**pins))


@pytest.mark.parametrize(
    ("name", "device", "encoder"),
    [
        ("RTX 4090 24GB", "cuda", "mxfp4"),
        ("RTX 3090 24GB", "cuda", "mxfp4"),
        ("RTX 5090 32GB", "cuda", "mxfp4"),
        ("A100 80GB", "cuda", "mxfp4"),
        ("H100 SXM 80GB", "cuda", "mxfp4"),
        ("H200 141GB", "cuda", "mxfp4"),
        ("L40S 48GB", "cuda", "mxfp4"),
        ("MI300X 192GB", "cuda", "bfloat16"),
        ("M4 Max 128GB", "mps", "bfloat16"),
        ("RTX 3060 12GB", "cpu", "bfloat16"),
        ("T4 16GB", "cpu", "bfloat16"),
        ("V100 32GB", "cpu", "bfloat16"),
    ],
)
def test_twelve_devices(name, device, encoder):
    choice = chosen(name)
    assert (choice.fits, choice.settings.device, choice.settings.encoder) == (True, device, encoder)
    assert choice.loss.startswith("none")
    assert choice.settings.dtype == "bfloat16"


def test_what_users_report_of_24_gb():
    """lens.md and users: 24 GB holds 1024 pixels in bf16 with an MXFP4 encoder, about 27 GB is what 1440 needs."""
    assert chosen("RTX 4090", Drawing(), device="cuda").fits
    large = chosen("RTX 4090", Drawing(1440, 1440), dtype="bfloat16", quant="none", offload="none", device="cuda")
    assert not large.fits
    assert large.tight == ("decoding",)
    assert 24e9 < max(large.vram.values()) < 28e9


def test_main_memory_decides_too():
    assert not chosen("RTX 3060", ram=32).fits
    assert not chosen("RTX 4090", ram=8, device="cuda").fits
    assert not chosen("MI300X", ram=16, device="cuda").fits  # the decoded encoder passes through main memory


def test_without_packed_files_or_packages_the_encoder_is_decoded():
    assert chosen("H200", packed=False).settings.encoder == "bfloat16"
    bare = Machine(find_device("RTX 4090"), 64, mxfp4=False)
    assert choose(bare, LENS, True, TURBO).settings.device == "cpu"


def test_the_fastest_without_loss_is_chosen():
    one, many = (chosen("H200", Drawing(pictures=number)) for number in (1, 1000))
    assert not one.settings.compile  # compiling takes longer than one picture
    assert many.settings.compile
    assert many.seconds_per_picture(1000) < one.seconds_per_picture(1)
    assert chosen("H200", dtype="float16").loss.startswith("the range")
    assert chosen("RTX 4090", dtype="bfloat16").seconds["denoising"] < chosen("RTX 3090").seconds["denoising"]


def test_a_full_processor_at_its_own_rate():
    alone = Machine(cpu(16, "AVX2", 128), 128)
    choice = choose(alone, LENS, True, TURBO)
    assert (choice.settings.dtype, choice.fits) == ("float32", True)  # no bfloat16 arithmetic: its speed is unknown
    assert choice.seconds_per_picture() > 10


def test_pins_are_checked():
    with pytest.raises(ValueError, match="quant 'fp8' is not accepted"):
        Pins(quant="fp8")
    with pytest.raises(ValueError, match="offload 'model' is not accepted"):
        Pins(offload="model")
    with pytest.raises(ValueError, match="device 'mps' is not accepted"):
        chosen("H200", device="mps")
    with pytest.raises(ValueError, match="steps 0"):
        Drawing(steps=0)


def test_every_assumption_says_where_it_comes_from():
    assert all(assumption.source and assumption.meaning for assumption in ASSUMPTIONS.values())


def test_the_paper_s_own_speed_is_of_the_same_order():
    """Lens on one H100: 3.15 s for 20 steps, 0.84 s for Turbo, in the original code."""
    assert 1.0 < chosen("H100 SXM", Drawing()).seconds_per_picture() < 3.2
    assert 0.1 < chosen("H100 SXM").seconds_per_picture() < 0.9
