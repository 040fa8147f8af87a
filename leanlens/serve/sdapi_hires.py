"""Hires fix for clients of AUTOMATIC1111: images are drawn, enlarged, and drawn again from there.

The final size is checked against the server's limits before the first pass.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from leanlens.pipeline.image import open_picture
from leanlens.pipeline.request import ImageRequest
from leanlens.serve.errors import APIError, api_error_from, with_client_names
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.prompts import read_prompt
from leanlens.serve.sdapi_bodies import TextBody, in_whole_tokens
from leanlens.serve.sdapi_extras import LATENT_MODES, encoded, find_upscaler
from leanlens.serve.service import ImageService
from leanlens.serve.tasks import Job, Task
from leanlens.serve.uploads import to_png

_STRENGTH = 0.7  # the web UI's default for hires fix


@dataclass(frozen=True)
class SecondPass:
    """The second pass: the final size, how the image is enlarged, and the settings of the drawing."""

    width: int
    height: int
    latent: str | None
    resampling: Image.Resampling | None
    strength: float
    steps: int | None
    prompt: str | None
    negative_prompt: str | None


def plan_second_pass(
    service: ImageService, body: TextBody, parameters: GenerationParameters
) -> tuple[SecondPass, list[str]]:
    """Read the second pass, and check it against the server's limits.

    Raises:
        APIError: an unknown upscaler, or an invalid final size, steps or strength.
    """
    width, height, notes = _final_size(service, body, parameters)
    name = body.hr_upscaler or "Latent"
    latent = next((mode for known, mode in LATENT_MODES.items() if known.lower() == name.lower()), None)
    resampling = find_upscaler(name, "hr_upscaler", tuple(LATENT_MODES)) if latent is None else None
    if latent is None and resampling is None:
        resampling = Image.Resampling.LANCZOS
    strength = _STRENGTH if body.denoising_strength is None else body.denoising_strength
    if strength == 0:
        latent, resampling = None, resampling or Image.Resampling.LANCZOS
        notes.append("denoising_strength 0 skips the second pass: the image is only enlarged")
    steps = body.hr_second_pass_steps or None
    prompt, said = _prompt(body.hr_prompt or "")
    negative_prompt = body.hr_negative_prompt or ""
    with with_client_names(_names(steps, prompt, negative_prompt)):
        service.check(replace(
            parameters, width=width, height=height, num_inference_steps=steps or parameters.num_inference_steps,
            prompt=prompt or parameters.prompt, negative_prompt=negative_prompt or parameters.negative_prompt,
        ))  # fmt: skip
    found = SecondPass(width, height, latent, resampling, strength, steps, prompt or None, negative_prompt or None)
    return found, notes + said


def _prompt(written: str) -> tuple[str, list[str]]:
    """The text of `hr_prompt`, and notes on what has no effect."""
    try:
        read = read_prompt(written)
    except ValueError as error:
        raise APIError("invalid", f"hr_{error}", "hr_prompt") from None
    notes = [f"hr_prompt: {note}" for note in read.notes]
    if read.loras:
        notes.append("hr_prompt: its LoRAs are ignored: the second pass uses those of prompt")
    return read.text, notes


def _names(steps: int | None, prompt: str, negative_prompt: str) -> dict[str, str]:
    """Our names of fields -> those of the second pass, for the fields that the client sent."""
    given = {"num_inference_steps": (steps, "hr_second_pass_steps"), "prompt": (prompt, "hr_prompt"),
             "negative_prompt": (negative_prompt, "hr_negative_prompt")}  # fmt: skip
    return {ours: theirs for ours, (value, theirs) in given.items() if value} | {"size": "hires size"}


def _final_size(service: ImageService, body: TextBody, parameters: GenerationParameters) -> tuple[int, int, list[str]]:
    own = service.library.defaults(service.library.find_model(parameters.model)).side
    width, height = parameters.width or own, parameters.height or own
    to_width, to_height = body.hr_resize_x or 0, body.hr_resize_y or 0
    if not to_width and not to_height:
        factor = 2.0 if body.hr_scale is None else min(max(body.hr_scale, 0.0), 1000.0)
        to_width, to_height = round(width * factor), round(height * factor)
    elif not to_width:
        to_width = round(to_height * width / height)
    elif not to_height:
        to_height = round(to_width * height / width)
    return in_whole_tokens(to_width, to_height, service.settings.max_pixels, "hires size")


def second_job(service: ImageService, first: Job, plan: SecondPass, api: str) -> Job:
    """A recorded job that draws every finished image of the first job again."""
    requests = [_request(service, task, plan) for task in first.tasks if task.picture is not None]
    return service.record(Job(requests, first.model, first.owner, api, iteration=first.iteration))


def _request(service: ImageService, task: Task, plan: SecondPass) -> ImageRequest:
    assert task.picture is not None
    if plan.latent is None:
        data = to_png(enlarged(open_picture(task.picture.path), plan))
    else:
        data = task.picture.path.read_bytes()
    fields: dict[str, Any] = task.request.model_dump() | {
        "width": plan.width,
        "height": plan.height,
        "image": str(service.archive.keep_input(data, ".png")),
        "strength": plan.strength,
        "latent_resize": plan.latent,
        "num_inference_steps": plan.steps or task.request.num_inference_steps,
        "prompt": plan.prompt or task.request.prompt,
        "reasoner": None if plan.prompt else task.request.reasoner,
        "negative_prompt": plan.negative_prompt or task.request.negative_prompt,
    }
    try:
        return ImageRequest.checked(**fields)
    except ValueError as error:
        raise api_error_from(error, tuple(ImageRequest.model_fields)) from None


def enlarged(picture: Image.Image, plan: SecondPass) -> Image.Image:
    """An image resampled to the size of the second pass, cropped where the shapes differ."""
    assert plan.resampling is not None
    return ImageOps.fit(picture.convert("RGB"), (plan.width, plan.height), plan.resampling)


def enlarged_file(path: Path, plan: SecondPass) -> str:
    """Base64 of a finished image that is only enlarged."""
    with Image.open(path) as picture:
        picture.load()
        factor = f"{plan.width / picture.width:g}"
        return encoded(enlarged(picture, plan), picture, factor, "Lanczos")
