"""Finished images from the workers to the archive: safety filter first, then the file, then the client is told."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from leanlens.log import logger
from leanlens.pipeline.draw import DrawnPicture
from leanlens.serve.archive import Archive
from leanlens.serve.errors import APIError
from leanlens.serve.logging import REQUEST
from leanlens.serve.metrics import ServerMetrics
from leanlens.serve.safety import SafetyFilter
from leanlens.serve.tasks import Task


class Delivery:
    """Writes finished images in threads of its own, so that a worker can draw the next ones meanwhile.

    Args:
        archive: where images are stored.
        safety: the filter on images.
        metrics: counts how tasks ended.
        marking: whether images are marked as made by a model.
    """

    def __init__(self, archive: Archive, safety: SafetyFilter, metrics: ServerMetrics, marking: bool):
        self.archive = archive
        self.safety = safety
        self.metrics = metrics
        self.marking = marking
        self._writers = ThreadPoolExecutor(2, thread_name_prefix="leanlens-write")

    def deliver(self, task: Task, drawn: DrawnPicture) -> None:
        """Have a finished image written; returns at once."""
        self._writers.submit(self._write, task, drawn)

    def close(self) -> None:
        """Wait until every image is written."""
        self._writers.shutdown()

    def _write(self, task: Task, drawn: DrawnPicture) -> None:
        REQUEST.set(task.job.request_id)
        if task.is_final:  # cancelled after its last step
            return
        if not self.marking:
            drawn.record["marking"] = None
        try:
            drawn.record["safety"] = self._safety_record(task, drawn)
            task.picture = self._stored(task, drawn)
        except APIError as error:
            task.job.fail(task, error)
            return
        self.metrics.images.labels(state="done").inc()
        task.job.report(task, "done")

    def _safety_record(self, task: Task, drawn: DrawnPicture) -> dict[str, Any] | None:
        """What the filters say of the image. A filter that fails lets nothing through."""
        try:
            return self.safety.check_picture(drawn.image, task.request.prompt)
        except Exception as error:
            if not isinstance(error, APIError):
                logger.exception("the safety filter failed")
                error = APIError("failed", "the safety filter failed; the server's log says why")
            self.metrics.images.labels(state=error.kind).inc()
            raise error from None

    def _stored(self, task: Task, drawn: DrawnPicture) -> Any:
        try:
            return self.archive.store(task, drawn)
        except Exception as error:
            logger.exception("a finished image cannot be written")
            raise APIError("failed", f"the picture cannot be written: {type(error).__name__}") from None
