"""The thread of one device: takes batches from the queue, has them drawn, and hands images over.

A failed batch is reported to its clients, and the worker continues.
"""

import threading
import time
from collections.abc import Callable, Sequence

from leanlens.log import logger
from leanlens.pipeline.draw import DrawnPicture
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.free_memory import FreeMemory
from leanlens.serve.engine import Drawn, Engine, first_line, is_out_of_memory
from leanlens.serve.errors import APIError
from leanlens.serve.library import Library
from leanlens.serve.logging import REQUEST
from leanlens.serve.metrics import ServerMetrics
from leanlens.serve.preview import Preview
from leanlens.serve.queue import FairQueue
from leanlens.serve.settings import ServerSettings
from leanlens.serve.tasks import Task


class BatchCancelled(Exception):
    """Nobody waits for any image of the running batch."""


class Worker:
    """One thread that draws on one device.

    Args:
        engine: draws on the device.
        settings, queue, library, metrics: those of the server.
        deliver: called with a task and its image, in the worker's thread.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        queue: FairQueue,
        library: Library,
        metrics: ServerMetrics,
        deliver: Callable[[Task, DrawnPicture], None],
    ):
        self.engine = engine
        self.settings = settings
        self.queue = queue
        self.library = library
        self.metrics = metrics
        self.deliver = deliver
        self.is_ready = False
        self.trouble: str | None = None
        """Why the default model could not be opened; None if it was."""
        self.pace = 0.0
        """Recent seconds per image."""
        self._busy = threading.Lock()
        self._free_memory: FreeMemory | None = None
        self._thread = threading.Thread(target=self._run, name=f"leanlens-{engine.name}", daemon=True)

    def start(self) -> None:
        """Open the default model and start drawing."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the queue is closed and empty and the last image is drawn."""
        self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def model(self) -> str | None:
        """The name of the model that is open."""
        return self.engine.model

    def free_memory(self, model: str) -> FreeMemory | None:
        """What is free for pictures of a model; while one is drawn, what was before. None where it is not known."""
        if self._busy.acquire(blocking=False):
            try:
                self._free_memory = self.engine.free_memory()
            finally:
                self._busy.release()
        return self._free_memory if self.model == model else None

    def unload(self) -> None:
        """Unload the model, once the current batch is finished; the next task opens it again."""
        with self._busy:
            if self.model is not None:
                self.engine.unload()

    def open(self, model: str) -> None:
        """Open a model, once the current batch is finished.

        Raises:
            APIError: it cannot be opened.
        """
        with self._busy:
            self._open(model)

    # ---------------------------------------------------------------------------------------- the loop

    def _run(self) -> None:
        try:
            with self._busy:
                self._open(self.library.default)
        except Exception as error:
            self.trouble = first_line(error)
            logger.exception("%s", self.trouble)
        while True:
            batch = self.queue.take(self.settings.max_batch, self.model, self.settings.idle_unload)
            if batch:
                REQUEST.set(" ".join(sorted({task.job.request_id for task in batch if task.job.request_id})) or None)
                try:
                    with self._busy:
                        self._serve([task for task in batch if not task.is_final])
                except Exception:  # a bug here: report it to the clients and continue
                    logger.exception("a batch could not be answered")
                    self._end(batch, APIError("failed", "the server made a mistake; its log says which"))
                REQUEST.set(None)
            elif self.queue.is_closed:
                return
            elif self.model is not None:
                logger.info("%s was idle for %g s and is unloaded", self.model, self.settings.idle_unload)
                with self._busy:
                    self.engine.unload()

    def _serve(self, batch: list[Task]) -> None:
        """Draw a batch; failures are reported to its clients."""
        if not batch:
            return
        began = time.monotonic()
        try:
            pictures = self._draw(batch)
        except BatchCancelled:
            self._end(batch, APIError("cancelled", "the drawing was stopped"))
        except Exception as error:
            self._recover(batch, error)
        else:
            took = time.monotonic() - began
            self.pace = took / len(batch) if self.pace == 0 else 0.8 * self.pace + 0.2 * took / len(batch)
            self.metrics.draw_seconds.observe(took)
            self.metrics.batches.inc()
            for task, drawn in zip(batch, pictures, strict=True):
                task.text_tokens = drawn.text_tokens
                self.deliver(task, drawn.picture)

    def _recover(self, batch: list[Task], error: Exception) -> None:
        """After a failure: a batch that does not fit is drawn in halves; a single task fails with its error."""
        if is_out_of_memory(error):
            error.__traceback__ = None  # its frames hold the tensors that fill the memory
            self.engine.clear_caches()
            if len(batch) > 1:
                logger.warning("%d images do not fit in memory together; drawing them in halves", len(batch))
                middle = len(batch) // 2
                for half in (batch[:middle], batch[middle:]):
                    self._serve([task for task in half if not task.is_final])
                return
        elif len(batch) > 1 and isinstance(error, ValueError | FloatingPointError):
            for task in batch:  # one of them is at fault; the others shall not fail with it
                self._serve([task])
            return
        api_error = as_api_error(error, batch[0].request)
        if api_error.kind == "failed":
            logger.error("drawing failed", exc_info=error)
        self._end(batch, api_error)

    def _end(self, batch: list[Task], error: APIError) -> None:
        self.metrics.images.labels(state=error.kind).inc(len(batch))
        for task in batch:
            task.job.fail(task, error)

    def _draw(self, batch: list[Task]) -> list[Drawn]:
        for task in batch:
            if task.state == "waiting":
                self.metrics.wait_seconds.observe(time.monotonic() - task.since)
                task.job.report(task, "started")
        self._open(batch[0].model)
        self._free_memory = self.engine.free_memory()

        def on_step(step: int, previews: Sequence[Preview | None]) -> bool:
            wanted = [task for task in batch if not task.unwanted]
            if not wanted:
                raise BatchCancelled
            for task, preview in zip(batch, previews, strict=True):
                task.step = step
                task.job.report(task, "step", preview if self.settings.shows_previews else None)
            return all(task.ends_early for task in wanted)

        return self.engine.draw(batch[0].model, [task.request for task in batch], on_step)

    def _open(self, model: str) -> None:
        """Open the model if another one is open, and record what is known of it then."""
        if self.model == model:
            return
        began = time.monotonic()
        opening = self.engine.open(model)
        self.library.learn(model, opening.side, opening.sizes)
        if model == self.library.default:
            self.is_ready, self.trouble = True, None
        self.metrics.model_openings.inc()
        logger.info("%s is open on %s after %.1f s", model, opening.device, time.monotonic() - began)


def as_api_error(error: BaseException, request: ImageRequest) -> APIError:
    """An error of the drawing as clients get it."""
    if isinstance(error, APIError):
        return error
    if is_out_of_memory(error):
        smaller = [max(16, round(side * 0.7) // 16 * 16) for side in (request.width, request.height)]
        return APIError(
            "memory",
            f"a picture of {request.width}x{request.height} does not fit in the memory of this server; "
            f"try {smaller[0]}x{smaller[1]}, half of its area",
            "size",
        )
    if isinstance(error, ValueError | FloatingPointError):
        return APIError("invalid", str(error))
    return APIError("failed", "the drawing failed; the server's log says why")
