"""Loads a pipeline's text encoder to encode prompts, and unloads it afterwards."""

import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from leanlens.install import KERNELS
from leanlens.log import warn_once
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.plan.options import LoadOptions, kernels_missing
from leanlens.weights.load import open_text_encoder
from leanlens.weights.stream import stream

if TYPE_CHECKING:
    from leanlens.weights.layouts import Layout


class EncoderLoader:
    """Opens a text encoder on demand.

    Args:
        open_encoder: returns the text encoder, ready to compute.
        before_load: frees memory on its device before it is opened.
        after_unload: undoes that after it is unloaded.
        config: its configuration, which stays available while it is unloaded.

    Attributes:
        openings: how often it was opened.
    """

    def __init__(
        self,
        open_encoder: Callable[[], Any],
        before_load: Callable[[], object] = lambda: None,
        after_unload: Callable[[], object] = lambda: None,
        config: Any = None,
    ):
        self.open_encoder = open_encoder
        self.before_load = before_load
        self.after_unload = after_unload
        self.config = config
        self.openings = 0
        self._kept = False

    def load(self, pipeline: Any) -> None:
        """Put the text encoder into the pipeline, unless it is there."""
        if pipeline.text_encoder is None:
            self.before_load()
            try:
                pipeline.text_encoder = self.open_encoder()
            except BaseException:
                self.after_unload()
                raise
            self.openings += 1

    def unload(self, pipeline: Any) -> None:
        """Remove it and free its memory, unless it is kept for further prompts."""
        if pipeline.text_encoder is not None and not self._kept:
            pipeline.text_encoder = None
            release_memory()
            self.after_unload()

    @contextmanager
    def kept_loaded(self, pipeline: Any) -> Iterator[None]:
        """Within this block the text encoder stays loaded once it is there."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False
            self.unload(pipeline)


def release_memory() -> None:
    """Return memory that nothing uses any more to the device."""
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # after memory ran out, the next use of the device says what is wrong
            torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


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
                f"invalid encoder_on 'disk': {layout.path} is a {layout.title}, and only GPT-OSS is read "
                "layer by layer; use device or cpu"
            )
        return partial(_language_model, layout.path, class_name, device, dtype, options)
    if options.encoder_on == "disk":
        return partial(stream, layout.path, "text_encoder", dtype, device)
    return partial(_gpt_oss, layout, device if options.encoder_on == "device" else torch.device("cpu"), dtype)


def warn_of_missing_kernels(device: torch.device) -> None:
    """Warn, once, where a GPU could hold the text encoder in MXFP4 and packages are missing."""
    if device.type == "cuda" and (missing := kernels_missing()):
        warn_once(
            f"The text encoder is stored in MXFP4 (12.6 GB) and decoded to 40.7 GB in bfloat16, because the package "
            f"{' and '.join(missing)} is missing: {KERNELS}, or read it layer by "
            "layer with --encoder-on disk"
        )


def _gpt_oss(layout: "Layout", device: torch.device, dtype: torch.dtype) -> Any:
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
