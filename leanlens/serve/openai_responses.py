"""Responses of the OpenAI Images API: images, usage, event streams and error bodies.

Source: the OpenAI Images API as its Python client 3.54 speaks it.
"""

import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from leanlens.serve.encode import SUFFIXES, picture_bytes, preview_bytes
from leanlens.serve.errors import APIError
from leanlens.serve.openai_bodies import ImageBody
from leanlens.serve.reasoning import not_understood
from leanlens.serve.tasks import Event, Job, Task

_CLOSING = 5.0  # seconds that streams have for their last events when the server stops


async def image_response(body: ImageBody, tasks: list[Task], links: str, headers: dict[str, str]) -> Response:
    """The response with all images at once; `links` is the address that links to images begin with."""
    data = [await run_in_threadpool(_datum, body, task, links) for task in tasks]
    answer = {"created": int(time.time()), "data": data, **_description(body, tasks), "usage": _usage(tasks)}
    if warnings := _warnings(body, tasks):
        answer["warnings"] = warnings
    return JSONResponse(answer, headers=headers)


async def event_response(
    body: ImageBody, job: Job, events: AsyncGenerator[list[Event]], kind: str, headers: dict[str, str]
) -> Response:
    """The response that streams a job's events; it begins with the first one, so a full queue still has its status.

    Args:
        body: of the request.
        job: what is streamed.
        events: as `follow` gives them.
        kind: image_generation or image_edit, which names of events begin with.
        headers: of the response.

    Raises:
        APIError: the queue is full, or the time is up before the first event.
    """
    first: list[Event] = []
    async for first in events:
        if first:
            break
    stream = _frames(body, job, first, events, kind)
    # Clients are sent what the service says when it stops, so the library must not close their streams before.
    return EventSourceResponse(stream, headers=headers, sep="\n", shutdown_grace_period=_CLOSING)


async def _frames(
    body: ImageBody, job: Job, first: Sequence[Event], events: AsyncGenerator[list[Event]], kind: str
) -> AsyncIterator[ServerSentEvent]:
    """Partial images, one completed event for each image, and an error event for what went wrong."""
    wanted = {task.index: _partial_steps(task, body.partial_images or 0) for task in job.tasks}
    sent = dict.fromkeys(wanted, 0)
    try:
        async with aclosing(events):
            async for event in _chained(first, events):
                task = event.task
                if event.kind == "step" and event.preview is not None and event.preview.step in wanted[task.index]:
                    yield await run_in_threadpool(_partial, body, event, kind, sent[task.index])
                    sent[task.index] += 1
                elif event.kind == "done":
                    yield await run_in_threadpool(_completed, body, task, kind)
                elif event.kind in ("failed", "cancelled") and task.error is not None:
                    yield _frame("error", {"type": "error", **error_body(task.error)})
    except APIError as error:
        yield _frame("error", {"type": "error", **error_body(error)})


async def _chained(first: Sequence[Event], rest: AsyncIterator[list[Event]]) -> AsyncIterator[Event]:
    for event in first:
        yield event
    async for events in rest:
        for event in events:
            yield event


def _datum(body: ImageBody, task: Task, links: str) -> dict[str, Any]:
    assert task.picture is not None
    found = _rewriting(task)
    if body.wants_links:
        name = Path(task.picture.name).with_suffix(SUFFIXES[body.output_format or "png"]).name
        quality = "" if body.output_compression is None else f"?quality={body.output_compression}"
        found["url"] = f"{links}/pictures/{name}{quality}"
    if body.wants_base64:
        found["b64_json"] = _base64(picture_bytes(task.picture, body.output_format or "png", _quality(body)))
    return found


def _rewriting(task: Task) -> dict[str, Any]:
    """The caption that was drawn and the reasoner's record, if the prompt was rewritten."""
    record = task.request.reasoner
    return {} if record is None else {"revised_prompt": record.prompt, "reasoner": record.model_dump(mode="json")}


def _warnings(body: ImageBody, tasks: list[Task]) -> list[str]:
    """Fields without effect, and words of the prompt that the model does not know."""
    return body.warnings() + not_understood([task.request.reasoner for task in tasks], tasks[0].model)


def _partial_steps(task: Task, count: int) -> set[int]:
    """Steps after which a preview is sent: spread evenly from the second, the first with one, to the last but one."""
    return {max(2, round(task.steps * (index + 1) / (count + 1))) for index in range(count)} - {task.steps}


def _partial(body: ImageBody, event: Event, kind: str, index: int) -> ServerSentEvent:
    assert event.preview is not None
    request = event.task.request
    data = preview_bytes(event.preview, (request.width, request.height), body.output_format or "png")
    name = f"{kind}.partial_image"
    return _frame(name, {"type": name, "b64_json": _base64(data), "partial_image_index": index,
                         "created_at": int(time.time()), **_description(body, [event.task])})  # fmt: skip


def _completed(body: ImageBody, task: Task, kind: str) -> ServerSentEvent:
    assert task.picture is not None
    data = picture_bytes(task.picture, body.output_format or "png", _quality(body))
    name = f"{kind}.completed"
    said = {"warnings": warnings} if (warnings := _warnings(body, [task])) else {}
    return _frame(name, {"type": name, "b64_json": _base64(data), "created_at": int(time.time()),
                         **_description(body, [task]), "usage": _usage([task]), **_rewriting(task),
                         **said})  # fmt: skip


def _frame(event: str, data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data), event=event, sep="\n")


def _description(body: ImageBody, tasks: list[Task]) -> dict[str, str]:
    request = tasks[0].request
    return {
        "background": "opaque",
        "output_format": body.output_format or "png",
        "quality": body.quality or "auto",
        "size": f"{request.width}x{request.height}",
    }


def _usage(tasks: list[Task]) -> dict[str, Any]:
    """Tokens of the prompt, of the image to start from, and of the images drawn (16 x 16 pixels each)."""
    area = tasks[0].request.width * tasks[0].request.height // 256
    text, source = tasks[0].text_tokens, area if tasks[0].request.image else 0
    output = area * len(tasks)
    return {
        "input_tokens": text + source,
        "input_tokens_details": {"text_tokens": text, "image_tokens": source},
        "output_tokens": output,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        "total_tokens": text + source + output,
    }


def error_body(error: APIError) -> dict[str, Any]:
    """The error body of the original."""
    return {"error": {"message": error.message, "type": error.info.type, "param": error.field, "code": error.info.code}}


def openai_error(error: APIError) -> Response:
    """The error response of the original, whose client retries on 5xx unless it is told not to."""
    headers = {} if error.retry_after is None else {"retry-after": str(max(1, round(error.retry_after)))}
    if error.info.status >= 500:
        headers["x-should-retry"] = "false"
    return JSONResponse(error_body(error), error.info.status, headers)


def _quality(body: ImageBody) -> int:
    return 95 if body.output_compression is None else body.output_compression


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
