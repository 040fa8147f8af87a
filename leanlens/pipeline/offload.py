"""Opens the parts of a pipeline where `LoadOptions` want them: quantised, offloaded, tiled.

Offloading and reading from disk leave every bit of an image as it is. Quantising and tiling do not.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from leanlens.install import KERNELS
from leanlens.pipeline.encoder_loading import EncoderLoader
from leanlens.plan.options import LoadOptions, kernels_missing

if TYPE_CHECKING:
    from leanlens.pipeline.pipeline import LensPipeline
    from leanlens.weights.layouts import Layout

# Up to so many weights, 1 GB in bfloat16, a packed denoiser is decoded once, when it is opened: packed it would spare
# little memory, and each of its layers be decoded anew in every step.
SMALL = 500_000_000


def open_folder(
    layout: "Layout", device: torch.device, dtype: torch.dtype, options: LoadOptions, kind: Any = None
) -> "LensPipeline":
    """Open a pipeline folder.

    Args:
        kind: the class to open it as; None takes `LensPipeline`.

    Raises:
        ValueError: weights that do not fit, or load options that this model does not support.
    """
    if kind is None:
        from leanlens.pipeline.pipeline import LensPipeline as kind
    parts = layout.parts
    transformer = open_denoiser(parts["transformer"].path, device, dtype, options)
    named = layout.config.get("text_encoder") or [None, None]
    opener = None
    if "text_encoder" in parts and named[0] is not None:
        opener = encoder_opener(parts["text_encoder"], str(named[1]), device, dtype, options)
    pipeline = kind.from_pretrained(layout.path, dtype=dtype, transformer=transformer, text_encoder=None)
    return _placed(pipeline, opener, parts.get("text_encoder"), device, options)


def open_parts(
    paths: Mapping[str, Path], device: torch.device, dtype: torch.dtype, options: LoadOptions
) -> "LensPipeline":
    """Build a pipeline of files in any layout (`weights.assemble.component_paths`).

    Raises:
        ValueError: as `open_folder`.
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
        transformer=open_denoiser(paths["transformer"], device, dtype, options),
    )
    encoder = identify(paths["text_encoder"])
    opener = encoder_opener(encoder, "LensGptOssEncoder", device, dtype, options)
    return _placed(pipeline, opener, encoder, device, options)


def open_denoiser(path: Path, device: torch.device, dtype: torch.dtype, options: LoadOptions) -> Any:
    """The denoiser, quantised as it is asked for, on the device if it stays there."""
    from leanlens.weights.layouts import identify
    from leanlens.weights.load import open_transformer
    from leanlens.weights.packed import open_packed
    from leanlens.weights.stream import stream

    if options.offload == "disk":
        return stream(path, "transformer", dtype, device)
    place = device if options.offload == "none" else torch.device("cpu")
    quant = packed_format(identify(path)) if options.quant == "auto" else options.quant
    if quant in (None, "none"):
        return open_transformer(path, dtype, place)
    return open_packed(path, quant, dtype, place)


def packed_format(layout: "Layout") -> str | None:
    """The format that "auto" holds a denoiser in; None where its files are not packed, or it is small and decoded."""
    from leanlens.weights.packed import kept_quantisation

    return None if is_small(layout) else kept_quantisation(layout)


def is_small(layout: "Layout") -> bool:
    """Whether a denoiser has at most `SMALL` weights."""
    return layout.parameters <= SMALL


def encoder_opener(
    layout: "Layout", class_name: str, device: torch.device, dtype: torch.dtype, options: LoadOptions
) -> Callable[[], Any]:
    """What opens the text encoder where it computes.

    Raises:
        ValueError: a language model other than GPT-OSS that is to be read from disk.
    """
    if layout.component != "text_encoder":
        if options.encoder_on == "disk":
            raise ValueError(
                f"encoder_on 'disk' is not accepted: {layout.path} is a {layout.title}, and only GPT-OSS is read so; "
                "use device or cpu"
            )
        return partial(_language_model, layout.path, class_name, device, dtype, options)
    if options.encoder_on == "disk":
        from leanlens.weights.stream import stream

        return partial(stream, layout.path, "text_encoder", dtype, device)
    return partial(_gpt_oss, layout, device if options.encoder_on == "device" else torch.device("cpu"), dtype)


def warn_of_missing_kernels(device: torch.device) -> None:
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
        warn_of_missing_kernels(device)
    return open_text_encoder(layout.path, dtype, device)


def _language_model(path: Path, class_name: str, device: torch.device, dtype: torch.dtype, options: LoadOptions) -> Any:
    transformers: Any = importlib.import_module("transformers")
    kind: Any = getattr(transformers, class_name, None)
    is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    if not is_model:
        raise ValueError(
            f"{path.parent / 'model_index.json'} names {class_name[:60]!r}, which is no model of transformers"
        )
    place = device if options.encoder_on == "device" else torch.device("cpu")
    return kind.from_pretrained(path, dtype=dtype, local_files_only=True).to(place).eval()


def _placed(
    pipeline: "LensPipeline",
    opener: Callable[[], Any] | None,
    encoder: "Layout | None",
    device: torch.device,
    options: LoadOptions,
) -> "LensPipeline":
    """The pipeline with its parts where they are held."""
    from leanlens.weights.load import model_config

    before_load, after_unload = _OFFLOAD[options.offload](pipeline, device)
    if opener is not None and options.offload == "none":
        pipeline.text_encoder = opener()
    elif opener is not None and encoder is not None:
        config = SimpleNamespace(**model_config(encoder))
        pipeline.encoder_loader = EncoderLoader(opener, before_load, after_unload, config)
    if options.tile_vae:
        tile(pipeline.vae)
    return pipeline


def tile(vae: Any) -> None:
    """Decode in tiles of half the side that the autoencoder was trained at."""
    vae.enable_tiling()
    vae.tile_sample_min_size = vae.config.sample_size // 2
    vae.tile_latent_min_size = vae.tile_sample_min_size // 2 ** (len(vae.config.block_out_channels) - 1)


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
    from leanlens.models.offloaded_linear import offload_modulation

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
