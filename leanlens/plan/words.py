"""The words that say how a model is held; the planner prints them and the command line takes them.

Comes in: nothing. Goes out: names. What each does is in `pipeline/ladder.py`, what each needs in `choose.py`.
"""

from importlib import util

# Of the denoiser's attention and gated MLPs, best first; bits of each weight, scales included.
QUANT_BITS = {"int8": 8.02, "mxfp8": 8.25, "fp8": 8.0, "nf4": 4.5, "int4": 4.5}
QUANTS = ("none", *QUANT_BITS)

# none: every part stays on the device. encoder: the text encoder is opened to encode and let go; meanwhile the denoiser
# waits in main memory. model: the denoiser waits there too while a picture is decoded. modulation: the same, and its
# modulation stays there, but for the layer that computes. block: its blocks wait there and come one by one, the next
# while one computes. disk: it is read from its files layer by layer and never held.
OFFLOADS = ("none", "encoder", "model", "modulation", "block", "disk")
IN_TURNS = ("model", "modulation")  # with these, denoiser and autoencoder are on the device one after the other

# Where the text encoder computes; disk: on the device, its weights read layer by layer from their files.
ENCODERS = ("device", "cpu", "disk")

MXFP4_PACKAGES = ("kernels", "triton")


def kernels_missing() -> list[str]:
    """Which of the packages that MXFP4 kernels need are not installed."""
    return [name for name in MXFP4_PACKAGES if util.find_spec(name) is None]
