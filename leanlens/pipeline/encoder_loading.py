"""Loads a pipeline's text encoder to encode prompts, and unloads it afterwards."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
