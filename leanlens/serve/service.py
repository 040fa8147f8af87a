"""From what an API has read to pictures: the one way in, for every API.

Comes in: `GenerationParameters`, in which whatever the client left out is None. Goes out: a running `Job`. Defaults are
the model's, limits are the operator's. Knows nothing of HTTP; a page or a tool in the same process uses it too.
"""

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from leanlens.log import logger
from leanlens.pictures.decode import suffix_of
from leanlens.pipeline.draw import DrawnPicture
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import MAX_SEED, ImageRequest, LatentResize, resolve_seed
from leanlens.resolution import require_whole_tokens
from leanlens.serve.engine import Engine, LocalEngine
from leanlens.serve.errors import APIError, api_error_from
from leanlens.serve.jobs import Archive
from leanlens.serve.library import Library, Sizes
from leanlens.serve.logging import REQUEST
from leanlens.serve.memory import require_memory
from leanlens.serve.metrics import server_metrics
from leanlens.serve.queue import FairQueue
from leanlens.serve.reasoning import Reasoning
from leanlens.serve.safety import SafetyFilter
from leanlens.serve.settings import ServerSettings
from leanlens.serve.tasks import FINAL, Event, Job, Task
from leanlens.serve.uploads import to_png, upright_bytes
from leanlens.serve.worker import Worker

FIRST_PACE = 5.0  # seconds for a picture, as long as none has been drawn
_UNPACKED = 2  # uploads that are unpacked at a time; each may take some hundred megabytes until it is kept
_ID = re.compile(r"[0-9a-f]{32}")
_FIELDS = tuple(ImageRequest.model_fields)


@dataclass
class GenerationParameters:
    """What a client asks for; None is what it left out, and takes the model's default.

    Attributes:
        prompt, negative_prompt, width, height, num_inference_steps, guidance_scale, strength: as in `ImageRequest`.
        model: by the library's name.
        seed: of the first picture; the next ones count up. None and -1 are random.
        count: pictures.
        image: a picture to start from, with the bytes it came as; without bytes it is kept as PNG.
        mask: white is repainted; of the same size as `image`.
        loras: names and scales.
        latent_resize: as in `ImageRequest`; a picture of another size is brought to the one to draw in that way.
        reason: "off" draws the prompt as it is; None and "default" leave that to the server.
        fixed: what the caption is to say: key of a fact -> value, as in `leanlens.reason`.
        reasoned: the record of a prompt that a reasoner has written already; then nothing is rewritten.
        iteration: how many of the pictures belong together, for clients that count in batches.
        source: puts `image`, `image_bytes` and `mask` in; called once all that is known without them is accepted, so
            that nothing is unpacked for a request that is refused anyway.
        identity: a job id of the client's own, 32 hexadecimal digits.
    """

    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    count: int = 1
    image: Image.Image | None = None
    image_bytes: bytes | None = None
    mask: Image.Image | None = None
    strength: float | None = None
    loras: Sequence[tuple[str, float]] = ()
    iteration: int = 1
    source: "Callable[[GenerationParameters], None] | None" = None
    identity: str | None = None
    latent_resize: LatentResize | None = None
    reason: str | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    reasoned: Reasoned | None = None


EngineFactory = Callable[[ServerSettings, Library], Sequence[Engine]]
"""What has the devices: a server's settings and library -> one engine for each."""


def local_engines(settings: ServerSettings, library: Library) -> list[Engine]:
    """The devices of this process."""
    return [LocalEngine(name, settings, library) for name in settings.devices]


