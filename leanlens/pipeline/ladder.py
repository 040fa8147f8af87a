"""The ladder of memory: how the parts of a pipeline are opened and held, from all on the device to next to nothing.

Comes in: where the parts lie, a device, a dtype and a `Holding`, whose words are those that `leanlens plan` prints.
Goes out: a `LensPipeline` that draws as any other. Which words a machine needs, `plan/choose.py` says.

Offloading, eviction and reading from disk leave every bit of a picture as it is. Quantising and tiling do not.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from leanlens.install import KERNELS
from leanlens.pipeline.home import EncoderHome
from leanlens.plan.words import ENCODERS, OFFLOADS, QUANTS, kernels_missing

if TYPE_CHECKING:
    from leanlens.pipeline.pipeline import LensPipeline
    from leanlens.weights.layouts import Layout

# Up to so many weights, 1 GB in bfloat16, a packed denoiser is decoded once, when it is opened: packed it would spare
# little memory, and each of its layers be decoded anew in every step.
SMALL = 500_000_000


@dataclass(frozen=True)
class Holding:
    """How a model is held.

    Attributes:
        quant: of the denoiser's attention and MLPs; "auto" keeps them as the files have them, but for a denoiser of at
            most `SMALL` weights, which it decodes while it opens it; "none" decodes any. Both give the same picture.
        offload: what waits elsewhere while it is not needed (`plan.words.OFFLOADS`).
        encoder_on: where the text encoder computes: on the device, on the processor, or on the device while its
            weights are read layer by layer from disk.
        tile_vae: pictures are decoded in tiles of half the side that the autoencoder was trained at.

    Raises:
        ValueError: a word that is not known, or two that do not go together.
    """

    quant: str = "auto"
    offload: str = "none"
    encoder_on: str = "device"
    tile_vae: bool = False

    def __post_init__(self) -> None:
        for name, accepted in (("quant", ("auto", *QUANTS)), ("offload", OFFLOADS), ("encoder_on", ENCODERS)):
            value = getattr(self, name)
            if value not in accepted:
                raise ValueError(f"{name} {value!r} is not accepted; use one of {', '.join(accepted)}")
        if self.offload == "disk" and self.quant not in ("auto", "none"):
            raise ValueError(
                f"quant {self.quant!r} is not accepted with offload 'disk', which reads weights as the files have "
                "them; write quantised ones with `leanlens weights convert --quant` and open those"
            )

    @property
    def is_plain(self) -> bool:
        """Whether everything stays on the device, and is decoded unless the files of a large denoiser are packed."""
        return self in (Holding(), Holding("none"))

    def conditions(self) -> dict[str, Any]:
        """Of these words, those that can change a picture; what is plain is left out."""
        said = {"quant": self.quant} if self.quant not in ("auto", "none") else {}
        said |= {"encoder_on": self.encoder_on} if self.encoder_on == "cpu" else {}
        return said | ({"tile_vae": True} if self.tile_vae else {})

    @classmethod
    def of_record(cls, run: Mapping[str, Any]) -> "Holding":
        """The words that a picture's record names, so that it can be drawn again."""
        return cls(**{name: run[name] for name in ("quant", "encoder_on", "tile_vae") if name in run})


def hold_folder(
    layout: "Layout", device: torch.device, dtype: torch.dtype, holding: Holding, kind: Any = None
) -> "LensPipeline":
    """Open a pipeline folder.

    Args:
        kind: the class to open it as; None takes `LensPipeline`.

    Raises:
        ValueError: weights that do not fit, or words that this model cannot be held by.
    """
    if kind is None:
        from leanlens.pipeline.pipeline import LensPipeline as kind
    parts = layout.parts
    transformer = open_denoiser(parts["transformer"].path, device, dtype, holding)
    named = layout.config.get("text_encoder") or [None, None]
    opener = None
    if "text_encoder" in parts and named[0] is not None:
        opener = encoder_opener(parts["text_encoder"], str(named[1]), device, dtype, holding)
    pipeline = kind.from_pretrained(layout.path, dtype=dtype, transformer=transformer, text_encoder=None)
    return _held(pipeline, opener, parts.get("text_encoder"), device, holding)


