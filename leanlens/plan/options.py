"""How a model is loaded: `LoadOptions`, and the words that its fields accept.

`pipeline/offload.py` carries them out; `plan/choose.py` says which ones a machine needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import util
from typing import Any

AUTO = "auto"

DTYPES = ("bfloat16", "float16", "float32")
SHORT_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

# Of the denoiser's attention and gated MLPs, best first; bits of each weight, scales included.
QUANT_BITS = {"int8": 8.02, "mxfp8": 8.25, "fp8": 8.0, "nf4": 4.5, "int4": 4.5}
QUANTS = ("none", *QUANT_BITS)

# none: every part stays on the device. encoder: the text encoder is opened to encode, then unloaded; meanwhile the
# denoiser is in main memory. model: the denoiser is there too while an image is decoded. modulation: the same, and its
# modulation stays there but for the layer that computes. block: its blocks are there and come one by one, the next
# while one computes. disk: it is read from its files layer by layer and never loaded as a whole.
OFFLOADS = ("none", "encoder", "model", "modulation", "block", "disk")
IN_TURNS = ("model", "modulation")  # with these, denoiser and autoencoder are on the device one after the other

# Where the text encoder computes; disk: on the device, its weights read layer by layer from their files.
ENCODERS = ("device", "cpu", "disk")

MXFP4_PACKAGES = ("kernels", "triton")


def kernels_missing() -> list[str]:
    """The packages that MXFP4 kernels need and that are not installed."""
    return [name for name in MXFP4_PACKAGES if util.find_spec(name) is None]


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. Fields at their default are open: the planner chooses them (`pipeline/auto.py`).

    Attributes:
        quant: quantisation of the denoiser's attention and MLPs. "auto" keeps what the files have, but decodes a
            denoiser of at most 500 million weights while opening it; "none" decodes any. Both give the same image.
        offload: what leaves the device while it is not needed (`OFFLOADS`).
        encoder_on: where the text encoder computes: on the device, on the processor, or on the device while its
            weights are read layer by layer from disk.
        tile_vae: decode images in tiles of half the side that the autoencoder was trained at.
        device: cpu, cuda, cuda:1, mps and so on.
        dtype: bfloat16, float16 or float32; bf16, fp16 and fp32 are accepted too.
        compile: compile the transformer's blocks.

    Raises:
        ValueError: an unknown value, or two that cannot be combined.
    """

    quant: str = AUTO
    offload: str = AUTO
    encoder_on: str = AUTO
    tile_vae: bool | None = None
    device: str = AUTO
    dtype: str = AUTO
    compile: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", SHORT_DTYPES.get(self.dtype, self.dtype))
        for name, accepted in (("quant", QUANTS), ("offload", OFFLOADS), ("encoder_on", ENCODERS), ("dtype", DTYPES)):
            value = getattr(self, name)
            if value not in (AUTO, *accepted):
                raise ValueError(f"invalid {name} {value!r}: expected one of {AUTO}, {', '.join(accepted)}")
        if self.offload == "disk" and self.quant not in (AUTO, "none"):
            raise ValueError(
                f"quant {self.quant!r} cannot be combined with offload 'disk', which reads weights as the files have "
                "them; write quantised ones with `leanlens weights convert --quant` and open those"
            )
        if self.compile and self.offload in ("block", "disk"):
            raise ValueError(f"compile cannot be combined with offload {self.offload!r}; leave one of them out")

    @property
    def is_open(self) -> bool:
        """Whether the placement of the denoiser or of the text encoder is left to the planner."""
        return AUTO in (self.offload, self.encoder_on)

    @property
    def is_plain(self) -> bool:
        """Whether everything stays on the device, decoded unless a large denoiser's files are packed."""
        stays = self.offload in (AUTO, "none") and self.encoder_on in (AUTO, "device")
        return stays and self.quant in (AUTO, "none") and not self.tile_vae

    def without_planning(self) -> "LoadOptions":
        """The same options, with open fields set to: on the device, not tiled, not compiled."""
        return replace(
            self,
            offload="none" if self.offload == AUTO else self.offload,
            encoder_on="device" if self.encoder_on == AUTO else self.encoder_on,
            tile_vae=bool(self.tile_vae),
            compile=bool(self.compile),
        )

    def conditions(self) -> dict[str, Any]:
        """The options that can change an image; defaults are left out."""
        found: dict[str, Any] = {"quant": self.quant} if self.quant not in (AUTO, "none") else {}
        found |= {"encoder_on": self.encoder_on} if self.encoder_on == "cpu" else {}
        return found | ({"tile_vae": True} if self.tile_vae else {})

    @classmethod
    def of_record(cls, run: Mapping[str, Any]) -> "LoadOptions":
        """The options in an image's record, so that it can be drawn again."""
        return cls(**{name: run[name] for name in ("quant", "encoder_on", "tile_vae") if name in run})
