"""The API for clients of the OpenAI Images API: generations, edits, variations and models, and our own jobs.

Besides the standard fields it takes seed, num_inference_steps (or steps), guidance_scale (or cfg_scale),
negative_prompt, loras, width, height, strength, reason and fixed. A field that is left out takes the model's default.
`/v1/prompts/reason` returns the caption that would be drawn for a prompt, before anything is drawn.

Source: the OpenAI Images API as its Python client 3.54 speaks it; `docs/serve.md` lists what is accepted.
"""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from leanlens.pipeline.metadata import read_record
from leanlens.serve.archive import JobRecord
from leanlens.serve.encode import SUFFIXES, picture_bytes
from leanlens.serve.errors import APIError, with_client_names
from leanlens.serve.follow import finished, follow
from leanlens.serve.openai_bodies import (
    GenerationBody,
    ImageBody,
    PromptBody,
    form_description,
)
from leanlens.serve.openai_edits import Edit, read_edit, read_variation
from leanlens.serve.openai_responses import event_response, image_response
from leanlens.serve.parameters import GenerationParameters, parse_size
from leanlens.serve.reasoning import not_understood
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import StoredPicture
from leanlens.serve.uploads import mask_from_transparency, open_upload

_KINDS = {suffix: kind for kind, suffix in SUFFIXES.items()}
MOST_JOBS = 1000  # jobs in one list