class ImageService:
    """Workers, queue, archive and library of one server.

    Args:
        settings: the operator's.
        engines: what has the devices.
        sizes: as `Library` takes it.

    Raises:
        ValueError: a folder that cannot be written to, or an unusable setting.
    """

    def __init__(self, settings: ServerSettings, engines: EngineFactory = local_engines, sizes: Sizes | None = None):
        self.settings = settings
        self.library = Library(settings, sizes)
        self.reasoning = Reasoning(settings, self.library)
        self.safety = SafetyFilter(settings)
        self.archive = Archive(settings.output, settings.keep_days, settings.keep_pictures)
        self.queue = FairQueue(settings.max_queue, settings.switch_patience)
        self.metrics = server_metrics()
        self.started = time.time()
        self._running: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._calls: dict[str, deque[float]] = {}
        self._unpacking = threading.BoundedSemaphore(_UNPACKED)
        # Writing PNG files takes a processor, not the device: the worker goes on meanwhile.
        self._writers = ThreadPoolExecutor(2, thread_name_prefix="leanlens-write")
        self.workers = [
            Worker(engine, settings, self.queue, self.library, self.metrics, self._deliver)
            for engine in engines(settings, self.library)
        ]
        self.metrics.gauge("leanlens_queue_pictures", "Pictures that wait.", lambda: len(self.queue))
        self.metrics.gauge("leanlens_queue_seconds", "Until a picture that came now would begin.", self.expected_wait)
        self.metrics.gauge("leanlens_jobs_running", "Jobs that are not finished.", lambda: len(self._running))

    # ---------------------------------------------------------------------------------------- life

    def open(self) -> None:
        """Start the workers, which open the default model."""
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        """Take nothing more, and tell everybody who waits that the server ends."""
        self.queue.close()
        for job in self.running():
            self.cancel(job, APIError("unavailable", "the server is shutting down", retry_after=10))

    def close(self, timeout: float = 3.0) -> None:
        """Stop: what is drawing is stopped at its next step, what is finished is written.

        Args:
            timeout: seconds for all workers together to reach that step.
        """
        self.stop()
        ends = time.monotonic() + timeout
        for worker in self.workers:
            if worker.is_alive:
                worker.join(max(0.0, ends - time.monotonic()))
            if not worker.is_alive:
                worker.engine.close()
        self._writers.shutdown()
        self.archive.close()

    @property
    def trouble(self) -> str | None:
        """Why pictures cannot be drawn now; None when they can."""
        for worker in self.workers:
            if worker.trouble is not None:
                return worker.trouble
        return None if any(worker.is_ready for worker in self.workers) else "the model is being opened"

    # ---------------------------------------------------------------------------------------- jobs

    def prepare(self, parameters: GenerationParameters, owner: str, api: str) -> Job:
        """Check generation parameters and write the job down; `start` begins it, so that listeners can be there before.

        Raises:
            APIError: whatever is not accepted, in one sentence.
        """
        self._check_rate(owner)
        requests, model = self._requests(parameters)
        if parameters.identity is not None and _ID.fullmatch(parameters.identity) is None:
            raise APIError("invalid", "job id is not accepted: give 32 hexadecimal digits in lower case")
        return self.write_down(Job(requests, model, owner, api, parameters.identity, parameters.iteration))

    def check(self, parameters: GenerationParameters) -> None:
        """Refuse what `prepare` would refuse, but for the picture and the mask; nothing is kept.

        Raises:
            APIError: whatever is not accepted, in one sentence.
        """
        try:
            self._fields(parameters)
        except ValueError as error:
            raise api_error_from(error, _FIELDS) from None

    def reason(self, parameters: GenerationParameters) -> tuple[ImageRequest, str]:
        """What `prepare` would draw first, with its caption and record, and the model's name; nothing is kept.

        Raises:
            APIError: whatever is not accepted, in one sentence.
        """
        try:
            fields, seed, model = self._fields(parameters)
            request = ImageRequest.checked(**fields, seed=seed)
            starts_from_an_image = parameters.image is not None or parameters.source is not None
            return request if starts_from_an_image else self._rewritten([request], model, parameters)[0], model
        except ValueError as error:
            raise api_error_from(error, _FIELDS) from None

    def write_down(self, job: Job) -> Job:
        """Enter a job whose requests are checked; `start` begins it.

        Raises:
            APIError: its id is taken.
        """
        if not self.archive.begin(job):
            raise APIError("exists", f"job {job.id} exists already; ask for it by its id")
        job.listen(self._note)  # the first to hear: whoever is answered finds the end written down
        return job

    def start(self, job: Job) -> None:
        """Put a prepared job into the queue.

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
        """Jobs that are not finished, the oldest first."""
        with self._lock:
            return [
                job
                for job in self._running.values()
                if (owner is None or job.owner == owner) and (api is None or job.api == api)
            ]

    def find(self, identity: str) -> Job | None:
        """A job that is not finished, by its id."""
        return self._running.get(identity)

    def cancel(self, job: Job, why: APIError | None = None, tasks: Sequence[Task] | None = None) -> None:
        """Stop a job, or some of its pictures: those waiting at once, those being drawn at the next step."""
        chosen = [task for task in (job.tasks if tasks is None else tasks) if not task.is_final]
        for task in chosen:
            task.unwanted = True
        self.queue.drop(lambda task: task in chosen)
        for task in chosen:
            job.fail(task, why or APIError("cancelled", "the drawing was stopped"))

    def end_early(self, job: Job) -> None:
        """End a job with what there is: what waits is dropped, what is being drawn ends after its running step.

        A picture that is drawn in one batch with those of another job is finished with them.
        """
        drawing = [task for task in job.tasks if task.state == "drawing"]
        for task in drawing:
            task.ends_early = True
        self.cancel(job, tasks=[task for task in job.tasks if task not in drawing])

    def unload(self) -> None:
        """Let every model go, once what is being drawn is finished."""
        for worker in self.workers:
            worker.unload()

    def reload(self, model: str) -> None:
        """Have a model open on every device, once what is being drawn is finished.

        Raises:
            APIError: it cannot be opened.
        """
        for worker in self.workers:
            worker.open(model)

    def expected_wait(self) -> float:
        """Seconds until a picture that came now would begin, by the pace of the last ones."""
        return len(self.queue) * self.pace

    @property
    def pace(self) -> float:
        """Seconds from one picture to the next, lately, with all workers together; a guess before the first."""
        paces = [worker.pace for worker in self.workers if worker.pace > 0] or [FIRST_PACE]
        return sum(paces) / len(paces) / len(self.workers)

    # ---------------------------------------------------------------------------------------- inside

    def _requests(self, parameters: GenerationParameters) -> tuple[list[ImageRequest], str]:
        """What is to be drawn: limits first, then the picture to start from, which is let go once it is kept."""
        try:
            fields, seed, model = self._fields(parameters)
            if parameters.image is not None or parameters.mask is not None or parameters.source is not None:
                with self._unpacking:
                    fields |= self._unpacked(parameters, model, fields, seed)
            requests = [ImageRequest.checked(**fields, seed=seed + index) for index in range(parameters.count)]
            return self._rewritten(requests, model, parameters), model
        except ValueError as error:
            raise api_error_from(error, _FIELDS) from None
        finally:
            parameters.image = parameters.image_bytes = parameters.mask = parameters.source = None

    def _rewritten(
        self, requests: list[ImageRequest], model: str, parameters: GenerationParameters
    ) -> list[ImageRequest]:
        """Each request with its own caption; what a caption says in other words is held against the filter too."""
        found = self.reasoning.rewrite(requests, model, parameters.reason, parameters.fixed)
        for request in found:
            if request.reasoner is not None:
                self.safety.check_prompt(request.prompt)
        return found

    def _fields(self, parameters: GenerationParameters) -> tuple[dict[str, Any], int, str]:
        """Everything but picture and mask, within the operator's bounds; the first seed; the model."""
        settings = self.settings
        model = self.library.find_model(parameters.model)
        for name, text in (("prompt", parameters.prompt), ("negative_prompt", parameters.negative_prompt)):
            if len(text) > settings.max_prompt:
                raise APIError(
                    "invalid", f"{name} has {len(text):,} characters; at most {settings.max_prompt:,} are accepted",
                    name,
                )  # fmt: skip
        self.safety.check_prompt(parameters.prompt)
        if not 1 <= parameters.count <= settings.max_count:
            raise APIError("invalid", f"n {parameters.count} is not accepted: give 1 to {settings.max_count}", "n")
        defaults = self.library.defaults(model)
        steps = (
            defaults.num_inference_steps if parameters.num_inference_steps is None else parameters.num_inference_steps
        )
        width, height = _size(parameters, defaults.side)
        seed = resolve_seed(parameters.seed)
        fields: dict[str, Any] = {
            "prompt": parameters.prompt,
            "negative_prompt": parameters.negative_prompt,
            "width": width,
            "height": height,
            "num_inference_steps": steps,
            "guidance_scale": defaults.guidance_scale
            if parameters.guidance_scale is None
            else parameters.guidance_scale,
            "loras": [self.library.find_lora(name, scale) for name, scale in parameters.loras],
            "reasoner": parameters.reasoned,
        }
        self._check_steps(steps)
        self._check(parameters, model, fields, seed)
        return fields, seed, model

    def _check(self, parameters: GenerationParameters, model: str, fields: dict[str, Any], seed: int) -> None:
        """Refuse a request that is none, or is beyond what the operator or the memory allows."""
        request = ImageRequest.checked(**fields, seed=seed)
        self._check_limits(request.width, request.height, seed + parameters.count - 1)
        self._check_memory(model, request)

    def _unpacked(
        self, parameters: GenerationParameters, model: str, fields: dict[str, Any], seed: int
    ) -> dict[str, Any]:
        """The picture to start from, and the size, which may be its own."""
        if parameters.source is not None:
            parameters.source(parameters)
        own = dict(zip(("width", "height"), _size(parameters, fields["width"]), strict=True))
        if any(side != fields[name] for name, side in own.items()):
            self._check(parameters, model, {**fields, **own}, seed)
        return own | self._source(parameters)

    def _check_steps(self, steps: int) -> None:
        """The one bound that this server has, whatever a request may hold elsewhere."""
        if not 1 <= steps <= self.settings.max_steps:
            raise APIError(
                "invalid",
                f"num_inference_steps {str(steps)[:20]} is not accepted: give a whole number from 1 to "
                f"{self.settings.max_steps}",
                "num_inference_steps",
            )

    def _check_limits(self, width: int, height: int, last_seed: int) -> None:
        """The operator's bounds, on numbers that are accepted as such."""
        if width * height > self.settings.max_pixels:
            raise APIError("invalid", _too_large(width, height, self.settings.max_pixels), "size")
        if last_seed > MAX_SEED:
            raise APIError("invalid", f"seed is not accepted: that of the last picture would pass {MAX_SEED}", "seed")

    def _check_memory(self, model: str, request: ImageRequest) -> None:
        """Reject what fits in no worker that has the model open; the others find out when they open it."""
        sizes = self.library.sizes(model)
        free = [memory for worker in self.workers if (memory := worker.free_memory(model)) is not None]
        if sizes is not None and len(free) == len(self.workers):
            require_memory(sizes, max(free, key=lambda memory: memory.free), request)

    def _source(self, parameters: GenerationParameters) -> dict[str, Any]:
        """The picture to start from, kept in the archive; strength as `leanlens generate` has it."""
        if parameters.image is None:
            if parameters.mask is not None:
                raise APIError("missing", "image is missing beside mask", "image")
            return {}
        if parameters.mask is not None and parameters.mask.size != parameters.image.size:
            raise APIError(
                "invalid",
                f"mask is {parameters.mask.width}x{parameters.mask.height} but the picture is {parameters.image.width}x"
                f"{parameters.image.height}; give a mask of the same size",
                "mask",
            )
        if parameters.mask is not None and parameters.mask.convert("L").getbbox() is None:
            raise APIError("invalid", "mask marks nothing, so nothing would be repainted", "mask")
        default = 0.6 if parameters.mask is None else 1.0
        # What asks to be turned is kept as it was turned: nobody who opens the file turns it again.
        given = (parameters.image_bytes and upright_bytes(parameters.image_bytes)) or to_png(parameters.image)
        image = self.archive.keep_input(given, f".{suffix_of(given)}")
        mask = None if parameters.mask is None else str(self.archive.keep_input(to_png(parameters.mask), ".png"))
        strength = default if parameters.strength is None else parameters.strength
        return {"image": str(image), "mask": mask, "strength": strength, "latent_resize": parameters.latent_resize}

    def _check_rate(self, owner: str) -> None:
        most = self.settings.requests_per_minute
        if most is None:
            return
        now = time.monotonic()
        with self._lock:
            for other in [other for other, calls in self._calls.items() if calls[-1] < now - 60]:
                del self._calls[other]
            calls = self._calls.setdefault(owner, deque())
            while calls and calls[0] < now - 60:
                calls.popleft()
            if len(calls) >= most:
                wait = max(1.0, calls[0] + 60 - now)
                raise APIError(
                    "rate", f"more than {most} requests in a minute; try again in {wait:.0f} s", retry_after=wait
                )
            calls.append(now)

    def _deliver(self, task: Task, drawn: DrawnPicture) -> None:
        """A worker has drawn a picture: write it aside, then say so."""
        self._writers.submit(self._write, task, drawn)

    def _write(self, task: Task, drawn: DrawnPicture) -> None:
        REQUEST.set(task.job.request_id)
        if task.is_final:  # cancelled while it was finished
            return
        if not self.settings.marking:
            drawn.record["marking"] = None
        try:
            drawn.record["safety"] = self.safety.check_picture(drawn.image, task.request.prompt)
        except Exception as error:  # a filter that fails lets nothing through
            if not isinstance(error, APIError):
                logger.exception("the safety filter failed")
                error = APIError("failed", "the safety filter failed; the server's log says why")
            self.metrics.count("leanlens_pictures_total", state=error.kind)
            task.job.fail(task, error)
            return
        try:
            task.picture = self.archive.store(task, drawn)
        except Exception as error:
            logger.exception("a finished picture cannot be written")
            task.job.fail(task, APIError("failed", f"the picture cannot be written: {type(error).__name__}"))
            return
        self.metrics.count("leanlens_pictures_total", state="done")
        task.job.report(task, "done")

    def _note(self, event: Event) -> None:
        job = event.task.job
        if event.kind in FINAL and job.is_final:
            try:
                self.archive.finish(job)
            except Exception:
                logger.exception("the end of job %s cannot be written down", job.id)
            with self._lock:
                self._running.pop(job.id, None)


