"""Starting from a picture: img2img and inpainting.

Comes in: a prompt and a picture (and a mask). Goes out: pictures. Both share every component with `LensPipeline`
(`LensImg2ImgPipeline.from_pipe(pipe)`) and its loop; only the start differs.

The released Lens has neither; both follow from its flow: a picture is noised to a level in the middle of the schedule
and walked down from there (SDEdit, arXiv 2108.01073); for inpainting the part to keep is put back at every level.
"""

from typing import Any

import torch

from leanlens.models.vae import token_pixels
from leanlens.pipeline.image import SourcePicture, picture_size, to_mask, to_pixels
from leanlens.pipeline.pipeline import LensPipeline, LensPipelineOutput
from leanlens.pipeline.request import check_strength


class LensImg2ImgPipeline(LensPipeline):
    """A picture and a prompt to a picture."""

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> LensPipelineOutput | tuple[Any]:
        """Draw from `image`.

        Args:
            prompt: what to draw.
            image: a PIL picture, an array (H, W, 3) or a tensor (3, H, W) in 0..1.
            strength: above 0 and up to 1, the share of the noise levels that is walked again; 1 keeps nothing.
            height, width: size to scale and crop `image` to; without them, its own, cut to the grid of tokens.
            options: everything else that `LensPipeline` takes.
        """
        check_strength(strength)
        height, width = self._size_for(image, height, width, options)
        pixels = to_pixels(image, (height, width))
        source = SourcePicture(pixels, strength)
        return super().__call__(prompt, height=height, width=width, source=source, **options)

    def _size_for(self, image: Any, height: int | None, width: int | None, options: dict[str, Any]) -> tuple[int, int]:
        if image is None:
            raise ValueError("image is missing; give a PIL picture, an array or a tensor")
        base, aspect = options.pop("base_resolution", None), options.pop("aspect_ratio", None)
        if any(value is not None for value in (height, width, base, aspect)):
            return self._resolve_size(height, width, base, aspect)
        side = token_pixels(self.vae)
        own_height, own_width = picture_size(image)
        return max(side, own_height // side * side), max(side, own_width // side * side)


class LensInpaintPipeline(LensImg2ImgPipeline):
    """A picture, a mask and a prompt to a picture that is new where the mask is white and untouched elsewhere."""

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> LensPipelineOutput | tuple[Any]:
        """Draw into `image` where `mask_image` is white.

        Args:
            prompt: what to draw.
            image: as for img2img.
            mask_image: of the same size as `image`; greys blend. New content fills whole 16 x 16 tokens, and the
                picture outside the mask is put back pixel by pixel at the end.
            strength, height, width, options: as for img2img.
        """
        check_strength(strength)
        height, width = self._size_for(image, height, width, options)
        if mask_image is None:
            raise ValueError("mask_image is missing; give a mask of the same size as image, white where to repaint")
        mask = to_mask(mask_image, picture_size(image), (height, width))
        source = SourcePicture(to_pixels(image, (height, width)), strength, mask)
        return LensPipeline.__call__(self, prompt, height=height, width=width, source=source, **options)
