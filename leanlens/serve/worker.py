"""One device: it takes batches from the queue, has the right model open, draws, and hands pictures over.

Comes in: tasks. Goes out: finished pictures through `deliver`, refusals and steps through the tasks' jobs. Whatever
goes wrong with one batch is answered to its clients; the worker goes on. Knows nothing of HTTP or of files.
"""

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from leanlens.log import logger
from leanlens.pipeline.draw import DrawnPicture, draw_together
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.placement import OpenedModel, open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.serve.library import Library
from leanlens.serve.metrics import Metrics
from leanlens.serve.preview import LatentColours, Snapshot
from leanlens.serve.queue import FairQueue
from leanlens.serve.refusal import Refusal
from leanlens.serve.settings import ServerSettings
from leanlens.serve.tasks import Task

# Opening builds models under the process-wide random state, so one opens at a time.
_OPENING = threading.Lock()


class Unwanted(Exception):
    """Nobody waits for any picture of the running batch."""


class Worker:
    """One thread that draws on one device.

    Args:
        device: as `open_model` takes it.
        settings, queue, library, metrics: those of the server.
        deliver: called with a task and its picture, from the worker's thread.
    """

    def __init__(
        self,
        device: str,
        settings: ServerSettings,
        queue: FairQueue,
        library: Library,
        metrics: Metrics,
        deliver: Callable[[Task, DrawnPicture], None],
    ):
        self.device = device
        self.settings = settings
        self.queue = queue
        self.library = library
        self.metrics = metrics
        self.deliver = deliver
        self.model: str | None = None
        self.is_ready = False
        self.trouble: str | None = None
        """Why the default model could not be opened; None when it could."""
        self.pace = 0.0
        """Seconds for one picture, lately."""
        self._opened: OpenedModel | None = None
        self._colours: LatentColours | None = None
        self._features: OrderedDict[tuple, tuple[TextFeatures, TextFeatures]] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name=f"leanlens-{device}", daemon=True)

    def start(self) -> None:
        """Open the default model and begin to draw."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the queue is closed and empty and the last picture is drawn."""
        self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def unload(self) -> None:
        """Let the model go; call it from the worker's own thread only."""
        self._opened = self._colours = self.model = None
        self._features.clear()
        free_memory()

    # ---------------------------------------------------------------------------------------- the loop

    def _run(self) -> None:
        try:
            self._open(self.library.default)
        except Exception as error:
            self.trouble = _first_line(error)
            logger.exception("%s", self.trouble)
        while True:
            batch = self.queue.take(self.settings.max_batch, self.model, self.settings.idle_unload)
            if batch:
                try:
                    self._serve([task for task in batch if not task.is_final])
                except Exception:  # a mistake in answering: those who asked are told, the next ones are drawn
                    logger.exception("a batch could not be answered")
                    self._end(batch, Refusal("failed", "the server made a mistake; its log says which"))
            elif self.queue.is_closed:
                return
            elif self.model is not None:
                logger.info("%s has been idle for %g s and is let go", self.model, self.settings.idle_unload)
                self.unload()

    def _serve(self, batch: list[Task]) -> None:
        """Draw a batch; whatever goes wrong is told to those who asked."""
        if not batch:
            return
        began = time.monotonic()
        try:
            pictures = self._draw(batch)
        except Unwanted:
            self._end(batch, Refusal("cancelled", "the drawing was stopped"))
        except Exception as error:
            self._recover(batch, error)
        else:
            took = time.monotonic() - began
            self.pace = took / len(batch) if self.pace == 0 else 0.8 * self.pace + 0.2 * took / len(batch)
            self.metrics.observe("leanlens_draw_seconds", took)
            self.metrics.count("leanlens_batches_total")
            for task, picture in zip(batch, pictures, strict=True):
                self.deliver(task, picture)

    def _recover(self, batch: list[Task], error: Exception) -> None:
        """After a failure: several that do not fit together are drawn one by one, one that fails is told why."""
        if is_out_of_memory(error):
            error.__traceback__ = None  # its frames hold the tensors that fill the memory
            free_memory()
            if len(batch) > 1:
                logger.warning("%d pictures do not fit in memory together; they are drawn one by one", len(batch))
                for task in batch:
                    self._serve([task])
                return
            self._features.clear()
        elif len(batch) > 1 and isinstance(error, ValueError | FloatingPointError):
            for task in batch:  # one of them is at fault, and the others are not to suffer
                self._serve([task])
            return
        refusal = as_refusal(error, batch[0].request)
        if refusal.kind == "failed":
            logger.error("drawing failed", exc_info=error)
        self._end(batch, refusal)

    def _end(self, batch: list[Task], refusal: Refusal) -> None:
        self.metrics.count("leanlens_pictures_total", len(batch), state=refusal.kind)
        for task in batch:
            task.job.fail(task, refusal)

    def _draw(self, batch: list[Task]) -> list[DrawnPicture]:
        for task in batch:
            if task.state == "waiting":
                self.metrics.observe("leanlens_wait_seconds", time.monotonic() - task.since)
                task.job.report(task, "started")
        opened = self._open(batch[0].model)
        watch = _Watch(batch, opened, self._colours)
        return draw_together(opened, [task.request for task in batch], watch, lambda r: self._encode(opened, r, batch))

    # ---------------------------------------------------------------------------------------- models

    def _open(self, model: str) -> OpenedModel:
        """The model, opened if it is not the one that is."""
        if self._opened is not None and self.model == model:
            return self._opened
        self.unload()
        began = time.monotonic()
        try:
            with _OPENING:
                opened = open_model(
                    self.library.source(model), self.device, self.settings.dtype, compile=self.settings.compile
                )
        except (ValueError, OSError) as error:
            raise Refusal("unavailable", f"model {model} cannot be opened: {_first_line(error)}", "model") from error
        self.library.learn_side(model, int(opened.pipeline.vae.config.sample_size))
        self._colours = LatentColours.fit(opened.pipeline.vae)
        self._opened, self.model = opened, model
        if model == self.library.default:
            self.is_ready, self.trouble = True, None
        self.metrics.count("leanlens_model_openings_total")
        logger.info("%s is open on %s after %.1f s", model, opened.device, time.monotonic() - began)
        return opened

    def _encode(
        self, opened: OpenedModel, request: ImageRequest, batch: list[Task]
    ) -> tuple[TextFeatures, TextFeatures]:
        """Text features of a request, kept on the CPU for the next who asks; always encoded alone, as when drawn so."""
        key = (request.prompt, request.negative_prompt, request.template_date, request.max_sequence_length)
        if key not in self._features:
            pair = opened.features(request)
            self._features[key] = pair[0].to("cpu", pair[0].layers[0].dtype), pair[1].to("cpu", pair[1].layers[0].dtype)
        self._features.move_to_end(key)
        pair = self._features[key]
        while len(self._features) > 1 and sum(map(_bytes, self._features.values())) > self.settings.prompt_cache << 20:
            self._features.popitem(last=False)
        for task in batch:
            if task.request is request:
                task.text_tokens = int(pair[0].mask.sum())
        return pair


