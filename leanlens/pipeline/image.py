"""Converts images between PIL, arrays and tensors, and the pixels of the autoencoder, which are in -1..1.

Shapes: B images, H x W pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from leanlens.pictures import decode

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class SourcePicture:
    """The image that img2img or inpainting starts from.

    `pixels` (1 or B, 3, H, W) in -1..1; `repaint` (1 or B, 1, H, W) in 0..1, 1 where new content is wanted, or None for
    everywhere; `strength` in 0..1, the share of the noise levels to denoise again. With `latent_resize`, `pixels` may
    have another size than the image to draw: their latents are resized in this way (`vae.resize`).
    """

    pixels: Tensor
    strength: float
    repaint: Tensor | None = None
    latent_resize: str | None = None

    @property
    def rows(self) -> int:
        """Number of images; 1 serves any number of prompts."""
        return max(len(self.pixels), 1 if self.repaint is None else len(self.repaint))

    def repeat(self, times: int) -> "SourcePicture":
        """Repeat each image and each mask `times` times, copies next to each other; a single one stays single."""
        pixels, repaint = self.pixels, self.repaint
        if len(pixels) > 1:
            pixels = pixels.repeat_interleave(times, 0)
        if repaint is not None and len(repaint) > 1:
            repaint = repaint.repeat_interleave(times, 0)
        return replace(self, pixels=pixels, repaint=repaint)


def to_uint8(pixels: Tensor) -> np.ndarray:
    """(B, 3, H, W), clamped to -1..1 -> (B, H, W, 3) uint8; (x + 1) * 127.5 is truncated, not rounded."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


def from_pixels(pixels: Tensor, output_type: str) -> Any:
    """(B, 3, H, W) in -1..1 -> a list of PIL pictures, a float array (B, H, W, 3) in 0..1, or a tensor in 0..1."""
    if output_type == "pil":
        return [Image.fromarray(array) for array in to_uint8(pixels)]
    unit = (pixels.float().clamp(-1, 1) + 1) / 2
    return unit.cpu() if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()


def to_pixels(image: Any, size: tuple[int, int] | None = None, argument: str = "image") -> Tensor:
    """An image as (1, 3, H, W) float32 in -1..1.

    Args:
        image: a PIL image (any mode; laid on white if transparent; turned upright by EXIF), an array (H, W), (H, W, 3)
            or (H, W, 4) of uint8, uint16 or floats in 0..1, or a tensor (3, H, W) or (B, 3, H, W) of the same.
        size: (height, width) to scale and centre-crop a PIL image or an array to; a tensor must have this size.
        argument: name of the argument in error messages.

    Raises:
        ValueError: anything else.
    """
    if isinstance(image, Tensor):
        return _checked_tensor(image, size, argument)
    picture = decode.on_white(_as_pil(image, argument))
    if size:
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
    array = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous()


