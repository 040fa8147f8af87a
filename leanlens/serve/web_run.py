"""Generation parameters of the page, followed until they end.

Starts their jobs and yields whenever something happens to them. Knows nothing of the page.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from starlette.concurrency import run_in_threadpool

from leanlens.serve.errors import APIError
from leanlens.serve.service import GenerationParameters, ImageService
from leanlens.serve.tasks import Event, Job

API = "page"
_PAUSE = 0.2  # seconds between two looks, so that a quick model does not send more than a browser shows
_LOOK_EVERY = 1.0  # seconds without news after which it is looked anyway


async def run(
    service: ImageService, parameter_sets: Sequence[GenerationParameters], owner: str, jobs: list[Job]
) -> AsyncGenerator[None]:
    """Prepare and start a job for each set, in `jobs`, and yield whenever there is news, the last time at the end.

    Whoever stops iterating stops the jobs. Each set has the server's time limit.

    Raises:
        APIError: generation parameters is not accepted, or the time is up; what was started is stopped then.
    """
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def ring(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(news.set)

    limit = service.settings.timeout * len(parameter_sets)
    ends = time.monotonic() + limit
    try:
        for parameters in parameter_sets:
            job = await run_in_threadpool(service.prepare, parameters, owner, API)
            jobs.append(job)
            job.listen(ring)
            service.start(job)
        yield
        while not all(job.is_final for job in jobs):
            if time.monotonic() >= ends:
                raise APIError("timeout", f"the pictures were not finished within {limit:g} s")
            await _wait(news)
            yield
            await asyncio.sleep(_PAUSE)
    finally:
        for job in jobs:
            if not job.is_final:
                service.cancel(job)


async def _wait(news: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(news.wait(), _LOOK_EVERY)
    except TimeoutError:
        return
    news.clear()
