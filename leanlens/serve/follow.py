"""Waiting for a job from asynchronous code.

Comes in: a job. Goes out: its events in the event loop, until it ends, times out, or the client goes away, which frees
its place. Knows nothing of what the events become.
"""

import asyncio
import time
from collections.abc import AsyncGenerator

from starlette.requests import Request

from leanlens.serve.errors import APIError
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import FINAL, Event, Job, Task

_LOOK_EVERY = 0.5  # seconds between looks at whether the client is still there


async def follow(service: ImageService, job: Job, request: Request | None = None) -> AsyncGenerator[Event]:
    """Start a prepared job and yield its events; whoever stops iterating, stops the job.

    Args:
        service: where it was prepared.
        job: what to start.
        request: the client's, which may go away meanwhile; None where that ends the iteration by itself.

    Raises:
        APIError: the queue is full, or the time is up.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def hand_over(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    job.listen(hand_over)
    ends = time.monotonic() + service.settings.timeout
    ended, looked = 0, time.monotonic()
    try:
        service.start(job)
        while ended < len(job.tasks):
            if time.monotonic() >= ends:
                limit = service.settings.timeout
                raise APIError("timeout", f"the picture was not finished within {limit:g} s")
            if time.monotonic() - looked >= _LOOK_EVERY:
                if request is not None and await request.is_disconnected():
                    return
                looked = time.monotonic()
            try:
                event = await asyncio.wait_for(events.get(), min(_LOOK_EVERY, max(0.01, ends - time.monotonic())))
            except TimeoutError:
                continue
            ended += event.kind in FINAL
            yield event
    finally:
        if not job.is_final:
            service.cancel(job)


async def finished(service: ImageService, job: Job, request: Request) -> list[Task]:
    """Start a prepared job and wait for its end; gives the tasks that have a picture.

    Raises:
        APIError: the first one, if no picture came.
    """
    async for _ in follow(service, job, request):
        pass
    done = [task for task in job.tasks if task.picture is not None]
    if not done:
        raise next((task.error for task in job.tasks if task.error), APIError("cancelled", "the client went away"))
    return done