def named_size(text: str) -> tuple[int, int]:
    """Width and height of a size in the form WIDTHxHEIGHT.

    Raises:
        APIError: another form, or sides that are no multiples of 16; of the field "size".
    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text, re.ASCII)
    if match is None:
        raise APIError("invalid", f"size {text[:40]!r} is not accepted; give WIDTHxHEIGHT or auto", "size")
    width, height = int(match[1]), int(match[2])
    try:
        require_whole_tokens("width", width)
        require_whole_tokens("height", height)
    except ValueError as error:
        raise APIError("invalid", f"size {text}: {error}", "size") from None
    return width, height


def _size(parameters: GenerationParameters, side: int) -> tuple[int, int]:
    """Width and height: as given, or those of the source image cut to whole tokens, or the model's own square."""
    if (parameters.width is None) != (parameters.height is None):
        missing = "width" if parameters.width is None else "height"
        raise APIError("missing", f"{missing} is missing; give both sides or none", missing)
    if parameters.width is not None and parameters.height is not None:
        return parameters.width, parameters.height
    if parameters.image is not None:
        return max(16, parameters.image.width // 16 * 16), max(16, parameters.image.height // 16 * 16)
    return side, side


def _too_large(width: int, height: int, most: int) -> str:
    factor = math.sqrt(most / (width * height))
    fits = [max(16, int(side * factor) // 16 * 16) for side in (width, height)]
    return f"size {width}x{height} is not accepted: at most {most:,} pixels are, such as {fits[0]}x{fits[1]}"
