"""Opens the parts of a pipeline where `LoadOptions` want them: quantised, offloaded, tiled.

Offloading and reading from disk leave every bit of an image as it is. Quantising and tiling do not.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from leanlens.models.offloaded_linear import offload_modulation
from leanlens.models.vae import decode_in_small_tiles
from leanlens.pipeline.encoder_loading import EncoderLoader, encoder_opener
from leanlens.plan.options import LoadOptions
from leanlens.weights.layouts import Layout, identify
from leanlens.weights.load import model_config, open_transformer
from leanlens.weights.packed import kept_quantisation, open_packed
from leanlens.weights.stream import stream

if TYPE_CHECKING:
    from leanlens.pipeline.pipeline import LensPipeline

# Up to so many weights, 1 GB in bfloat16, a packed denoiser is decoded once, when it is opened: packed it would spare
# little memory, and each of its layers be decoded anew in every step.
SMALL = 500_000_000


def open_folder(
    kind: Any, layout: Layout, device: torch.device, dtype: torch.dtype, options: LoadOptions
) -> "LensPipeline":
    """Open a pipeline folder.

    Args:
        kind: the class to open it as, a `LensPipeline`.

    Raises:
        ValueError: weights that do not fit, or load options that this model does not support.
    """
    parts = layout.parts
    transformer = open_denoiser(parts["transformer"].path, device, dtype, options)
    named = layout.config.get("text_encoder") or [None, None]
    opener = None
    if "text_encoder" in parts and named[0] is not None:
        opener = encoder_opener(parts["text_encoder"], str(named[1]), device, dtype, options)
    pipeline = kind.from_pretrained(layout.path, dtype=dtype, transformer=transformer, text_encoder=None)
    return offloaded(pipeline, opener, parts.get("text_encoder"), device, options)


def open_denoiser(path: Path, device: torch.device, dtype: torch.dtype, options: LoadOptions) -> Any:
    """The denoiser, quantised as it is asked for, on the device if it stays there."""
    if options.offload == "disk":
        return stream(path, "transformer", dtype, device)
    place = device if options.offload == "none" else torch.device("cpu")
    quant = packed_format(identify(path)) if options.quant == "auto" else options.quant
    if quant in (None, "none"):
        return open_transformer(path, dtype, place)
    return open_packed(path, quant, dtype, place)


def packed_format(layout: Layout) -> str | None:
    """The format that "auto" holds a denoiser in; None where its files are not packed, or it is small and decoded."""
    return None if is_small(layout) else kept_quantisation(layout)


def is_small(layout: Layout) -> bool:
    """Whether a denoiser has at most `SMALL` weights."""
    return layout.parameters <= SMALL


def offloaded(
    pipeline: "LensPipeline",
    opener: Callable[[], Any] | None,
    encoder: Layout | None,
    device: torch.device,
    options: LoadOptions,
) -> "LensPipeline":
    """The pipeline with its parts where they are held."""
    before_load, after_unload = _OFFLOAD[options.offload](pipeline, device)
    if opener is not None and options.offload == "none":
        pipeline.text_encoder = opener()
    elif opener is not None and encoder is not None:
        config = SimpleNamespace(**model_config(encoder))
        pipeline.encoder_loader = EncoderLoader(opener, before_load, after_unload, config)
    if options.tile_vae:
        decode_in_small_tiles(pipeline.vae)
    return pipeline


# What each word does to an opened pipeline without its text encoder; they give back how the denoiser steps aside for
# the encoder, and comes back.
BeforeAndAfter = tuple[Callable[[], object], Callable[[], object]]


def _nothing() -> None:
    pass


def _keep_on_device(pipeline: "LensPipeline", device: torch.device) -> BeforeAndAfter:
    pipeline.vae.to(device)
    return _nothing, _nothing


def _offload_denoiser_while_encoding(pipeline: "LensPipeline", device: torch.device) -> BeforeAndAfter:
    pipeline.vae.to(device)
    pipeline.transformer.to(device)
    return partial(pipeline.transformer.to, "cpu"), partial(pipeline.transformer.to, device)


def _offload_models(pipeline: "LensPipeline", device: torch.device) -> BeforeAndAfter:
    from accelerate import cpu_offload_with_hook

    _, first = cpu_offload_with_hook(pipeline.transformer, device)
    cpu_offload_with_hook(pipeline.vae, device, prev_module_hook=first)
    return first.offload, _nothing


def _offload_modulation(pipeline: "LensPipeline", device: torch.device) -> BeforeAndAfter:
    """As `_offload_models`; of the denoiser, what turns noise levels into modulation never comes as a whole."""
    offload_modulation(pipeline.transformer, device)
    return _offload_models(pipeline, device)


def _offload_blocks(pipeline: "LensPipeline", device: torch.device) -> BeforeAndAfter:
    """The next block is on its way while one computes, where the device has streams."""
    pipeline.vae.to(device)
    streams = device.type == "cuda"
    pipeline.transformer.enable_group_offload(
        device, torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1,
        non_blocking=streams, use_stream=streams, record_stream=streams,
    )  # fmt: skip
    return _nothing, _nothing


_OFFLOAD: dict[str, Callable[["LensPipeline", torch.device], BeforeAndAfter]] = {
    "none": _keep_on_device,
    "encoder": _offload_denoiser_while_encoding,
    "model": _offload_models,
    "modulation": _offload_modulation,
    "block": _offload_blocks,
    "disk": _keep_on_device,
}
