"""Responses to clients of AUTOMATIC1111: `info`, the echo of their fields, progress and errors.

Source: modules/api of AUTOMATIC1111's web UI 1.10.
"""

import base64
import json
import time
from typing import Any

from fastapi.responses import JSONResponse, Response

import leanlens
from leanlens.pipeline.metadata import parameters_text, reasoner_settings
from leanlens.serve.encode import preview_bytes
from leanlens.serve.errors import APIError
from leanlens.serve.reasoning import not_understood
from leanlens.serve.sdapi_bodies import DrawingBody
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job, Task

_TEXTS = ("prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt")
_MOST_ECHOED = 2000  # characters of a field; prompts have a limit of their own


def echo(body: DrawingBody) -> dict[str, Any]:
    """The known fields as they came, without images, very long values, and what JSON or UTF-8 cannot hold."""
    given = body.model_dump(include=set(type(body).model_fields) - {"init_images", "mask"})
    given = {name: value for name, value in given.items() if name in _TEXTS or not _is_long(value)}
    if getattr(body, "include_init_images", None):
        given["init_images"] = getattr(body, "init_images", None)
    text = json.dumps(given, ensure_ascii=False).encode("utf-8", "replace")
    return json.loads(text, parse_constant=lambda _: None)


def _is_long(value: Any) -> bool:
    return isinstance(value, str | list | dict) and len(json.dumps(value)) > _MOST_ECHOED


def drawing_info(job: Job, tasks: list[Task], notes: list[str]) -> dict[str, Any]:
    """What the original says of finished images, under its names."""
    shown = tasks or job.tasks[:1]
    request = shown[0].request
    records = [task.picture.record for task in tasks if task.picture is not None]
    notes = notes + not_understood([task.request.reasoner for task in shown], job.model)
    notes += [f"a picture is missing: {task.error.message}" for task in job.tasks if task.error is not None]
    count = len(shown)
    return {
        "prompt": request.prompt,
        "all_prompts": [task.request.prompt for task in shown],
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * count,
        "seed": request.seed,
        "all_seeds": [task.request.seed for task in shown],
        "subseed": request.seed,
        "all_subseeds": [task.request.seed for task in shown],
        "subseed_strength": 0,
        "width": request.width,
        "height": request.height,
        "sampler_name": "Euler",
        "cfg_scale": request.guidance_scale,
        "steps": request.num_inference_steps,
        "batch_size": count,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": job.model,
        "sd_model_hash": records[0]["model"]["fingerprint"][:10] if records else None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.strength,
        "extra_generation_params": reasoner_settings(request.model_dump(mode="json")),
        "index_of_first_image": 0,
        "infotexts": [parameters_text(record) for record in records],
        "styles": [],
        "job_timestamp": _timestamp(job.created),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"leanlens {leanlens.__version__}",
        "comments": "\n".join(notes),
        "job_id": job.id,
    }


def progress_of(service: ImageService, jobs: list[Job], skip_image: bool) -> dict[str, Any]:
    """Progress of a client's oldest running job; without one, the zeros that clients read as idle."""
    job = next((job for job in jobs if job.is_drawing), jobs[0] if jobs else None)
    state = {
        "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
        "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
    }  # fmt: skip
    if job is None:
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    drawing = [task for task in job.tasks if task.state == "drawing"]
    task = drawing[0] if drawing else job.tasks[0]
    state |= {
        "interrupted": any(task.ends_early for task in job.tasks),
        "job": job.id, "job_count": len(job.tasks), "job_timestamp": _timestamp(job.created),
        "job_no": sum(task.is_final for task in job.tasks), "sampling_step": task.step, "sampling_steps": task.steps,
    }  # fmt: skip
    done, spent = job.progress, time.time() - job.created
    preview = task.preview
    image = None if skip_image or preview is None else base64.b64encode(preview_bytes(preview)).decode("ascii")
    return {
        "progress": min(done, 0.99),
        "eta_relative": spent * (1 - done) / done if done > 0 else service.expected_wait(),
        "state": state,
        "current_image": image,
        "textinfo": None if drawing else f"waiting behind {max(0, len(service.queue) - len(job.tasks))} pictures",
    }


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


# Kind of an error -> status of the original; other kinds keep their own.
_STATUS = {"invalid": 422, "missing": 422}


def sdapi_error(error: APIError) -> Response:
    """The error response of the original."""
    headers = {} if error.retry_after is None else {"retry-after": str(max(1, round(error.retry_after)))}
    body = {"error": "HTTPException", "detail": error.message, "body": "", "errors": ""}
    return JSONResponse(body, _STATUS.get(error.kind, error.info.status), headers)