def openai_router(service: ImageService) -> APIRouter:
    """The routes under `/v1`."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/images/generations")
    async def generations(body: GenerationBody, request: Request) -> Response:
        body.require_prompt()
        body.check()
        return await _answer(service, body, _parameters(service, body), request, "image_generation")

    @router.post("/images/edits", openapi_extra=form_description("image", "prompt"))
    async def edits(request: Request) -> Response:
        edit = await read_edit(request, service.settings)
        edit.body.require_prompt()
        return await _answer_edit(service, edit, request)

    @router.post("/images/variations", openapi_extra=form_description("image"))
    async def variations(request: Request) -> Response:
        return await _answer_edit(service, await read_variation(request, service.settings), request)

    @router.post("/prompts/reason")
    async def reason(body: PromptBody) -> dict[str, Any]:
        with with_client_names({} if body.size else {"size": "width x height"}):
            return await run_in_threadpool(_reasoned, service, body)

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service, name) for name in service.library.models()]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(service, service.library.find_model(name))

    @router.get("/jobs")
    async def jobs(request: Request, limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = 50) -> dict[str, Any]:
        found = await run_in_threadpool(service.archive.recent, request.state.owner, limit)
        return {"object": "list", "data": [_job(service, request, one) for one in found]}

    @router.get("/jobs/{identity}")
    async def job(identity: str, request: Request) -> dict[str, Any]:
        found = await run_in_threadpool(service.archive.job, identity)
        if found is None or found["owner"] != request.state.owner:
            raise APIError("unknown", "there is no such job", "id")
        return _job(service, request, found)

    @router.post("/jobs/{identity}/cancel")
    async def cancel(identity: str, request: Request) -> dict[str, Any]:
        running = service.find(identity)
        if running is None or running.owner != request.state.owner:
            raise APIError("unknown", "there is no such job, or it has ended", "id")
        service.cancel(running)
        return {"id": identity, "state": running.state}

    return router


def pictures_router(service: ImageService) -> APIRouter:
    """The files that `url` links to. Their names cannot be guessed, so they need no key."""
    router = APIRouter(tags=["pictures"])

    @router.get("/pictures/{name}")
    async def picture(name: str, quality: Annotated[int, Query(ge=0, le=100)] = 95) -> Response:
        stem, _, suffix = name.rpartition(".")
        kept, kind = f"{stem}.png", _KINDS.get(f".{suffix}")
        path = await run_in_threadpool(service.archive.picture, kept) if kind else None
        if path is None or kind is None:
            raise APIError("unknown", "there is no such picture", "name")
        headers = {"Cache-Control": "private, max-age=86400"}
        if kind == "png":
            return FileResponse(path, media_type="image/png", headers=headers)
        stored = StoredPicture(kept, path, await run_in_threadpool(read_record, path))
        data = await run_in_threadpool(picture_bytes, stored, kind, quality)
        return Response(data, media_type=f"image/{kind}", headers=headers)

    return router


# ------------------------------------------------------------------------------------------- reading


def _parameters(service: ImageService, body: ImageBody) -> GenerationParameters:
    """The body as parameters; a quality may set the number of steps."""
    steps = body.num_inference_steps if body.num_inference_steps is not None else body.steps
    if steps is None and body.quality is not None:
        steps = _steps_for(service, service.library.find_model(body.model), body.quality)
    width, height = _size(body)
    return GenerationParameters(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt or "",
        model=body.model,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=body.guidance_scale if body.guidance_scale is not None else body.cfg_scale,
        seed=body.seed,
        count=1 if body.n is None else body.n,
        strength=body.strength,
        loras=[(lora.name, lora.scale) for lora in body.loras or []],
        reason=body.reason,
        fixed=body.fixed or {},
    )


def _reasoned(service: ImageService, body: PromptBody) -> dict[str, Any]:
    """The caption that would be drawn for a prompt, and its record where the prompt is rewritten."""
    width, height = _size(body)
    request, model = service.reason(GenerationParameters(
        body.prompt, model=body.model, width=width, height=height, seed=body.seed, reason=body.reason,
        fixed=body.fixed or {}, loras=[(lora.name, lora.scale) for lora in body.loras or []],
    ))  # fmt: skip
    record = request.reasoner
    return {
        "model": model,
        "seed": request.seed,
        "width": request.width,
        "height": request.height,
        "prompt": request.prompt,
        "reasoner": None if record is None else record.model_dump(mode="json"),
        "warnings": not_understood([record], model),
    }


def _steps_for(service: ImageService, model: str, quality: str) -> int | None:
    """low halves the model's steps, high and above double them up to 50; a model without guidance keeps its own."""
    own = service.library.defaults(model)
    if own.guidance_scale == 1 or quality in ("auto", "medium", "standard"):
        return None
    if quality == "low":
        return max(1, own.num_inference_steps // 2)
    return max(own.num_inference_steps, min(50, 2 * own.num_inference_steps))


def _size(body: ImageBody | PromptBody) -> tuple[int | None, int | None]:
    if body.width is not None or body.height is not None:
        return body.width, body.height
    if body.size in (None, "", "auto"):
        return None, None
    return parse_size(body.size or "")


def _add_source(service: ImageService, edit: Edit, parameters: GenerationParameters) -> None:
    parameters.image, parameters.image_bytes = open_upload(edit.image, service.settings, "image"), edit.image
    if edit.mask is not None:
        parameters.mask = mask_from_transparency(open_upload(edit.mask, service.settings, "mask"))


# ------------------------------------------------------------------------------------------- answering


async def _answer_edit(service: ImageService, edit: Edit, request: Request) -> Response:
    parameters = _parameters(service, edit.body)
    parameters.source = partial(_add_source, service, edit)
    return await _answer(service, edit.body, parameters, request, "image_edit")


async def _answer(
    service: ImageService, body: ImageBody, parameters: GenerationParameters, request: Request, kind: str
) -> Response:
    parameters.identity = request.headers.get("x-job-id")
    with with_client_names(body.names):
        job = await run_in_threadpool(service.prepare, parameters, request.state.owner, "openai")
    headers = {"x-job-id": job.id}
    if body.stream:
        return await event_response(body, job, follow(service, [job], request), kind, headers)
    return await image_response(body, await finished(service, job, request), _links(service, request), headers)


def _links(service: ImageService, request: Request) -> str:
    """The address that links to images begin with."""
    return (service.settings.public_url or str(request.base_url)).rstrip("/")


def _model(service: ImageService, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(service.started), "owned_by": "leanlens"}


def _job(service: ImageService, request: Request, known: JobRecord) -> dict[str, Any]:
    """A job with links to its images and, while it runs, its progress."""
    state, progress = service.status(known)
    return {
        "id": known["id"],
        "object": "job",
        "model": known["model"],
        "created": int(known["created"]),
        "state": state,
        "progress": progress,
        "error": known["error"],
        "n": known["pictures"],
        "data": [
            {"index": each["index"], "url": f"{_links(service, request)}/pictures/{each['name']}"}
            for each in known["finished_pictures"]
        ],
    }