def hold_parts(paths: Mapping[str, Path], device: torch.device, dtype: torch.dtype, holding: Holding) -> "LensPipeline":
    """Build a pipeline of files in any layout (`weights.assemble.component_paths`).

    Raises:
        ValueError: as `hold_folder`.
    """
    from leanlens.pipeline.pipeline import LensPipeline
    from leanlens.weights.assemble import official_scheduler
    from leanlens.weights.layouts import identify
    from leanlens.weights.load import open_tokenizer, open_vae

    pipeline = LensPipeline(
        scheduler=official_scheduler(),
        vae=open_vae(paths["vae"], dtype),
        text_encoder=None,
        tokenizer=open_tokenizer(paths["tokenizer"]),
        transformer=open_denoiser(paths["transformer"], device, dtype, holding),
    )
    encoder = identify(paths["text_encoder"])
    opener = encoder_opener(encoder, "LensGptOssEncoder", device, dtype, holding)
    return _held(pipeline, opener, encoder, device, holding)


def open_denoiser(path: Path, device: torch.device, dtype: torch.dtype, holding: Holding) -> Any:
    """The denoiser, quantised as it is asked for, on the device if it stays there."""
    from leanlens.weights.layouts import identify
    from leanlens.weights.load import open_transformer
    from leanlens.weights.packed import open_packed
    from leanlens.weights.stream import stream

    if holding.offload == "disk":
        return stream(path, "transformer", dtype, device)
    place = device if holding.offload == "none" else torch.device("cpu")
    quant = held_packed(identify(path)) if holding.quant == "auto" else holding.quant
    if quant in (None, "none"):
        return open_transformer(path, dtype, place)
    return open_packed(path, quant, dtype, place)


def held_packed(layout: "Layout") -> str | None:
    """The format that "auto" holds a denoiser in; None where its files are not packed, or it is small and decoded."""
    from leanlens.weights.packed import kept_quantisation

    return None if is_small(layout) else kept_quantisation(layout)


def is_small(layout: "Layout") -> bool:
    """Whether a denoiser has at most `SMALL` weights."""
    return layout.parameters <= SMALL


def encoder_opener(
    layout: "Layout", class_name: str, device: torch.device, dtype: torch.dtype, holding: Holding
) -> Callable[[], Any]:
    """What opens the text encoder where it computes.

    Raises:
        ValueError: a language model other than GPT-OSS that is to be read from disk.
    """
    if layout.component != "text_encoder":
        if holding.encoder_on == "disk":
            raise ValueError(
                f"encoder_on 'disk' is not accepted: {layout.path} is a {layout.title}, and only GPT-OSS is read so; "
                "use device or cpu"
            )
        return partial(_language_model, layout.path, class_name, device, dtype, holding)
    if holding.encoder_on == "disk":
        from leanlens.weights.stream import stream

        return partial(stream, layout.path, "text_encoder", dtype, device)
    return partial(_gpt_oss, layout, device if holding.encoder_on == "device" else torch.device("cpu"), dtype)


def say_what_kernels_spare(device: torch.device) -> None:
    """Warn, once, where a GPU could hold the text encoder in MXFP4 and packages are missing."""
    from leanlens.log import warn_once

    if device.type == "cuda" and (missing := kernels_missing()):
        warn_once(
            f"The text encoder is stored in MXFP4 (12.6 GB) and decoded to 40.7 GB in bfloat16, because the package "
            f"{' and '.join(missing)} is missing: {KERNELS}, or read it layer by "
            "layer with --encoder-on disk"
        )


