"""A request on an opened model: the picture, and the record of everything that decided it.

Comes in: an `OpenedModel` and an `ImageRequest`. Goes out: a `DrawnPicture`. Every door draws through this function,
one picture at a time, so that the same request gives the same bytes at each of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import leanlens
from leanlens.files import sha256
from leanlens.pipeline.image import open_picture
from leanlens.pipeline.placement import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.pipeline.variants import LensImg2ImgPipeline, LensInpaintPipeline


@dataclass(frozen=True)
class DrawnPicture:
    """`image`, and `record`: the request, the model, the inputs' checksums and what it was computed with."""

    image: Image.Image
    record: dict[str, Any]


def draw(opened: OpenedModel, request: ImageRequest, on_step: Callable[[int], None] | None = None) -> DrawnPicture:
    """Draw one picture.

    Args:
        opened: the model.
        request: what to draw.
        on_step: called with the number of finished steps.

    Raises:
        ValueError: an input file that is missing or does not fit, with its path.
    """
    inputs = {
        "image": _checksum(request.image, "image"),
        "mask": _checksum(request.mask, "mask"),
        "loras": [_checksum(lora.path, "lora") for lora in request.loras],
    }
    opened.use_loras(request.loras)
    positive, negative = opened.features(request)
    # Drawn on the CPU, so that a seed means the same picture on every device.
    generator = torch.Generator("cpu").manual_seed(request.seed)

    def report(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if on_step is not None:
            on_step(index + 1)
        return {}

    pipeline, start = _entry(opened, request)
    images = pipeline(
        prompt_embeds=positive.layers,
        prompt_mask=positive.mask,
        negative_prompt_embeds=negative.layers,
        negative_prompt_mask=negative.mask,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=generator,
        exact=request.exact,
        callback_on_step_end=report,
        **start,
    ).images
    record = {
        "leanlens": leanlens.__version__,
        "request": request.model_dump(mode="json"),
        "model": opened.identity(),
        "inputs": inputs,
        "run": opened.conditions(),
    }
    return DrawnPicture(images[0], record)


def _entry(opened: OpenedModel, request: ImageRequest) -> tuple[Any, dict[str, Any]]:
    """The pipeline class that a request asks for, sharing the opened components, and what it starts from."""
    if request.image is None:
        return opened.pipeline, {}
    start = {"image": open_picture(request.image, "image"), "strength": request.strength}
    kind: Any = LensImg2ImgPipeline
    if request.mask is not None:
        kind, start["mask_image"] = LensInpaintPipeline, open_picture(request.mask, "mask")
    pipeline = kind(**opened.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, start


def _checksum(path: str | None, argument: str) -> str | None:
    if path is None:
        return None
    file = Path(path)
    try:
        return sha256(file / "adapter_model.safetensors" if file.is_dir() else file)  # PEFT keeps a LoRA in a folder
    except OSError as error:
        raise ValueError(f"{argument} {path} cannot be read: {error.strerror}") from None
