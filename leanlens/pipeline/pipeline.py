"""Implements `LensPipeline`, from a prompt to an image, as a diffusers pipeline.

Each step is a file of this room: `tokens` and `features` (text), `start` (noise and its levels), `denoise` (the loop),
`image` (pixels). `folder` opens and saves, `adapters` loads LoRAs, `callbacks` serves callbacks, and `variants` starts
from an image instead of noise.

Shapes: B images, L = H / 16 * W / 16 image tokens, C packed latent channels (128), S text tokens, E text width.

Source: Lens, arXiv 2605.21573; the call's signature and every number are those of the released pipeline.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leanlens.models import vae as autoencoder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.adapters import LensLoraMixin
from leanlens.pipeline.callbacks import EMBEDS, DrawingStateMixin, call_back
from leanlens.pipeline.denoise import Changed, StepHook, Stop, denoise
from leanlens.pipeline.device import compute_device
from leanlens.pipeline.encoder_loading import EncoderLoader
from leanlens.pipeline.features import TextFeatures, TextSide
from leanlens.pipeline.folder import OfficialFolderMixin
from leanlens.pipeline.image import OUTPUT_TYPES, SourcePicture, from_pixels
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import check_guidance, check_steps
from leanlens.pipeline.rewriting import PromptRewriter, reads_each_image, rewrite_prompts
from leanlens.pipeline.speed import check_guided_share
from leanlens.pipeline.start import Keep, begin_from, draw_noise, set_levels
from leanlens.pipeline.template_date import DEFAULT_DATE, MAX_SEQUENCE_LENGTH
from leanlens.pipeline.tokens import TEMPLATES
from leanlens.resolution import resolve_size


@dataclass
class LensPipelineOutput(BaseOutput):
    """The result of a call.

    Attributes:
        images: PIL images, an array, a tensor or packed latents, depending on `output_type`.
        reasoned: with `enable_reasoner`, the record of each prompt; if the reasoner rewrites it anew for each image,
            one for each image.
    """

    images: Any
    reasoned: list[Reasoned] | None = None


class LensPipeline(OfficialFolderMixin, LensLoraMixin, DrawingStateMixin, DiffusionPipeline):
    """Text to image with any Lens checkpoint.

    Args:
        scheduler: noise levels and Euler steps. A key `shift_rule` in its configuration chooses the time shift
            (`flow/schedule.py`); without it the released empirical rule holds.
        vae: the autoencoder, with batch-norm statistics of packed latents.
        text_encoder: `LensGptOssEncoder` or another frozen language model; None when only features are passed in.
        tokenizer: its tokenizer, or None.
        transformer: the denoiser.
        text_template: "harmony" or "plain"; None takes harmony for GPT-OSS and plain for any other language model.
        caption_style: the captions that it was trained on, by name, so that prompts can be rewritten into their kind.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["text_encoder", "tokenizer"]  # noqa: RUF012 - read by diffusers as class attributes
    _callback_tensor_inputs = ["latents", *EMBEDS]  # noqa: RUF012

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLFlux2,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        transformer: LensTransformer2DModel,
        text_template: str | None = None,
        caption_style: str | None = None,
    ):
        super().__init__()
        if text_template is not None and text_template not in TEMPLATES:
            raise ValueError(f"invalid text_template {text_template!r}: expected one of {', '.join(TEMPLATES)}")
        self.register_modules(
            scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer
        )
        self.register_to_config(text_template=text_template, caption_style=caption_style)
        self.reasoner: PromptRewriter | None = None
        """Rewrites prompts when a call asks for it with `enable_reasoner=True`: a reasoner of `leanlens.reason`, or a
        function from a list of prompts to a list of prompts."""
        self.encoder_loader: EncoderLoader | None = None
        """Loads and unloads the text encoder, where it is not kept in memory."""
        self.guidance_group: Any = None
        """A `torch.distributed` group of two processes that draw each picture together, a branch of guidance each."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = "",
        height: int | None = None,
        width: int | None = None,
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
        source: SourcePicture | None = None,
    ) -> LensPipelineOutput | tuple[Any]:
        """Draw images.

        Args:
            prompt: what to draw; a list draws each.
            negative_prompt: what the images should not show. Blank means no text at all, as Lens was trained.
            height, width: pixels, multiples of 16; both or neither.
            base_resolution, aspect_ratio: instead of a size, a bucket such as 1024 and "16:9" (width to height).
                Without any of the four: a square of the size the autoencoder was trained for, 1024 for Lens.
            num_inference_steps: denoising steps; 20 for Lens, 4 for Turbo, 50 for Base.
            guidance_scale: 5 for Lens and Base; 1 for Turbo, which skips the unconditional branch.
            num_images_per_prompt: number of images for each prompt.
            generator: one for the whole batch, or a list with one for each picture, which makes every picture
                independent of what is drawn beside it.
            latents: noise to start from instead, packed (B, L, C).
            prompt_embeds: what `encode_prompt` gives, or features (B, S, E) of each selected layer; then `prompt` is
                not read (the original needs one beside them), and neither tokenizer nor text encoder is needed.
                Without `negative_prompt_embeds` the unconditional branch has no text.
            prompt_mask: (B, S) bool, True for real tokens; None means all.
            negative_prompt_embeds, negative_prompt_mask: the same for the negative prompt; one row serves all.
            output_type: "pil", "np" (B, H, W, 3), "pt" (B, 3, H, W), both in 0..1, or "latent" (packed, B, L, C).
            return_dict: False gives a tuple of one.
            callback_on_step_end: called as `(pipeline, step, timestep, tensors)` after every step, or a callback of
                diffusers. What it returns by the name of a tensor replaces it for the steps that follow, and so does
                what it writes into `pipeline._guidance_scale`: 1 or less leaves the unconditional branch out.
            callback_on_step_end_tensor_inputs: names of the tensors it is given: "latents" (B, L, C); "prompt_embeds"
                and "negative_prompt_embeds" (B, selected layers, S, E); "prompt_mask" and "negative_prompt_mask".
            max_sequence_length: text tokens, the template's included; a longer prompt is cut and a warning quotes it.
            enable_reasoner: let `self.reasoner` rewrite the prompts first; negative prompts are left alone. A reasoner
                of `leanlens.reason` reads the prompt anew for each image, by the initial seed of its generator.
            template_date: the date inside the text template, YYYY-MM-DD or "today". The released code takes today.
            exact: compute both branches in one masked batch at any guidance, as the released code does.
            attention_kwargs: `{"scale": s}` scales LoRA adapters.
            guided_share: share of the steps, counted from the first, that use guidance; below 1 the image differs.
            source: an image to start from; set by `variants`.

        Raises:
            ValueError: one sentence that names the argument, its value and what was expected.
            FloatingPointError: latents are not finite; the message names the step and the likely cause.
        """
        check_steps(num_inference_steps)
        check_guidance(guidance_scale)
        check_guided_share(guided_share)
        names = _tensor_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        if self.guidance_group is not None and generator is None:
            raise ValueError("generator is missing; both processes of guidance_group need one with the same seed")
        height, width = self._resolve_size(height, width, base_resolution, aspect_ratio)
        self._check_output(output_type, names, num_images_per_prompt)
        self._interrupt = False
        self._guidance_scale, self._attention_kwargs = guidance_scale, attention_kwargs

        reasoned = None
        if enable_reasoner and prompt_embeds is None:
            prompts = _texts(prompt)
            if source is None and reads_each_image(self.reasoner):
                # Each image has a prompt of its own, so the rows of text are repeated here instead of below.
                times, num_images_per_prompt = num_images_per_prompt, 1
                prompts = [text for text in prompts for _ in range(times)]
                negative_prompt = _repeated(negative_prompt, times)
                negative_prompt_embeds, negative_prompt_mask = _repeated_features(
                    negative_prompt_embeds, negative_prompt_mask, times
                )
            reasoned = rewrite_prompts(self.reasoner, prompts, generator, (height, width), source is not None)
            prompt = [record.prompt for record in reasoned]

        with self._encoding():
            positive, negative = self._encode(
                prompt, negative_prompt, prompt_embeds, prompt_mask, negative_prompt_embeds, negative_prompt_mask,
                date=template_date, max_sequence_length=max_sequence_length,
            )  # fmt: skip
        if source is not None:
            positive, negative = _one_row_for_each(source, positive, negative)
            source = source.repeat(num_images_per_prompt)
        positive, negative = positive.repeat(num_images_per_prompt), negative.repeat(num_images_per_prompt)

        side = autoencoder.token_pixels(self.vae)
        grid = (height // side, width // side)
        noise = draw_noise(self.transformer, positive.mask.shape[0], grid, generator, latents)
        start, keep = self._start(noise, grid, num_inference_steps, source)

        with self.progress_bar(total=self._num_timesteps) as bar:
            hook = self._step_hook(callback_on_step_end, names, (positive, negative), keep, bar)
            drawn = denoise(
                self.transformer, self.scheduler, start, grid, positive, negative, guidance_scale,
                hook, exact, attention_kwargs, guided_share, self.guidance_group,
            )  # fmt: skip
        self._current_timestep = None

        images = drawn if output_type == "latent" else self._decode(drawn, grid, output_type, source)
        self.maybe_free_model_hooks()
        return LensPipelineOutput(images=images, reasoned=reasoned) if return_dict else (images,)

    def load_text_side(self) -> TextSide:
        """The encoder of prompts; loads the text encoder if it is not kept in memory.

        Raises:
            ValueError: the pipeline has no text encoder, tokenizer or transformer.
        """
        if self.encoder_loader is not None:
            self.encoder_loader.load(self)
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("this pipeline has no text encoder and tokenizer; pass prompt_embeds instead of prompt")
        told = self.text_encoder if self.transformer is None else self.transformer.config
        layers = getattr(told, "selected_layers" if self.transformer is None else "selected_layer_index", None)
        if layers is None:
            raise ValueError(
                "this pipeline has no transformer, whose configuration names the layers that this text "
                "encoder is to give; build the pipeline with one"
            )
        device = compute_device(self.text_encoder)
        return TextSide(self.tokenizer, self.text_encoder, layers, self.config.get("text_template"), device)

    def encode_prompt(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = "",
        *,
        template_date: str = DEFAULT_DATE,
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
    ) -> tuple[TextFeatures, TextFeatures]:
        """Features of prompts and negative prompts, B rows each.

        They may be kept and passed as `prompt_embeds` and `negative_prompt_embeds` later, when the text encoder is
        gone: as they are, or their `layers`, with their `mask` as `prompt_mask` and `negative_prompt_mask`.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = _one_for_each(negative_prompt or "", len(prompts))
        options: dict[str, Any] = {"date": template_date, "max_sequence_length": max_sequence_length}
        with self._encoding():
            text_side = self.load_text_side()
            prompt_embeds = text_side(prompts, **options)
            negative_prompt_embeds = text_side.negative(negatives, prompt_embeds, **options)
        return prompt_embeds, negative_prompt_embeds

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        """Within this block the text encoder may be brought in; after it, it is where it was."""
        try:
            yield
        finally:
            if self.encoder_loader is not None:
                self.encoder_loader.unload(self)

    def _resolve_size(self, height, width, base_resolution, aspect_ratio) -> tuple[int, int]:
        if height is None and width is None and base_resolution is None and aspect_ratio is None:
            height = width = int(self.vae.config.sample_size)
        return resolve_size(height, width, base_resolution, aspect_ratio)

    def _check_output(self, output_type, tensor_inputs, images) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"invalid output_type {output_type!r}: expected one of {', '.join(OUTPUT_TYPES)}")
        unknown = [name for name in tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"invalid callback_on_step_end_tensor_inputs {unknown}: expected some of {known}")
        if not isinstance(images, Integral) or images < 1:
            raise ValueError(f"invalid num_images_per_prompt {images!r}: expected an integer from 1")

    def _encode(
        self, prompt, negative_prompt, embeds, mask, negative_embeds, negative_mask, **options
    ) -> tuple[TextFeatures, TextFeatures]:
        if embeds is not None:
            positive = _given_features(embeds, mask, "prompt")
        else:
            positive = self.load_text_side()(_texts(prompt), **options)
        if negative_embeds is not None:
            negative = _given_features(negative_embeds, negative_mask, "negative_prompt")
        else:
            negatives = _one_for_each(negative_prompt or "", positive.mask.shape[0])
            if any(text.strip() for text in negatives):
                negative = self.load_text_side().negative(negatives, positive, **options)
            else:
                negative = positive.without_text()
        if negative.mask.shape[0] == 1:
            negative = negative.repeat(positive.mask.shape[0])
        if negative.mask.shape[0] != positive.mask.shape[0]:
            raise ValueError(
                f"negative_prompt_embeds holds {negative.mask.shape[0]} rows and prompt_embeds "
                f"{positive.mask.shape[0]}; give as many"
            )
        device = compute_device(self.transformer)
        return positive.to(device, self.transformer.dtype), negative.to(device, self.transformer.dtype)

    def _start(
        self, noise: Tensor, grid: tuple[int, int], steps: int, source: SourcePicture | None
    ) -> tuple[Tensor, Keep | None]:
        """Set the noise levels; the latents at the first of them, and what keeps part of a picture in place."""
        set_levels(self.scheduler, grid, steps, 1.0 if source is None else source.strength)
        begun = (noise, None) if source is None else begin_from(source, self.vae, self.scheduler, noise, grid)
        self._num_timesteps, self._current_timestep = len(self.scheduler.timesteps), self.scheduler.timesteps[0]
        return begun

    def _step_hook(
        self,
        callback: Callable[..., Any] | None,
        names: Sequence[str],
        texts: tuple[TextFeatures, TextFeatures],
        keep: Keep | None,
        bar: Any,
    ) -> StepHook:
        after = self.scheduler.timesteps[1:]

        def after_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor | Changed | Stop:
            nonlocal texts
            if keep is not None:
                latents = keep(index, latents)
            changed = None
            if callback is not None:
                self._current_timestep, scale = timestep, self._guidance_scale
                latents, new = call_back(callback, self, index, timestep, latents, names, texts)
                if new is not texts or self._guidance_scale != scale:
                    guidance = self._guidance_scale if self._guidance_scale == scale else max(1.0, self._guidance_scale)
                    texts, changed = new, Changed(latents, *new, guidance)
            self._current_timestep = after[index] if index < len(after) else timestep
            bar.update()
            return Stop(latents) if self._interrupt else changed or latents

        return after_step

    def _decode(self, latents: Tensor, grid: tuple[int, int], output_type: str, source: SourcePicture | None) -> Any:
        device = compute_device(self.vae)
        with autoencoder.tiled_decoding(self.vae, grid):
            pixels = autoencoder.decode(self.vae, latents.to(device), grid)
        if not torch.isfinite(pixels).all():
            raise FloatingPointError(
                "the autoencoder's pixels are not finite: a damaged autoencoder is likely (`leanlens weights verify` "
                "finds it), or float16, which does not hold its range"
            )
        if source is not None and source.repaint is not None:
            repaint = source.repaint.to(device)
            kept = source.pixels.to(device) + 2**-16  # levels of 255 are cut off, and what is kept is to stay itself
            pixels = repaint * pixels.float() + (1 - repaint) * kept
        return from_pixels(pixels, output_type)