def _gpt_oss(layout: "Layout", device: torch.device, dtype: torch.dtype) -> Any:
    from leanlens.models.text_encoder import LensGptOssEncoder
    from leanlens.weights.load import open_text_encoder

    if layout.quantisation == "mxfp4" and device.type == "cuda" and layout.path.is_dir():
        if not kernels_missing() and torch.cuda.get_device_capability(device) >= (7, 5):
            return LensGptOssEncoder.from_pretrained(layout.path, dtype=dtype, device_map=device)
        say_what_kernels_spare(device)
    return open_text_encoder(layout.path, dtype, device)


def _language_model(path: Path, class_name: str, device: torch.device, dtype: torch.dtype, holding: Holding) -> Any:
    transformers: Any = importlib.import_module("transformers")
    kind: Any = getattr(transformers, class_name, None)
    is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    if not is_model:
        raise ValueError(
            f"{path.parent / 'model_index.json'} names {class_name[:60]!r}, which is no model of transformers"
        )
    place = device if holding.encoder_on == "device" else torch.device("cpu")
    return kind.from_pretrained(path, dtype=dtype, local_files_only=True).to(place).eval()


def _held(
    pipeline: "LensPipeline",
    opener: Callable[[], Any] | None,
    encoder: "Layout | None",
    device: torch.device,
    holding: Holding,
) -> "LensPipeline":
    """The pipeline with its parts where they are held."""
    from leanlens.weights.load import model_config

    step_aside, come_back = _OFFLOAD[holding.offload](pipeline, device)
    if opener is not None and holding.offload == "none":
        pipeline.text_encoder = opener()
    elif opener is not None and encoder is not None:
        config = SimpleNamespace(**model_config(encoder))
        pipeline.encoder_home = EncoderHome(opener, step_aside, come_back, config)
    if holding.tile_vae:
        tile(pipeline.vae)
    return pipeline


def tile(vae: Any) -> None:
    """Decode in tiles of half the side that the autoencoder was trained at."""
    vae.enable_tiling()
    vae.tile_sample_min_size = vae.config.sample_size // 2
    vae.tile_latent_min_size = vae.tile_sample_min_size // 2 ** (len(vae.config.block_out_channels) - 1)


# What each word does to an opened pipeline without its text encoder; they give back how the denoiser steps aside for
# the encoder, and comes back.
Moves = tuple[Callable[[], object], Callable[[], object]]


def _nothing() -> None:
    pass


def _all_stay(pipeline: "LensPipeline", device: torch.device) -> Moves:
    pipeline.vae.to(device)
    return _nothing, _nothing


def _encoder_goes(pipeline: "LensPipeline", device: torch.device) -> Moves:
    pipeline.vae.to(device)
    pipeline.transformer.to(device)
    return partial(pipeline.transformer.to, "cpu"), partial(pipeline.transformer.to, device)


def _parts_take_turns(pipeline: "LensPipeline", device: torch.device) -> Moves:
    from accelerate import cpu_offload_with_hook

    _, first = cpu_offload_with_hook(pipeline.transformer, device)
    cpu_offload_with_hook(pipeline.vae, device, prev_module_hook=first)
    return first.offload, _nothing


def _modulation_waits(pipeline: "LensPipeline", device: torch.device) -> Moves:
    """As `_parts_take_turns`; of the denoiser, what turns noise levels into modulation never comes as a whole."""
    from leanlens.models.waiting import keep_modulation_back

    keep_modulation_back(pipeline.transformer, device)
    return _parts_take_turns(pipeline, device)


def _blocks_take_turns(pipeline: "LensPipeline", device: torch.device) -> Moves:
    """The next block is on its way while one computes, where the device has streams."""
    pipeline.vae.to(device)
    streams = device.type == "cuda"
    pipeline.transformer.enable_group_offload(
        device, torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1,
        non_blocking=streams, use_stream=streams, record_stream=streams,
    )  # fmt: skip
    return _nothing, _nothing


_OFFLOAD: dict[str, Callable[["LensPipeline", torch.device], Moves]] = {
    "none": _all_stay,
    "encoder": _encoder_goes,
    "model": _parts_take_turns,
    "modulation": _modulation_waits,
    "block": _blocks_take_turns,
    "disk": _all_stay,
}
