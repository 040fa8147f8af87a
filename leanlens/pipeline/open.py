"""Opens a model by name: on a device, in a dtype, with load options, compiled or not."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from leanlens.files import fingerprint
from leanlens.hub import locate
from leanlens.pipeline.device import resolve_device, resolve_dtype
from leanlens.pipeline.encoder_loading import encoder_opener
from leanlens.pipeline.offload import offloaded, open_denoiser, open_folder, packed_format
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.speed import Speed, apply_speed, can_compile
from leanlens.pipeline.toy import toy_pipeline
from leanlens.plan.options import LoadOptions
from leanlens.presets import is_made
from leanlens.store import Store
from leanlens.threads import Load, can_be_chosen
from leanlens.weights.assemble import component_paths, components, official_scheduler
from leanlens.weights.layouts import identify
from leanlens.weights.load import open_tokenizer, open_vae

# Parameters below which a step is so short that its threads lose more by waiting for a core than they win.
SMALL = 500_000_000


def open_model(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    parts: dict[str, str] | None = None,
    compile: bool | None = None,
    options: LoadOptions | None = None,
    features: str | Path | None = None,
    speed: Speed | None = None,
) -> OpenedModel:
    """Open a model by name and place it.

    Args:
        name: a preset, a pipeline folder, a transformer file or folder in any known layout, or a repository id.
        device, dtype, compile: override those of `options`. On a processor without a C++ compiler, the model is not
            compiled, and a warning says so.
        parts: paths of components (`transformer`, `text_encoder`, `vae`, `tokenizer`) that `name` lacks.
        options: how the parts are loaded; parts whose placement is open stay on the device.
        features: a folder that caches text features, so that each prompt is encoded only once.
        speed: attention kernels, CUDA graphs and other ways to be faster. Default: none.

    Raises:
        ValueError: an invalid name, device or dtype, weights that are missing or damaged, or options that cannot be
            combined.
    """
    options, speed = options or LoadOptions(), speed or Speed()
    options = replace(
        options,
        device=options.device if device is None else device,
        dtype=options.dtype if dtype is None else dtype,
        compile=options.compile if compile is None else compile,
    ).without_planning()
    where = resolve_device(options.device)
    kind = resolve_dtype(options.dtype, where)
    parts = {part: path for part, path in (parts or {}).items() if path}
    if is_made(name) and parts:
        raise ValueError(f"{next(iter(parts))} cannot be given with the model {name}, which is made of random weights")
    if speed.fp8 and (options.offload in ("block", "disk") or options.quant not in ("auto", "none")):
        raise ValueError(
            f"fp8 products cannot be combined with quant {options.quant!r} and offload {options.offload!r}; they make "
            "their own weights, which stay on the device"
        )
    text_files: list[Path] = []
    load = Load()  # looks at the machine while the model is opened
    if is_made(name):
        pipeline, digest = _made(name, where, kind, options)
    else:
        pipeline, digest, text_files = _opened(name, where, kind, parts, options)
    pipeline.set_progress_bar_config(disable=True)
    compiled = bool(options.compile) and can_compile(where)
    apply_speed(pipeline, where, speed, compiled)
    opened = OpenedModel(
        pipeline, name, parts, digest, where, kind, compiled, options, speed=speed, load=_load(where, pipeline, load)
    )
    if features is not None:
        opened.feature_cache.store = Store(features)
        opened.feature_key = {
            "encoder": fingerprint(text_files) if text_files else name,
            "dtype": str(kind),
            "device": "cpu" if options.encoder_on == "cpu" else where.type,  # the last bits differ between devices
            "torch": torch.__version__,
        }
    return opened


def _load(device: torch.device, pipeline: Any, load: Load) -> Load | None:
    """`load` where a model's threads may be chosen by it: small, on the processor, and nobody has chosen already."""
    size = sum(weight.numel() for weight in pipeline.transformer.parameters())
    chosen = device.type == "cpu" and size < SMALL and can_be_chosen(torch.get_num_threads())
    return load if chosen else None


def _made(name: str, device: torch.device, dtype: torch.dtype, options: LoadOptions) -> tuple[LensPipeline, str]:
    """The pipeline of a preset that has no files, and what stands for the fingerprint of its weights."""
    pipeline, digest = toy_pipeline(), name.ljust(64, "0")
    if not options.is_plain:  # what is held otherwise is read from files
        folder = tempfile.mkdtemp(prefix=f"leanlens-{name}-")
        pipeline.save_pretrained(folder)
        held = open_folder(LensPipeline, identify(folder), device, dtype, options)
        weakref.finalize(held, shutil.rmtree, folder, ignore_errors=True)
        return held, digest
    for part in (pipeline.transformer, pipeline.vae):
        part.to(dtype)
    return pipeline.to(device), digest


def _opened(
    name: str, device: torch.device, dtype: torch.dtype, parts: dict[str, str], options: LoadOptions
) -> tuple[LensPipeline, str, list[Path]]:
    """A pipeline, the fingerprint of its weights, and the files of its text encoder and tokenizer."""
    path = locate(name)
    layout = identify(path)
    if layout.component == "pipeline" and not parts:
        files = _files_of(layout)
        text = [file for part in ("text_encoder", "tokenizer") for file in _part_files(layout, part)]
        denoiser = layout.parts.get("transformer")
        packed = denoiser is not None and packed_format(denoiser) is not None
        if options.is_plain and (options.quant == "auto" or not packed):
            pipeline = LensPipeline.from_pretrained(path, dtype=dtype).to(device)
        else:
            pipeline = open_folder(LensPipeline, layout, device, dtype, options)
    else:
        given: dict[str, Any] = dict(parts)
        paths = component_paths(path, **given)
        files = [file for used in (path, *paths.values()) for file in _files_of(identify(used))]
        text = [file for part in ("text_encoder", "tokenizer") for file in _files_of(identify(paths[part]))]
        if options.is_plain and not packed_format(identify(paths["transformer"])):
            pipeline = LensPipeline(**components(path, dtype=dtype, **given)).to(device)
        else:
            pipeline = _open_parts(paths, device, dtype, options)
    return pipeline, fingerprint(sorted({file for file in files if file.suffix == ".safetensors"})), text


def _part_files(layout: Any, name: str) -> list[Path]:
    return _files_of(layout.parts[name]) if name in layout.parts else []


def _files_of(layout: Any) -> list[Path]:
    return [*layout.files, *(file for part in layout.parts.values() for file in part.files)]


def _open_parts(
    paths: Mapping[str, Path], device: torch.device, dtype: torch.dtype, options: LoadOptions
) -> LensPipeline:
    """Build a pipeline of files in any layout (`weights.assemble.component_paths`).

    Raises:
        ValueError: as `open_folder`.
    """
    pipeline = LensPipeline(
        scheduler=official_scheduler(),
        vae=open_vae(paths["vae"], dtype),
        text_encoder=None,
        tokenizer=open_tokenizer(paths["tokenizer"]),
        transformer=open_denoiser(paths["transformer"], device, dtype, options),
    )
    encoder = identify(paths["text_encoder"])
    opener = encoder_opener(encoder, "LensGptOssEncoder", device, dtype, options)
    return offloaded(pipeline, opener, encoder, device, options)
