"""The API for clients of AUTOMATIC1111, `/sdapi/v1`: drawing, progress, interrupt and skip.

A field that is left out takes the model's default, not AUTOMATIC1111's (7, 512, 50).

Source: modules/api of AUTOMATIC1111's web UI, and what webuiapi 0.9, Open WebUI, SillyTavern and LibreChat send.
"""

import base64
import json
import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from leanlens.serve.encode import picture_bytes
from leanlens.serve.errors import APIError, invalid, with_client_names
from leanlens.serve.follow import finished
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.prompts import read_prompt
from leanlens.serve.sdapi_bodies import NAMES, DrawingBody, PictureBody, TextBody, comments_on, in_whole_tokens
from leanlens.serve.sdapi_hires import SecondPass, enlarged_file, plan_second_pass, second_job
from leanlens.serve.sdapi_options import FORMATS, ClientSettings, check_setting, find_checkpoint
from leanlens.serve.sdapi_resize import resize_source
from leanlens.serve.sdapi_responses import drawing_info, echo, progress_of
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job, Task
from leanlens.serve.uploads import from_base64, mask_from_brightness, open_upload

API = "sdapi"


def sdapi_router(service: ImageService, client_settings: ClientSettings) -> APIRouter:
    """The routes that draw, and those that report on and stop a drawing."""
    router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

    @router.post("/txt2img")
    async def txt2img(body: TextBody, request: Request) -> Response:
        owner = request.state.owner
        with with_client_names(NAMES):
            parameters, notes = _parameters(service, client_settings, body, owner)
            plan = None
            if body.enable_hr and body.firstphase_width and body.firstphase_height:
                _swap_first_phase(body, parameters)
            notes += _round_size(service, parameters)
            if body.enable_hr:
                plan, said = await run_in_threadpool(plan_second_pass, service, body, parameters)
                notes += said
            return await _answer(service, client_settings, body, parameters, notes, request, plan)

    @router.post("/img2img")
    async def img2img(body: PictureBody, request: Request) -> Response:
        with with_client_names(NAMES):
            parameters, notes = _parameters(service, client_settings, body, request.state.owner)
            parameters.strength = body.denoising_strength
            notes += _round_size(service, parameters)
            parameters.source = lambda parameters: notes.extend(_add_source(service, body, parameters))
            return await _answer(service, client_settings, body, parameters, notes, request)

    @router.get("/progress")
    async def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        jobs = service.running(request.state.owner, API)
        return await run_in_threadpool(progress_of, service, jobs, skip_current_image)

    @router.post("/interrupt")
    async def interrupt(request: Request) -> dict[str, Any]:
        for job in service.running(request.state.owner, API):
            service.end_early(job)
        return {}

    @router.post("/skip")
    async def skip(request: Request) -> None:
        for job in service.running(request.state.owner, API):
            drawing = [task.index // job.iteration for task in job.tasks if task.state == "drawing"]
            service.cancel(job, tasks=[task for task in job.tasks if [task.index // job.iteration] == drawing[:1]])

    return router


# ------------------------------------------------------------------------------------------- reading


def _parameters(
    service: ImageService, client_settings: ClientSettings, body: DrawingBody, owner: str
) -> tuple[GenerationParameters, list[str]]:
    """The body as parameters, and notes on fields without effect."""
    if body.script_name:
        raise APIError("invalid", f"Script {body.script_name[:60]!r} not found", "script_name")
    if body.alwayson_scripts:
        raise APIError("invalid", f"always on script {next(iter(body.alwayson_scripts))[:60]} not found",
                      "alwayson_scripts")  # fmt: skip
    try:
        read = read_prompt(body.prompt or "")
    except ValueError as error:
        raise APIError("invalid", str(error), "prompt") from None
    settings = client_settings.read(owner, service) | (body.override_settings or {})
    chosen = (body.override_settings or {}).get("sd_model_checkpoint")
    model = client_settings.model(owner) if not chosen else find_checkpoint(service, str(chosen))
    most = service.settings.max_count
    for name, count in (("batch_size", body.batch_size), ("n_iter", body.n_iter)):
        if count is not None and not 1 <= count <= most:
            raise invalid(name, count, f"1 to {most}")
    parameters = GenerationParameters(
        prompt=read.text,
        negative_prompt=body.negative_prompt or "",
        model=model,
        width=body.width,
        height=body.height,
        num_inference_steps=body.steps,
        guidance_scale=body.cfg_scale,
        seed=None if body.seed is None or body.seed < 0 else body.seed,
        count=(body.batch_size or 1) * (body.n_iter or 1),
        iteration=body.batch_size or 1,
        loras=read.loras,
        reason=str(settings["reason"]) if body.reason is None else body.reason,
        fixed=body.fixed or {},
        identity=body.force_task_id if re.fullmatch(r"[0-9a-f]{32}", body.force_task_id or "") else None,
    )
    return parameters, [*read.notes, *comments_on(body)]


def _round_size(service: ImageService, parameters: GenerationParameters) -> list[str]:
    """Round the size to whole tokens; returns notes."""
    if parameters.width is None or parameters.height is None:
        return []
    parameters.width, parameters.height, notes = in_whole_tokens(
        parameters.width, parameters.height, service.settings.max_pixels
    )
    return notes


def _swap_first_phase(body: TextBody, parameters: GenerationParameters) -> None:
    """The old fields of hires fix: width and height are the final size, firstphase_ that of the first pass."""
    body.hr_resize_x, body.hr_resize_y = parameters.width, parameters.height
    parameters.width, parameters.height = body.firstphase_width, body.firstphase_height


def _add_source(service: ImageService, body: PictureBody, parameters: GenerationParameters) -> list[str]:
    """Set the image and the mask of the parameters from the body; returns notes on what is done differently."""
    if not body.init_images:
        raise APIError("unknown", "Init image not found", "init_images")
    if len(body.init_images) > 1:
        raise APIError("invalid", f"init_images holds {len(body.init_images)} images: expected one", "init_images")
    data = from_base64(body.init_images[0], "init_images")
    picture = open_upload(data, service.settings, "init_images")
    notes = []
    mask = None
    if body.mask:
        mask = mask_from_brightness(
            open_upload(from_base64(body.mask, "mask"), service.settings, "mask"),
            picture.size, bool(body.inpainting_mask_invert), body.mask_blur or 0.0,
        )  # fmt: skip
        if body.inpaint_full_res:
            notes.append("inpaint_full_res is ignored: the whole image is drawn, and kept outside the mask")
        if body.inpainting_fill not in (None, 1):
            notes.append("inpainting_fill is ignored: the masked part starts from the image plus noise")
    parameters.image, parameters.image_bytes, parameters.mask = picture, data, mask
    if parameters.width and parameters.height:
        resize_source(
            body.resize_mode or 0, parameters, (parameters.width, parameters.height), service.settings.max_pixels
        )
    return notes


# ------------------------------------------------------------------------------------------- answering


async def _answer(
    service: ImageService,
    client_settings: ClientSettings,
    body: DrawingBody,
    parameters: GenerationParameters,
    notes: list[str],
    request: Request,
    plan: SecondPass | None = None,
) -> Response:
    job = await run_in_threadpool(service.prepare, parameters, request.state.owner, API)
    headers = {"x-job-id": job.id}
    tasks = await _drawn(service, job, request)
    if plan is not None and plan.strength > 0 and tasks and not any(task.ends_early for task in job.tasks):
        tasks, said = await _second_pass(service, job, tasks, plan, request)
        notes = notes + said
    kind, quality = _format(client_settings.read(request.state.owner, service) | (body.override_settings or {}), notes)

    def encode(task: Task) -> str:
        assert task.picture is not None
        if plan is not None and plan.strength == 0:
            return enlarged_file(task.picture.path, plan)
        return base64.b64encode(picture_bytes(task.picture, kind, quality)).decode("ascii")

    images = [] if body.send_images is False else [await run_in_threadpool(encode, task) for task in tasks]
    info = json.dumps(drawing_info(job, tasks, notes))
    return JSONResponse({"images": images, "parameters": echo(body), "info": info}, headers=headers)


async def _drawn(service: ImageService, job: Job, request: Request) -> list[Task]:
    try:
        return await finished(service, job, request)
    except APIError as error:
        if error.kind != "cancelled":
            raise
        return []  # interrupted before the first image: a response without images, as in the original


async def _second_pass(
    service: ImageService, first: Job, tasks: list[Task], plan: SecondPass, request: Request
) -> tuple[list[Task], list[str]]:
    """The finished images of the second pass, or those of the first pass with a note."""
    try:
        job = await run_in_threadpool(second_job, service, first, plan, API)
        await _drawn(service, job, request)
    except APIError as error:
        return tasks, [f"hires fix: the pictures are those of the first pass: {error.message}"]
    pairs = list(zip(tasks, job.tasks, strict=True))
    missing = [f"hires fix: picture {before.index} is that of the first pass: {after.error.message}"
               for before, after in pairs if after.picture is None and after.error is not None]  # fmt: skip
    return [before if after.picture is None else after for before, after in pairs], missing


def _format(settings: dict[str, Any], notes: list[str]) -> tuple[str, int]:
    """Format and quality of the images in the response; PNG, and a note, where the setting is invalid."""
    for name in ("samples_format", "jpeg_quality"):
        try:
            check_setting(name, settings[name])
        except APIError as error:
            notes.append(f"override_settings: {error.message}; PNG is sent")
            return "png", 100
    return FORMATS[str(settings["samples_format"]).lower()], settings["jpeg_quality"]