class _Watch:
    """Between two steps: tells how far a batch is, keeps what a preview needs, and stops when nobody waits."""

    def __init__(self, batch: list[Task], opened: OpenedModel, colours: LatentColours | None):
        self.batch = batch
        self.scheduler = opened.pipeline.scheduler
        self.colours = colours
        request = batch[0].request
        side = 2 ** (len(opened.pipeline.vae.config.block_out_channels) - 1) * opened.pipeline.vae.config.patch_size[0]
        self.grid = (request.height // side, request.width // side)
        self.before: Any = None

    def __call__(self, step: int, latents: torch.Tensor) -> None:
        if all(task.unwanted for task in self.batch):
            raise Unwanted
        first = self.scheduler.begin_index or 0
        levels = [float(level) for level in self.scheduler.sigmas[first + step - 1 : first + step + 1]]
        for row, task in enumerate(self.batch):
            task.step = step
            snapshot = None
            if self.before is not None and self.colours is not None:
                snapshot = Snapshot(step, self.before, latents, (levels[0], levels[1]), row, self.grid, self.colours)
            task.job.report(task, "step", snapshot)
        self.before = latents


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)


def as_refusal(error: BaseException, request: ImageRequest) -> Refusal:
    """An error of the drawing in the words that a client gets."""
    if isinstance(error, Refusal):
        return error
    if is_out_of_memory(error):
        smaller = [max(16, round(side * 0.7) // 16 * 16) for side in (request.width, request.height)]
        return Refusal(
            "memory",
            f"a picture of {request.width}x{request.height} does not fit in the memory of this server; "
            f"try {smaller[0]}x{smaller[1]}, half of its area",
            "size",
        )
    if isinstance(error, ValueError | FloatingPointError):
        return Refusal("invalid", str(error))
    return Refusal("failed", "the drawing failed; the server's log says why")


def free_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def _bytes(pair: tuple[TextFeatures, TextFeatures]) -> int:
    return sum(layer.numel() * layer.element_size() for features in pair for layer in features.layers)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
