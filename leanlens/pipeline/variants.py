"""Implements image-to-image and inpainting.

Both share every component with `LensPipeline` (`LensImg2ImgPipeline.from_pipe(pipe)`) and its loop; only the start
differs. The released Lens has neither, but both follow from its flow: an image is noised to a level in the middle of
the schedule and denoised from there (SDEdit, arXiv 2108.01073). For inpainting, the part to keep is restored at every
level.

Several images are given as a list, or as a batch: an array (B, H, W, C) or a tensor (B, C, H, W). There is one prompt
for all of them or one for each. One image or mask serves any number of prompts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from leanlens.models.vae import token_pixels
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.image import SourcePicture, each_mask, each_picture, picture_size, to_mask, to_pixels
from leanlens.pipeline.pipeline import LensPipeline, LensPipelineOutput
from leanlens.pipeline.request import check_strength
from leanlens.pipeline.template_date import DEFAULT_DATE, MAX_SEQUENCE_LENGTH


class LensImg2ImgPipeline(LensPipeline):
    """Draws from an image and a prompt."""

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | list[str] | None = "",
        base_resolution: int | None = None,
        aspect_ratio: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: TextFeatures | list[Tensor] | None = None,
        prompt_mask: Tensor | None = None,
        negative_prompt_embeds: TextFeatures | list[Tensor] | None = None,
        negative_prompt_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
        enable_reasoner: bool = False,
        *,
        template_date: str = DEFAULT_DATE,
        exact: bool = False,
        attention_kwargs: dict[str, Any] | None = None,
        guided_share: float = 1.0,
    ) -> LensPipelineOutput | tuple[Any]:
        """Draw from `image`.

        Args:
            prompt: what to draw.
            image: a PIL picture, an array (H, W, 3), a tensor (3, H, W) in 0..1, a list of them or a batch. With one
                prompt for several, each is drawn from with it.
            strength: above 0 and up to 1, the share of the denoising steps to run; 1 keeps nothing of the image.
            height, width: size to scale and crop `image` to. Default: its own, rounded down to whole tokens.

        The rest is as in `LensPipeline`; `latents` is the noise that is mixed in.
        """
        check_strength(strength)
        images = each_picture(image)
        height, width = self._size_for(images, height, width, base_resolution, aspect_ratio)
        source = SourcePicture(torch.cat([to_pixels(one, (height, width)) for one in images]), strength)
        return LensPipeline.__call__(
            self, prompt, negative_prompt, height, width, None, None, num_inference_steps, guidance_scale,
            num_images_per_prompt, generator, latents, prompt_embeds, prompt_mask, negative_prompt_embeds,
            negative_prompt_mask, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs,
            max_sequence_length, enable_reasoner, template_date=template_date, exact=exact,
            attention_kwargs=attention_kwargs, guided_share=guided_share, source=source,
        )  # fmt: skip

    def _size_for(self, images: list[Any], height, width, base_resolution, aspect_ratio) -> tuple[int, int]:
        if any(value is not None for value in (height, width, base_resolution, aspect_ratio)):
            return self._resolve_size(height, width, base_resolution, aspect_ratio)
        side = token_pixels(self.vae)
        sizes = [picture_size(one) for one in images]
        if different := [size for size in sizes if size != sizes[0]]:
            raise ValueError(
                f"image holds pictures of {sizes[0][1]}x{sizes[0][0]} and {different[0][1]}x{different[0][0]} pixels; "
                "give height and width too, to bring all to one size"
            )
        return max(side, sizes[0][0] // side * side), max(side, sizes[0][1] // side * side)


class LensInpaintPipeline(LensImg2ImgPipeline):
    """Draws into an image where a mask is white, and leaves the rest untouched."""

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | list[str] | None = "",
        base_resolution: int | None = None,
        aspect_ratio: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: TextFeatures | list[Tensor] | None = None,
        prompt_mask: Tensor | None = None,
        negative_prompt_embeds: TextFeatures | list[Tensor] | None = None,
        negative_prompt_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
        enable_reasoner: bool = False,
        *,
        template_date: str = DEFAULT_DATE,
        exact: bool = False,
        attention_kwargs: dict[str, Any] | None = None,
        guided_share: float = 1.0,
    ) -> LensPipelineOutput | tuple[Any]:
        """Draw into `image` where `mask_image` is white.

        Args:
            prompt: what to draw.
            image: as for img2img.
            mask_image: of the same size as `image`; greys blend. New content fills whole 16 x 16 tokens, and the
                picture outside the mask is put back pixel by pixel at the end. A list or a batch has one for each
                picture; a batch may also be (B, H, W).
            strength, height, width: as for img2img.

        The rest is as in `LensPipeline`.
        """
        check_strength(strength)
        images = each_picture(image)
        height, width = self._size_for(images, height, width, base_resolution, aspect_ratio)
        masks = each_mask(mask_image, picture_size(images[0])[0])
        if len(masks) != len(images) and min(len(masks), len(images)) > 1:
            raise ValueError(
                f"mask_image holds {len(masks)} masks for {len(images)} pictures; give one, or one for each"
            )
        own_sizes = [picture_size(one) for one in images] * (len(masks) if len(images) == 1 else 1)
        if len(masks) == 1 and (other := next((size for size in own_sizes if size != own_sizes[0]), None)):
            raise ValueError(
                f"one mask_image cannot serve pictures of {own_sizes[0][1]}x{own_sizes[0][0]} and "
                f"{other[1]}x{other[0]} pixels; give one for each"
            )
        repaint = torch.cat([to_mask(one, own, (height, width)) for one, own in zip(masks, own_sizes, strict=False)])
        source = SourcePicture(torch.cat([to_pixels(one, (height, width)) for one in images]), strength, repaint)
        return LensPipeline.__call__(
            self, prompt, negative_prompt, height, width, None, None, num_inference_steps, guidance_scale,
            num_images_per_prompt, generator, latents, prompt_embeds, prompt_mask, negative_prompt_embeds,
            negative_prompt_mask, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs,
            max_sequence_length, enable_reasoner, template_date=template_date, exact=exact,
            attention_kwargs=attention_kwargs, guided_share=guided_share, source=source,
        )  # fmt: skip
