"""Runs the jobs of the page, and tells it whenever there is something new to show."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from starlette.concurrency import run_in_threadpool

from leanlens.serve.follow import follow
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job

API = "page"
_PAUSE = 0.2  # seconds between two updates, so that a fast model does not send more than a browser shows
_UPDATE_EVERY = 1.0  # seconds without events after which the page is updated anyway


async def run(
    service: ImageService, parameter_sets: Sequence[GenerationParameters], owner: str, jobs: list[Job]
) -> AsyncGenerator[None]:
    """Prepare and start a job for each set of parameters, in `jobs`; yield after events, and once more at the end.

    Jobs that have not ended when the iteration stops are cancelled. Each set has the server's time limit.

    Raises:
        APIError: a set of parameters is invalid, or the time is up; jobs that were started are cancelled.
    """
    try:
        for parameters in parameter_sets:
            jobs.append(await run_in_threadpool(service.prepare, parameters, owner, API))
        async with aclosing(follow(service, jobs, every=_UPDATE_EVERY)) as events:
            async for _ in events:
                yield
                await asyncio.sleep(_PAUSE)
    finally:
        for job in jobs:
            if not job.is_final:
                service.cancel(job)
