"""Jobs and their tasks: what one request asked for, one task for each image, and events about them.

APIs listen and workers report; neither knows the other. Everything here may be called from any thread.
"""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leanlens.log import logger
from leanlens.pipeline.request import ImageRequest
from leanlens.serve.errors import APIError
from leanlens.serve.logging import REQUEST
from leanlens.serve.preview import Preview

FINAL = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class StoredPicture:
    """A finished image: its public name, its file, and the record inside it."""

    name: str
    path: Path
    record: dict[str, Any]


@dataclass(eq=False)
class Task:
    """One image to draw.

    Attributes:
        request: what to draw.
        model: the library's name for the model.
        index: position in its job.
        state: waiting, drawing, or one of `FINAL`.
        step, steps: finished denoising steps, and their number.
        preview: the latest preview, from the second step on.
        picture: the finished image.
        text_tokens: number of tokens of the prompt, once it is encoded.
        error: why it failed.
        unwanted: nobody waits for it any more.
        ends_early: it ends after the current step, with the image as predicted then.
    """

    request: ImageRequest
    model: str
    job: "Job"
    index: int
    state: str = "waiting"
    since: float = field(default_factory=time.monotonic)
    step: int = 0
    steps: int = 1
    preview: Preview | None = None
    picture: StoredPicture | None = None
    text_tokens: int = 0
    error: APIError | None = None
    unwanted: bool = False
    ends_early: bool = False

    def __post_init__(self) -> None:
        strength = self.request.strength
        steps = self.request.num_inference_steps
        self.steps = steps if strength is None else max(1, min(steps, round(steps * strength)))

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True)
class Event:
    """Something happened to a task: "started", "step", or one of `FINAL`."""

    kind: str
    task: Task
    preview: Preview | None = None


Listener = Callable[[Event], None]


class Job:
    """The images that one request asks for.

    Args:
        requests: one for each image.
        model: the library's name for the model.
        owner: the client; the queue is fair between owners.
        api: the API that it came through.
        identity: 32 hexadecimal digits, or None to make them up.
        iteration: images per batch, for clients that count in batches.
    """

    def __init__(
        self,
        requests: Sequence[ImageRequest],
        model: str,
        owner: str,
        api: str,
        identity: str | None = None,
        iteration: int = 1,
    ):
        self.id = identity or secrets.token_hex(16)
        self.owner = owner
        self.api = api
        self.model = model
        self.created = time.time()
        self.request_id = REQUEST.get()  # for the log
        self.tasks = [Task(request, model, self, index) for index, request in enumerate(requests)]
        self.iteration = iteration
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> list[Event]:
        """Call `listener` with every event from now on; gives the final events so far."""
        with self._lock:
            self._listeners.append(listener)
            return [Event(task.state, task) for task in self.tasks if task.is_final]

    def report(self, task: Task, state: str, preview: Preview | None = None) -> None:
        """Change a task's state ("step" leaves it as it is) and call the listeners. A final state never changes."""
        with self._lock:
            if task.is_final:
                return
            if state == "step":
                task.preview = preview or task.preview
            else:
                task.state = "drawing" if state == "started" else state
            if task.state == "done":
                task.preview = None  # a stopped task keeps its last preview
            for listener in self._listeners:
                try:
                    listener(Event(state, task, preview))
                except Exception:  # a broken listener must not silence the others
                    logger.exception("a listener of job %s failed", self.id)

    def fail(self, task: Task, error: APIError) -> None:
        """End a task without an image."""
        task.error = error
        self.report(task, "cancelled" if error.kind == "cancelled" else "failed")

    @property
    def is_final(self) -> bool:
        return all(task.is_final for task in self.tasks)

    @property
    def is_drawing(self) -> bool:
        return any(task.state == "drawing" for task in self.tasks)

    @property
    def progress(self) -> float:
        """0 to 1, by finished steps."""
        done = sum(task.steps if task.is_final else task.step for task in self.tasks)
        return done / sum(task.steps for task in self.tasks)

    @property
    def state(self) -> str:
        """waiting, drawing, done (all images), partial (some), failed, cancelled."""
        if not self.is_final:
            return "drawing" if any(task.state != "waiting" for task in self.tasks) else "waiting"
        states = {task.state for task in self.tasks}
        if "done" in states:
            return "done" if len(states) == 1 else "partial"
        return "failed" if "failed" in states else "cancelled"