def to_mask(mask: Any, source_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """A mask as (1, 1, H, W) float32 in 0..1, 1 (white) where the image is to be repainted.

    Args:
        mask: a PIL image of any mode, of which transparent parts are kept, or an array or tensor (H, W) of bool,
            uint8, uint16 or floats in 0..1.
        source_size: (height, width) of its image; the mask must have the same size.
        size: (height, width) to scale and crop it to, as `to_pixels` does with the image.

    Raises:
        ValueError: a mask of another size, or one that is black everywhere.
    """
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy().squeeze()
    mask = _as_pil(mask, "mask")
    if (mask.height, mask.width) != source_size:
        raise ValueError(
            f"the mask is {mask.width}x{mask.height} but the picture is {source_size[1]}x{source_size[0]}; "
            "give a mask of the same size"
        )
    grey = ImageOps.fit(decode.brightness(mask), (size[1], size[0]), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255)[None, None]
    if not (values > 0).any():
        raise ValueError("the mask is black everywhere, so nothing would be repainted; white marks what to repaint")
    return values


def each_picture(images: Any, argument: str = "image") -> list[Any]:
    """A list of images, from one image, a list, or a batch: an array (B, H, W, C) or a tensor (B, C, H, W).

    Raises:
        ValueError: no image is given.
    """
    if images is None:
        raise ValueError(f"{argument} is missing; give a PIL picture, an array, a tensor, or a list of them")
    parts = images if isinstance(images, list | tuple) else [images]
    pictures = [one for part in parts for one in (part if getattr(part, "ndim", 0) == 4 else [part])]
    if not pictures:
        raise ValueError(f"{argument} is empty; give at least one picture")
    return pictures


def each_mask(masks: Any, height: int, argument: str = "mask_image") -> list[Any]:
    """As `each_picture`; a batch may also be (B, H, W), if the images are `height` pixels high."""
    if masks is None:
        raise ValueError(f"{argument} is missing; give a mask of the same size as image, white where to repaint")
    parts = masks if isinstance(masks, list | tuple) else [masks]
    stacked = [getattr(part, "ndim", 0) == 3 and part.shape[1] == height != part.shape[0] for part in parts]
    return each_picture(
        [one for part, rows in zip(parts, stacked, strict=True) for one in (part if rows else [part])], argument
    )


def open_picture(path: str | Path, argument: str = "image") -> Image.Image:
    """Read an image file completely: L, LA, RGB or RGBA, 8-bit, upright.

    Raises:
        ValueError: the file is missing, not an image, damaged, or has more pixels than is safe to decode.
    """

    def refuse_too_many(picture: Image.Image) -> None:
        if picture.width * picture.height > decode.MAX_PIXELS:
            raise ValueError(f"the picture is too large: the limit is {decode.MAX_PIXELS:,} pixels")

    try:
        return decode.read_picture(path, check=refuse_too_many)
    except ValueError as error:
        raise ValueError(f"{argument} {path} {str(error).removeprefix('the picture ')}") from None
    except OSError as error:
        raise ValueError(f"{argument} {path} cannot be read: {error.strerror or error}") from None


def picture_size(image: Any, argument: str = "image") -> tuple[int, int]:
    """(height, width) of an upright image in any accepted form, or a ValueError."""
    if isinstance(image, Tensor):
        return image.shape[-2], image.shape[-1]
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    return decode.upright_size(_require_pil(image, argument))


def _as_pil(image: Any, argument: str) -> Image.Image:
    """An array or a PIL picture as one that is upright."""
    if not isinstance(image, np.ndarray):
        return decode.upright(_require_pil(image, argument))
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise ValueError(f"{argument} has shape {image.shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    return Image.fromarray(decode.to_levels(image, argument))


def _require_pil(image: Any, argument: str) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise ValueError(f"{argument} is a {type(image).__name__}; expected a PIL image, an array or a tensor")
    return image


def _checked_tensor(image: Tensor, size: tuple[int, int] | None, argument: str) -> Tensor:
    tensor = image if image.ndim == 4 else image[None]
    if tensor.ndim != 4 or tensor.shape[1] != 3 or tensor.numel() == 0:
        raise ValueError(f"{argument} has shape {tuple(image.shape)}; expected (3, H, W) or (B, 3, H, W)")
    if size and tuple(tensor.shape[2:]) != size:
        raise ValueError(
            f"{argument} is {tensor.shape[3]}x{tensor.shape[2]} but the picture is to be {size[1]}x{size[0]}"
        )
    if tensor.dtype in (torch.uint8, torch.uint16):
        return tensor.float() / (127.5 if tensor.dtype == torch.uint8 else 32767.5) - 1
    if not tensor.is_floating_point():
        raise ValueError(f"{argument} has dtype {image.dtype}; expected uint8, uint16 or floats in 0..1")
    decode.require_unit(float(tensor.min()), float(tensor.max()), argument)
    return tensor.float() * 2 - 1
