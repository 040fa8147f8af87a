"""Follows jobs from asynchronous code. A caller that stops following stops the jobs."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from starlette.requests import Request

from leanlens.serve.errors import APIError
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import FINAL, Event, Job, Task


async def follow(
    service: ImageService, jobs: Sequence[Job], request: Request | None = None, every: float = 0.5
) -> AsyncGenerator[list[Event]]:
    """Start prepared jobs and yield their events until all have ended, in lists: all that came since the last one.

    The first list comes as soon as the jobs are queued, and is usually empty. The jobs have the server's time limit,
    once for each. Those that have not ended when the iteration stops are cancelled.

    Args:
        service: where the jobs were prepared.
        jobs: what to start.
        request: the client's; the iteration ends when it disconnects. None where the caller stops the iteration.
        every: seconds without events after which an empty list is yielded.

    Raises:
        APIError: the queue is full, or the time is up.
    """
    loop = asyncio.get_running_loop()
    events: list[Event] = []
    arrived = asyncio.Event()

    def take(event: Event) -> None:
        events.append(event)
        arrived.set()

    def hand_over(event: Event) -> None:  # called in the thread that reports
        if not loop.is_closed():
            loop.call_soon_threadsafe(take, event)

    limit = service.settings.timeout * len(jobs)
    ends = time.monotonic() + limit
    unfinished = sum(len(job.tasks) for job in jobs)
    try:
        for job in jobs:
            events += job.listen(hand_over)
            service.start(job)
        while True:
            arrived.clear()
            batch, events[:] = events[:], []
            unfinished -= sum(event.kind in FINAL for event in batch)
            yield batch
            if not unfinished or (request is not None and await request.is_disconnected()):
                return
            if time.monotonic() >= ends:
                raise APIError("timeout", f"the images were not finished within {limit:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), min(every, max(0.01, ends - time.monotonic())))
    finally:
        for job in jobs:
            if not job.is_final:
                service.cancel(job)


async def finished(service: ImageService, job: Job, request: Request) -> list[Task]:
    """Start a prepared job and wait for its end; gives the tasks that have an image.

    Raises:
        APIError: of the first task, if no task has an image.
    """
    async for _ in follow(service, [job], request):
        pass
    done = [task for task in job.tasks if task.picture is not None]
    if not done:
        raise next((task.error for task in job.tasks if task.error), APIError("cancelled", "the client went away"))
    return done
