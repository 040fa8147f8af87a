"""Where the text encoder is: brought in when prompts are to be encoded, and let go when they are.

Comes in: a pipeline and a way to open its text encoder. Goes out: nothing; the pipeline has its encoder in between.
Knows nothing of prompts.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class EncoderHome:
    """Opens a text encoder on demand.

    Args:
        open_encoder: gives the text encoder, ready to compute.
        step_aside: makes room for it on its device, before.
        come_back: undoes that, after it has gone.
        config: its configuration, for whoever asks while it is away.

    Attributes:
        openings: how often it was opened.
    """

    def __init__(
        self,
        open_encoder: Callable[[], Any],
        step_aside: Callable[[], object] = lambda: None,
        come_back: Callable[[], object] = lambda: None,
        config: Any = None,
    ):
        self.open_encoder = open_encoder
        self.step_aside = step_aside
        self.come_back = come_back
        self.config = config
        self.openings = 0
        self._kept = False

    def enter(self, pipeline: Any) -> None:
        """Have the text encoder in the pipeline."""
        if pipeline.text_encoder is None:
            self.step_aside()
            try:
                pipeline.text_encoder = self.open_encoder()
            except BaseException:
                self.come_back()
                raise
            self.openings += 1

    def leave(self, pipeline: Any) -> None:
        """Have it gone, and its memory given back, unless it is kept for further prompts."""
        if pipeline.text_encoder is not None and not self._kept:
            pipeline.text_encoder = None
            give_back()
            self.come_back()

    @contextmanager
    def kept(self, pipeline: Any) -> Iterator[None]:
        """Within this block the text encoder stays once it is there."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False
            self.leave(pipeline)


def give_back() -> None:
    """Return memory that nothing holds any more to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
