"""Wishes of the page, followed until they end.

Comes in: wishes. Goes out: their jobs, again and again while something happens to them. Knows nothing of the page, and
nothing of how the desk draws.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from starlette.concurrency import run_in_threadpool

from leanlens.serve.desk import Desk, Wish
from leanlens.serve.refusal import Refusal
from leanlens.serve.tasks import Event, Job

DOOR = "page"
_PAUSE = 0.2  # seconds between two looks, so that a quick model does not send more than a browser shows
_LOOK_EVERY = 1.0  # seconds without news after which it is looked anyway


async def run(desk: Desk, wishes: Sequence[Wish], owner: str, jobs: list[Job]) -> AsyncGenerator[None]:
    """Prepare and start a job for each wish, in `jobs`, and yield whenever there is news, the last time at the end.

    Whoever stops iterating stops the jobs. Each wish has the server's time limit.

    Raises:
        Refusal: a wish is not accepted, or the time is up; what was started is stopped then.
    """
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def ring(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(news.set)

    limit = desk.settings.timeout * len(wishes)
    ends = time.monotonic() + limit
    try:
        for wish in wishes:
            job = await run_in_threadpool(desk.prepare, wish, owner, DOOR)
            jobs.append(job)
            job.listen(ring)
            desk.start(job)
        yield
        while not all(job.is_final for job in jobs):
            if time.monotonic() >= ends:
                raise Refusal("timeout", f"the pictures were not finished within {limit:g} s")
            await _wait(news)
            yield
            await asyncio.sleep(_PAUSE)
    finally:
        for job in jobs:
            if not job.is_final:
                desk.cancel(job)


async def _wait(news: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(news.wait(), _LOOK_EVERY)
    except TimeoutError:
        return
    news.clear()
