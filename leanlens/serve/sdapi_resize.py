"""`resize_mode` of img2img: how a picture of another shape becomes the one that is drawn from.

Comes in: a wish with its picture and mask, and the size to draw. Goes out: the same wish, whose picture has the shape
of that size. The size itself is checked before.

Source: `resize_image` and `StableDiffusionProcessingImg2Img` of AUTOMATIC1111's web UI 1.10.
"""

import math

import numpy as np
from PIL import Image

from leanlens.serve.desk import Wish
from leanlens.serve.refusal import Refusal

STRETCH, CROP, FILL, LATENT = range(4)
"""The values of `resize_mode`."""


def resize_source(mode: int, wish: Wish, size: tuple[int, int], most: int) -> None:
    """Bring the picture of a wish, and its mask, to the shape of `size` (width, height).

    Args:
        mode: 0 stretches, 1 crops, 2 fills what is missing by repeating the border, 3 stretches between the latents.
        wish: what is changed.
        size: of the picture to draw.
        most: pixels that the source may have with mode 3, which encodes it at its own size.

    Raises:
        Refusal: another mode, or mode 3 with a mask or a picture that is too large for it.
    """
    assert wish.image is not None
    if mode not in (STRETCH, CROP, FILL, LATENT):
        raise Refusal(
            "invalid", f"resize_mode {str(mode)[:20]} is not accepted; use 0 (stretch), 1 (crop), 2 (fill) or "
            "3 (stretch the latents)", "resize_mode",
        )  # fmt: skip
    if mode == LATENT:
        _leave_to_the_latents(wish, size, most)
    if mode == CROP or wish.image.width * size[1] == wish.image.height * size[0]:
        return  # the pipeline crops, and scales
    target = _same_area(wish.image, size) if mode == LATENT else size
    change = _filled if mode == FILL else _stretched
    wish.image, wish.image_bytes = change(wish.image, target), None
    if wish.mask is not None:
        wish.mask = change(wish.mask, target)


def _leave_to_the_latents(wish: Wish, size: tuple[int, int], most: int) -> None:
    assert wish.image is not None
    if wish.mask is not None:
        raise Refusal("invalid", "resize_mode 3 is not accepted beside mask; use 0 (stretch), 1 (crop) or 2 (fill)",
                      "resize_mode")  # fmt: skip
    if wish.image.width * wish.image.height > most:
        raise Refusal(
            "invalid", f"resize_mode 3 is not accepted for a picture of {wish.image.width}x{wish.image.height}: at "
            f"most {most:,} pixels are; use 0 (stretch), 1 (crop) or 2 (fill)", "resize_mode",
        )  # fmt: skip
    if wish.image.size != size:
        wish.latent_resize = "bilinear"


def _same_area(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """A size with the shape of `size` and about the pixels of `picture`: what is left is enlarged as latents."""
    factor = math.sqrt(picture.width * picture.height / (size[0] * size[1]))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _stretched(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS)


def _filled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole picture in the middle, and around it its outermost pixels again."""
    width, height = size
    scale = min(width / picture.width, height / picture.height)
    inner = (max(1, min(width, round(picture.width * scale))), max(1, min(height, round(picture.height * scale))))
    values = np.asarray(_stretched(picture, inner))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    around = [(top, height - inner[1] - top), (left, width - inner[0] - left)]
    return Image.fromarray(np.pad(values, around + [(0, 0)] * (values.ndim - 2), mode="edge"))
