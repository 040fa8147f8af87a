"""`resize_mode` of img2img: how an image of another shape is brought to the shape of the result.

Source: `resize_image` and `StableDiffusionProcessingImg2Img` of AUTOMATIC1111's web UI 1.10.
"""

import math

import numpy as np
from PIL import Image

from leanlens.serve.errors import APIError
from leanlens.serve.parameters import GenerationParameters

STRETCH, CROP, FILL, LATENT = range(4)
"""The values of `resize_mode`."""


def resize_source(mode: int, parameters: GenerationParameters, size: tuple[int, int], most: int) -> None:
    """Resize the image of the parameters, and its mask, to the shape of `size` (width, height).

    Args:
        mode: 0 stretches, 1 crops, 2 pads by repeating the border, 3 stretches the latents.
        parameters: changed in place.
        size: of the result.
        most: pixels that the image may have with mode 3, which encodes it at its own size.

    Raises:
        APIError: another mode, or mode 3 with a mask or with an image that is too large.
    """
    assert parameters.image is not None
    if mode not in (STRETCH, CROP, FILL, LATENT):
        raise APIError(
            "invalid", f"invalid resize_mode {str(mode)[:20]}: expected 0 (stretch), 1 (crop), 2 (fill) or "
            "3 (stretch the latents)", "resize_mode",
        )  # fmt: skip
    if mode == LATENT:
        _check_latent_resize(parameters, size, most)
    if mode == CROP or parameters.image.width * size[1] == parameters.image.height * size[0]:
        return  # the pipeline crops and scales
    target = _same_area(parameters.image, size) if mode == LATENT else size
    change = _filled if mode == FILL else _stretched
    parameters.image, parameters.image_bytes = change(parameters.image, target), None
    if parameters.mask is not None:
        parameters.mask = change(parameters.mask, target)


def _check_latent_resize(parameters: GenerationParameters, size: tuple[int, int], most: int) -> None:
    assert parameters.image is not None
    if parameters.mask is not None:
        raise APIError("invalid", "invalid resize_mode 3 with mask: expected 0 (stretch), 1 (crop) or 2 (fill)",
                      "resize_mode")  # fmt: skip
    if parameters.image.width * parameters.image.height > most:
        raise APIError(
            "invalid",
            f"invalid resize_mode 3 for an image of {parameters.image.width}x{parameters.image.height}: expected at "
            f"most {most:,} pixels, or 0 (stretch), 1 (crop) or 2 (fill)",
            "resize_mode",
        )
    if parameters.image.size != size:
        parameters.latent_resize = "bilinear"


def _same_area(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """A size with the shape of `size` and the area of `picture`; the rest of the scaling is done on the latents."""
    factor = math.sqrt(picture.width * picture.height / (size[0] * size[1]))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _stretched(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS)


def _filled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole image in the centre, padded by repeating its border."""
    width, height = size
    scale = min(width / picture.width, height / picture.height)
    inner = (max(1, min(width, round(picture.width * scale))), max(1, min(height, round(picture.height * scale))))
    values = np.asarray(_stretched(picture, inner))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    around = [(top, height - inner[1] - top), (left, width - inner[0] - left)]
    return Image.fromarray(np.pad(values, around + [(0, 0)] * (values.ndim - 2), mode="edge"))