def _texts(prompt: Any) -> list[str]:
    """A prompt, or several, as a list."""
    if prompt is None:
        raise ValueError("prompt is missing; give it, or prompt_embeds")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(item, str) for item in prompts):
        raise ValueError(f"invalid prompt {prompt!r}: expected a string or a list of strings")
    return prompts


def _tensor_inputs(callback: Any, names: Sequence[str]) -> Sequence[str]:
    """Names of the tensors that a callback is given; those of diffusers name them themselves."""
    return callback.tensor_inputs if isinstance(callback, PipelineCallback | MultiPipelineCallbacks) else names


def _repeated(text: str | list[str] | None, times: int) -> str | list[str] | None:
    """A list with each text `times` times, copies next to each other; one text serves all as it is."""
    return text if text is None or isinstance(text, str) else [one for one in text for _ in range(times)]


def _repeated_features(embeds: Any, mask: Tensor | None, times: int) -> tuple[Any, Tensor | None]:
    """Features of negative prompts with each row `times` times; one row serves all as it is."""
    if embeds is None:
        return None, mask
    given = _given_features(embeds, mask, "negative_prompt")
    return (given if len(given.mask) == 1 else given.repeat(times)), None


def _given_features(embeds: Any, mask: Tensor | None, argument: str) -> TextFeatures:
    if isinstance(embeds, TextFeatures):
        embeds, mask = embeds.layers, embeds.mask if mask is None else mask
    layers = list(embeds)
    if not layers or any(layer.ndim != 3 or layer.shape[:2] != layers[0].shape[:2] for layer in layers):
        raise ValueError(
            f"{argument}_embeds must be a list of tensors (batch, tokens, width), one for each selected layer"
        )
    if mask is None:
        mask = torch.ones(layers[0].shape[:2], dtype=torch.bool, device=layers[0].device)
    if mask.shape != layers[0].shape[:2]:
        raise ValueError(
            f"{argument}_mask has shape {tuple(mask.shape)}; expected {tuple(layers[0].shape[:2])}, "
            "one flag for each token"
        )
    return TextFeatures(layers, mask.bool())


def _one_row_for_each(
    source: SourcePicture, positive: TextFeatures, negative: TextFeatures
) -> tuple[TextFeatures, TextFeatures]:
    """As many rows of text as pictures to start from; one picture serves any number of rows, and one row any number."""
    if source.rows > 1 and len(positive.mask) == 1:
        positive, negative = positive.repeat(source.rows), negative.repeat(source.rows)
    if source.rows not in (1, len(positive.mask)):
        raise ValueError(
            f"image holds {source.rows} pictures for {len(positive.mask)} prompts; give one, or one for each"
        )
    return positive, negative


def _one_for_each(text: str | list[str], count: int) -> list[str]:
    if isinstance(text, str):
        return [text] * count
    if len(text) != count:
        raise ValueError(f"negative_prompt holds {len(text)} texts for {count} prompts; give one, or one for each")
    if wrong := [one for one in text if not isinstance(one, str)]:
        raise ValueError(f"negative_prompt holds {wrong[0]!r}; expected strings, which may be blank")
    return list(text)
