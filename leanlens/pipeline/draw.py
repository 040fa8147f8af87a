"""Draws a request with an opened model, and records everything that decided the image.

Every interface draws through this file, so the same request gives the same bytes everywhere. An image that is drawn in
a batch with others may differ in the last bits, because sums over a larger batch are taken in another order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import leanlens
from leanlens.files import sha256
from leanlens.models.vae import token_pixels
from leanlens.pipeline.features import TextFeatures, join
from leanlens.pipeline.image import SourcePicture, open_picture, to_pixels
from leanlens.pipeline.metadata import DRAWN, EDITED
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.pipeline.variants import LensImg2ImgPipeline, LensInpaintPipeline
from leanlens.threads import StepThreads, threads_of


@dataclass(frozen=True)
class DrawnPicture:
    """An image, and the record of its request, model, input checksums and computing conditions.

    The record also has `marking`, that a model made the image, and `safety`, the filters that it passed. A caller may
    change these two before it saves the image; they decide no pixel.
    """

    image: Image.Image
    record: dict[str, Any]


Watch = Callable[[int, Any], bool | None]
Encode = Callable[[ImageRequest], tuple[TextFeatures, TextFeatures]]


def draw(
    opened: OpenedModel,
    request: ImageRequest,
    on_step: Callable[[int], None] | None = None,
    thread_plan: Sequence[Sequence[int]] | None = None,
    stop_after: int | None = None,
) -> DrawnPicture:
    """Draw one image.

    Args:
        opened: the model.
        request: what to draw.
        on_step: called with the number of finished steps.
        thread_plan: numbers of threads from another image's record (`StepThreads`); None chooses them by the load.
        stop_after: end after this step, as recorded for an image that was ended early.

    Raises:
        ValueError: an input file that is missing or does not fit, with its path.
    """

    def watch(step: int, _: Any) -> None:  # what a progress bar gives back means nothing
        if on_step is not None:
            on_step(step)

    return draw_together(opened, [request], watch, thread_plan=thread_plan, stop_after=stop_after)[0]


def can_be_drawn_together(requests: Sequence[ImageRequest]) -> bool:
    """Whether requests can share a batch: one, or several from noise that differ only in prompts and seeds."""
    kinds = {
        (one.width, one.height, one.num_inference_steps, one.guidance_scale, one.loras, one.exact) for one in requests
    }
    return len(requests) == 1 or (len(kinds) == 1 and all(one.image is None for one in requests))


def draw_together(
    opened: OpenedModel,
    requests: Sequence[ImageRequest],
    watch: Watch | None = None,
    encode: Encode | None = None,
    thread_plan: Sequence[Sequence[int]] | None = None,
    stop_after: int | None = None,
) -> list[DrawnPicture]:
    """Draw several requests in one batch, one image each.

    Args:
        opened: the model.
        requests: requests of one size, with the same steps, guidance and LoRAs.
        watch: called after every step with the number of finished steps and the latents (B, L, C). If it returns
            True, drawing ends there, at the earliest after the second step: the images are estimated from the latents,
            and their records name the step. An exception it raises ends drawing.
        encode: returns the text features of a request. Default: the opened model's cache and encoder.
        thread_plan: as `draw` takes it.
        stop_after: end after this step, as recorded for an image that was ended early.

    Raises:
        ValueError: requests that cannot share a batch, or an input file that is missing or does not fit.
    """
    if not can_be_drawn_together(requests):
        raise ValueError(
            f"requests: {len(requests)} that differ in size, steps, guidance or LoRAs, or that start from a picture, "
            "cannot share a batch; draw them one by one"
        )
    inputs = [_input_checksums(request) for request in requests]
    first = requests[0]
    opened.use_loras(first.loras)
    positive, negative = _joined([(encode or opened.features)(request) for request in requests])
    # Drawn on the CPU, so that a seed means the same picture on every device.
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]

    steps = _Steps(watch, stop_after)
    pipeline, start = _entry(opened, first)
    threads = opened.step_threads(thread_plan)
    with threads_of(opened.pipeline.transformer, threads):
        images = pipeline(
            prompt_embeds=positive.layers,
            prompt_mask=positive.mask,
            negative_prompt_embeds=negative.layers,
            negative_prompt_mask=negative.mask,
            height=first.height,
            width=first.width,
            num_inference_steps=first.num_inference_steps,
            guidance_scale=first.guidance_scale,
            generator=generators[0] if len(generators) == 1 else generators,
            exact=first.exact,
            guided_share=opened.speed.guided_share,
            callback_on_step_end=steps,
            **start,
        ).images
    return [
        DrawnPicture(image, _record(opened, request, sums, threads) | steps.said())
        for image, request, sums in zip(images, requests, inputs, strict=True)
    ]


class _Steps:
    """Between two steps: lets the caller look, and ends the drawing where it is to end.

    Between noise levels s and s', Euler's step is x' = x + (s' - s) v, so x' - s' v is where the path ends if it stays
    straight; that is what an ended picture shows. The first step's x is not seen here, so it is not ended after that.
    """

    def __init__(self, watch: Watch | None, stop_after: int | None):
        self.watch = watch
        self.stop_after = stop_after
        self.stopped_after: int | None = None
        self._asked = False
        self._before: torch.Tensor | None = None

    def __call__(self, pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents, step = tensors["latents"], index + 1
        if self.watch is not None:
            self._asked = bool(self.watch(step, latents)) or self._asked
        before, self._before = self._before, latents
        if before is None or step == len(pipeline.scheduler.timesteps) or not (self._asked or step == self.stop_after):
            return {}
        self.stopped_after = step
        pipeline.interrupt = True
        first = pipeline.scheduler.begin_index or 0
        high, low = (float(level) for level in pipeline.scheduler.sigmas[first + index : first + index + 2])
        velocity = (latents.float() - before.float()) / (low - high)
        return {"latents": (latents.float() - low * velocity).to(latents.dtype)}

    def said(self) -> dict[str, int]:
        """What a record says of an ended drawing; nothing of a finished one."""
        return {} if self.stopped_after is None else {"stopped_after": self.stopped_after}


def _record(opened: OpenedModel, request: ImageRequest, inputs: dict[str, Any], threads: StepThreads) -> dict[str, Any]:
    plan = {"step_threads": threads.changes} if threads.changes else {}
    return {
        "leanlens": leanlens.__version__,
        "request": request.model_dump(mode="json"),
        "model": opened.identity(),
        "inputs": inputs,
        "run": opened.conditions() | plan,
        "marking": DRAWN if request.image is None else EDITED,
        "safety": None,
    }


def _input_checksums(request: ImageRequest) -> dict[str, Any]:
    return {
        "image": _checksum(request.image, "image"),
        "mask": _checksum(request.mask, "mask"),
        "loras": [_checksum(lora.path, "lora") for lora in request.loras],
    }


def _joined(rows: list[tuple[TextFeatures, TextFeatures]]) -> tuple[TextFeatures, TextFeatures]:
    """Features of several requests as one batch; those of one stay as they are."""
    if len(rows) == 1:
        return rows[0]
    return join([positive for positive, _ in rows]), join([negative for _, negative in rows])


def _entry(opened: OpenedModel, request: ImageRequest) -> tuple[Any, dict[str, Any]]:
    """The pipeline class that a request asks for, sharing the opened components, and what it starts from."""
    if request.image is None:
        return opened.pipeline, {}
    if request.latent_resize is not None:
        return opened.pipeline, {"source": _before_resize(request, opened)}
    start = {"image": open_picture(request.image, "image"), "strength": request.strength}
    kind: Any = LensImg2ImgPipeline
    if request.mask is not None:
        kind, start["mask_image"] = LensInpaintPipeline, open_picture(request.mask, "mask")
    pipeline = kind(**opened.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, start


def _before_resize(request: ImageRequest, opened: OpenedModel) -> SourcePicture:
    """The picture to start from at its own size, in whole tokens, cut to the shape of the one to draw."""
    assert request.image is not None
    assert request.strength is not None
    picture, side = open_picture(request.image, "image"), token_pixels(opened.pipeline.vae)
    scale = min(picture.width / request.width, picture.height / request.height)
    size = [max(side, round(pixels * scale / side) * side) for pixels in (request.height, request.width)]
    return SourcePicture(to_pixels(picture, (size[0], size[1])), request.strength, latent_resize=request.latent_resize)


def _checksum(path: str | None, argument: str) -> str | None:
    if path is None:
        return None
    file = Path(path)
    try:
        return sha256(file / "adapter_model.safetensors" if file.is_dir() else file)  # PEFT keeps a LoRA in a folder
    except OSError as error:
        raise ValueError(f"{argument} {path} cannot be read: {error.strerror}") from None
