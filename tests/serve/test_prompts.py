"""The prompt syntax of AUTOMATIC1111, as its own extra_networks_lora reads it."""

import pytest

from leanlens.serve.prompts import read_prompt


@pytest.mark.parametrize(
    ("written", "scale", "noted"),
    [
        ("<lora:x>", 1.0, ""),
        ("<lora:x:>", 1.0, ""),
        ("<lora:x:0.8>", 0.8, ""),
        ("<lora:x:-0.5>", -0.5, ""),
        ("<lora:x:0.5:0.9>", 0.9, "te does nothing"),
        ("<lora:x:0.7:0.7>", 0.7, ""),
        ("<lora:x:1:0.7:8>", 0.7, "te, dyn does nothing"),
        ("<lora:x:te=1:unet=0.7>", 0.7, "te does nothing"),
        ("<lora:x:unet=0.7>", 0.7, ""),
        ("<lora:x:unet=0.7:te=0.2>", 0.7, "te does nothing"),
        ("<lora:x:te=0.4>", 0.4, ""),
        ("<lora:x:0.5:unet=0.7>", 0.7, "te does nothing"),
        ("<lora:x:1:dyn=4>", 1.0, "dyn does nothing"),
        ("<lora:x: 0.6 >", 0.6, ""),
        ("<lora:x:0.6:lbw=ALL>", 0.6, "lbw does nothing"),
    ],
)
def test_the_scale_of_a_lora(written, scale, noted):
    read = read_prompt(f"a fox, {written}")
    assert (read.text, read.loras) == ("a fox", (("x", scale),))
    assert noted in " ".join(read.notes)
    assert bool(read.notes) == bool(noted)


@pytest.mark.parametrize("scale", ["much", "nan", "1e999", "unet=a", "te=1:unet=", "0.5:x", "101", "te=nan:unet=1"])
def test_a_scale_that_is_none_is_refused(scale):
    if scale == "te=1:unet=":
        assert read_prompt(f"<lora:x:{scale}>").loras == (("x", 1.0),)
        return
    with pytest.raises(ValueError, match="prompt holds <lora:x:"):
        read_prompt(f"a fox <lora:x:{scale}>")
