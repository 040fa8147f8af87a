"""The one way from a request of any API to images: checks it, queues it, and follows it to the archive.

It knows nothing of HTTP; the page and the tools in this process use it as the APIs do.
"""

import re
import threading
import time
from collections.abc import Sequence

from leanlens.log import logger
from leanlens.pipeline.request import ImageRequest
from leanlens.serve.archive import Archive, JobRecord
from leanlens.serve.delivery import Delivery
from leanlens.serve.engine import EngineFactory, local_engines
from leanlens.serve.errors import APIError
from leanlens.serve.library import Library
from leanlens.serve.memory import require_memory
from leanlens.serve.metrics import ServerMetrics
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.queue import FairQueue
from leanlens.serve.rate_limit import RateLimit
from leanlens.serve.reasoning import Reasoning
from leanlens.serve.safety import SafetyFilter
from leanlens.serve.settings import ServerSettings
from leanlens.serve.tasks import FINAL, Event, Job, Task
from leanlens.serve.validation import Validator
from leanlens.serve.worker import Worker

FIRST_PACE = 5.0  # seconds per image that are assumed until one has been drawn
_ID = re.compile(r"[0-9a-f]{32}")


class ImageService:
    """Workers, queue, archive and library of one server.

    Args:
        settings: the operator's.
        engines: makes one engine for each device.

    Raises:
        ValueError: a folder that cannot be written to, or an unusable setting.
    """

    def __init__(self, settings: ServerSettings, engines: EngineFactory = local_engines):
        self.settings = settings
        self.library = Library(settings)
        self.reasoning = Reasoning(settings, self.library)
        self.safety = SafetyFilter(settings)
        self.archive = Archive(settings.output, settings.keep_days, settings.keep_pictures)
        self.queue = FairQueue(settings.max_queue, settings.switch_patience)
        self.metrics = ServerMetrics()
        self.started = time.time()
        self._running: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._rate_limit = RateLimit(settings.requests_per_minute)
        self._validator = Validator(
            settings, self.library, self.reasoning, self.safety, self.archive, self._check_memory
        )
        self._delivery = Delivery(self.archive, self.safety, self.metrics, settings.marking)
        self.workers = [
            Worker(engine, settings, self.queue, self.library, self.metrics, self._delivery.deliver)
            for engine in engines(settings, self.library)
        ]
        self.metrics.gauge("leanlens_queue_pictures", "Images that wait.", lambda: len(self.queue))
        self.metrics.gauge(
            "leanlens_queue_seconds", "Estimated seconds until an image that is queued now starts.", self.expected_wait
        )
        self.metrics.gauge("leanlens_jobs_running", "Unfinished jobs.", lambda: len(self._running))

    # ---------------------------------------------------------------------------------------- life

    def open(self) -> None:
        """Start the workers; each opens the default model."""
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        """Accept no more jobs, and tell every waiting client that the server is shutting down."""
        self.queue.close()
        for job in self.running():
            self.cancel(job, APIError("unavailable", "the server is shutting down", retry_after=10))

    def close(self, timeout: float = 3.0) -> None:
        """Stop. Drawing ends after the current step; finished images are written.

        Args:
            timeout: seconds that all workers together have for that step.
        """
        self.stop()
        ends = time.monotonic() + timeout
        for worker in self.workers:
            if worker.is_alive:
                worker.join(max(0.0, ends - time.monotonic()))
            if not worker.is_alive:
                worker.engine.close()
        self._delivery.close()
        self.archive.close()

    @property
    def trouble(self) -> str | None:
        """Why no images can be drawn now; None when they can."""
        for worker in self.workers:
            if worker.trouble is not None:
                return worker.trouble
        return None if any(worker.is_ready for worker in self.workers) else "the model is being opened"

    # ---------------------------------------------------------------------------------------- jobs

    def prepare(self, parameters: GenerationParameters, owner: str, api: str) -> Job:
        """Check parameters and record a job for them. `start` queues it, so that listeners can be added first.

        Raises:
            APIError: the first invalid field, in one sentence.
        """
        self._rate_limit.check(owner)
        requests, model = self._validator.requests(parameters)
        if parameters.identity is not None and _ID.fullmatch(parameters.identity) is None:
            raise APIError("invalid", "invalid job id: expected 32 lower-case hexadecimal digits")
        return self.record(Job(requests, model, owner, api, parameters.identity, parameters.iteration))

    def check(self, parameters: GenerationParameters) -> None:
        """Raise what `prepare` would raise, except for the image and the mask; nothing is recorded.

        Raises:
            APIError: the first invalid field, in one sentence.
        """
        self._validator.check(parameters)

    def reason(self, parameters: GenerationParameters) -> tuple[ImageRequest, str]:
        """The first image that `prepare` would queue, with its caption, and the model's name; nothing is recorded.

        Raises:
            APIError: the first invalid field, in one sentence.
        """
        return self._validator.first_request(parameters)

    def record(self, job: Job) -> Job:
        """Record a job whose requests are valid; `start` queues it.

        Raises:
            APIError: its id is taken.
        """
        if not self.archive.begin(job):
            raise APIError("exists", f"job {job.id} exists already; ask for it by its id")
        job.listen(self._on_event)  # first, so that the archive has the end before any client hears of it
        return job

    def start(self, job: Job) -> None:
        """Put a recorded job into the queue.

        Raises:
            APIError: the queue is full.
        """
        with self._lock:
            self._running[job.id] = job
        try:
            self.queue.put(job, self.pace)
        except APIError as error:
            for task in job.tasks:
                job.fail(task, error)
            raise

    def running(self, owner: str | None = None, api: str | None = None) -> list[Job]:
        """Unfinished jobs, oldest first."""
        with self._lock:
            return [
                job
                for job in self._running.values()
                if (owner is None or job.owner == owner) and (api is None or job.api == api)
            ]

    def find(self, identity: str) -> Job | None:
        """An unfinished job by its id."""
        return self._running.get(identity)

    def status(self, record: JobRecord) -> tuple[str, float]:
        """State and progress, 0 to 1, of a job of the archive; those of the running job where it has not ended."""
        running = self.find(record["id"])
        if running is not None:
            return running.state, running.progress
        if record["state"] == "done":  # retention may have removed its images since
            return "done", 1.0
        return record["state"], len(record["finished_pictures"]) / max(1, record["pictures"])

    def cancel(self, job: Job, why: APIError | None = None, tasks: Sequence[Task] | None = None) -> None:
        """Stop a job, or some of its images: waiting ones at once, those being drawn after the current step."""
        chosen = [task for task in (job.tasks if tasks is None else tasks) if not task.is_final]
        for task in chosen:
            task.unwanted = True
        self.queue.drop(lambda task: task in chosen)
        for task in chosen:
            job.fail(task, why or APIError("cancelled", "the drawing was stopped"))

    def end_early(self, job: Job) -> None:
        """End a job with what there is: waiting images are dropped, those being drawn end after the current step.

        An image that shares a batch with another job's images is finished with them.
        """
        drawing = [task for task in job.tasks if task.state == "drawing"]
        for task in drawing:
            task.ends_early = True
        self.cancel(job, tasks=[task for task in job.tasks if task not in drawing])

    def unload(self) -> None:
        """Unload every model, once the current batches are finished."""
        for worker in self.workers:
            worker.unload()

    def reload(self, model: str) -> None:
        """Open a model on every device, once the current batches are finished.

        Raises:
            APIError: it cannot be opened.
        """
        for worker in self.workers:
            worker.open(model)

    def expected_wait(self) -> float:
        """Estimated seconds until an image that is queued now starts, from the recent pace."""
        return len(self.queue) * self.pace

    @property
    def pace(self) -> float:
        """Recent seconds per image with all workers together; a guess until the first image."""
        paces = [worker.pace for worker in self.workers if worker.pace > 0] or [FIRST_PACE]
        return sum(paces) / len(paces) / len(self.workers)

    def _check_memory(self, model: str, request: ImageRequest) -> None:
        """Raise for a request that no worker has the memory for. Known only once every worker has the model open."""
        sizes = self.library.sizes(model)
        free = [memory for worker in self.workers if (memory := worker.free_memory(model)) is not None]
        if sizes is not None and len(free) == len(self.workers):
            require_memory(sizes, max(free, key=lambda memory: memory.free), request)

    def _on_event(self, event: Event) -> None:
        job = event.task.job
        if event.kind in FINAL and job.is_final:
            try:
                self.archive.finish(job)
            except Exception:
                logger.exception("the end of job %s cannot be recorded", job.id)
            with self._lock:
                self._running.pop(job.id, None)
