"""Generation parameters to image requests: defaults of the model, limits of the operator, prompts rewritten.

Cheap checks come first. The image to start from is decoded only once everything else is valid.
"""

import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from leanlens.pictures.decode import suffix_of
from leanlens.pipeline.request import MAX_SEED, ImageRequest, resolve_seed
from leanlens.serve.archive import Archive
from leanlens.serve.errors import APIError, api_error_from, invalid
from leanlens.serve.library import Library
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.reasoning import Reasoning
from leanlens.serve.safety import SafetyFilter
from leanlens.serve.settings import ServerSettings
from leanlens.serve.uploads import to_png, upright_bytes

_DECODED_AT_ONCE = 2  # uploads; each may take some hundred megabytes until it is stored
T = TypeVar("T")
_FIELDS = tuple(ImageRequest.model_fields)
_STRENGTH, _STRENGTH_WITH_MASK = 0.6, 1.0  # as in `leanlens generate`


class Validator:
    """Checks generation parameters against the limits of one server.

    Args:
        settings: the operator's limits.
        library: models and LoRA files.
        reasoning: rewrites prompts.
        safety: filters prompts.
        archive: stores uploaded images.
        check_memory: raises for a request that no device has the memory for.
    """

    def __init__(
        self,
        settings: ServerSettings,
        library: Library,
        reasoning: Reasoning,
        safety: SafetyFilter,
        archive: Archive,
        check_memory: Callable[[str, ImageRequest], None],
    ):
        self.settings = settings
        self.library = library
        self.reasoning = reasoning
        self.safety = safety
        self.archive = archive
        self.check_memory = check_memory
        self._decoding = threading.BoundedSemaphore(_DECODED_AT_ONCE)

    def requests(self, parameters: GenerationParameters) -> tuple[list[ImageRequest], str]:
        """One request for each image, and the name of the model; the decoded images of `parameters` are freed.

        Raises:
            APIError: the first invalid field.
        """
        try:
            fields, seed, model = self._fields(parameters)
            if parameters.starts_from_image:
                with self._decoding:
                    fields |= self._image_fields(parameters, model, fields, seed)
            requests = [ImageRequest.checked(**fields, seed=seed + index) for index in range(parameters.count)]
            return self._rewritten(requests, model, parameters), model
        except ValueError as error:
            raise api_error_from(error, _FIELDS) from None
        finally:
            parameters.drop_images()

    def check(self, parameters: GenerationParameters) -> None:
        """Raise what `requests` would raise, except for the image and the mask, which are not looked at.

        Raises:
            APIError: the first invalid field.
        """
        try:
            self._fields(parameters)
        except ValueError as error:
            raise api_error_from(error, _FIELDS) from None

    def first_request(self, parameters: GenerationParameters) -> tuple[ImageRequest, str]:
        """The first request that `requests` would give, without its image, and the name of the model.

        Raises:
            APIError: the first invalid field.
        """
        try:
            fields, seed, model = self._fields(parameters)
            request = ImageRequest.checked(**fields, seed=seed)
            if parameters.image is not None or parameters.source is not None:
                return request, model
            return self._rewritten([request], model, parameters)[0], model
        except ValueError as error:
            raise api_error_from(error, _FIELDS) from None

    def _rewritten(
        self, requests: list[ImageRequest], model: str, parameters: GenerationParameters
    ) -> list[ImageRequest]:
        """Each request with its own caption. The safety filter sees the caption too: it may use other words."""
        found = self.reasoning.rewrite(requests, model, parameters.reason, parameters.fixed)
        for request in found:
            if request.reasoner is not None:
                self.safety.check_prompt(request.prompt)
        return found

    def _fields(self, parameters: GenerationParameters) -> tuple[dict[str, Any], int, str]:
        """Every valid field but image and mask; the seed of the first image; the model."""
        model = self.library.find_model(parameters.model)
        self._check_prompts(parameters)
        if not 1 <= parameters.count <= self.settings.max_count:
            raise invalid("n", parameters.count, f"1 to {self.settings.max_count}")
        defaults = self.library.defaults(model)
        width, height = _size(parameters, defaults.side)
        seed = resolve_seed(parameters.seed)
        fields: dict[str, Any] = {
            "prompt": parameters.prompt,
            "negative_prompt": parameters.negative_prompt,
            "width": width,
            "height": height,
            "num_inference_steps": _given(parameters.num_inference_steps, defaults.num_inference_steps),
            "guidance_scale": _given(parameters.guidance_scale, defaults.guidance_scale),
            "loras": [self.library.find_lora(name, scale) for name, scale in parameters.loras],
            "reasoner": parameters.reasoned,
        }
        self._check_steps(fields["num_inference_steps"])
        self._check_limits(parameters, model, fields, seed)
        return fields, seed, model

    def _check_prompts(self, parameters: GenerationParameters) -> None:
        most = self.settings.max_prompt
        for name, text in (("prompt", parameters.prompt), ("negative_prompt", parameters.negative_prompt)):
            if len(text) > most:
                raise APIError("invalid", f"{name} has {len(text):,} characters; at most {most:,} are accepted", name)
        self.safety.check_prompt(parameters.prompt)

    def _check_steps(self, steps: int) -> None:
        if not 1 <= steps <= self.settings.max_steps:
            raise invalid("num_inference_steps", steps, f"a whole number from 1 to {self.settings.max_steps}")

    def _check_limits(self, parameters: GenerationParameters, model: str, fields: dict[str, Any], seed: int) -> None:
        """The request itself is valid, and its pixels, seeds and memory are within the limits."""
        request = ImageRequest.checked(**fields, seed=seed)
        if request.width * request.height > self.settings.max_pixels:
            raise APIError("invalid", _too_large(request.width, request.height, self.settings.max_pixels), "size")
        if seed + parameters.count - 1 > MAX_SEED:
            raise APIError("invalid", f"invalid seed: expected that of the last image to be at most {MAX_SEED}", "seed")
        self.check_memory(model, request)

    def _image_fields(
        self, parameters: GenerationParameters, model: str, fields: dict[str, Any], seed: int
    ) -> dict[str, Any]:
        """The fields of the image to start from, and the size, which may be that of the image."""
        if parameters.source is not None:
            parameters.source(parameters)
        size = dict(zip(("width", "height"), _size(parameters, fields["width"]), strict=True))
        if any(side != fields[name] for name, side in size.items()):
            self._check_limits(parameters, model, {**fields, **size}, seed)
        return size | self._stored_image(parameters)

    def _stored_image(self, parameters: GenerationParameters) -> dict[str, Any]:
        """Store image and mask in the archive; gives the fields that name them."""
        image, mask = parameters.image, parameters.mask
        if image is None:
            if mask is not None:
                raise APIError("missing", "image is missing: mask needs one", "image")
            return {}
        if mask is not None and mask.size != image.size:
            raise APIError(
                "invalid",
                f"mask is {mask.width}x{mask.height}: expected the size of the image, {image.width}x{image.height}",
                "mask",
            )
        if mask is not None and mask.convert("L").getbbox() is None:
            raise APIError("invalid", "mask marks nothing to repaint", "mask")
        # An image with an EXIF orientation is stored as decoded, so that no reader turns it a second time.
        data = (parameters.image_bytes and upright_bytes(parameters.image_bytes)) or to_png(image)
        return {
            "image": str(self.archive.keep_input(data, f".{suffix_of(data)}")),
            "mask": None if mask is None else str(self.archive.keep_input(to_png(mask), ".png")),
            "strength": _given(parameters.strength, _STRENGTH if mask is None else _STRENGTH_WITH_MASK),
            "latent_resize": parameters.latent_resize,
        }


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _size(parameters: GenerationParameters, side: int) -> tuple[int, int]:
    """Width and height: those given, or those of the image in whole tokens, or the model's own square."""
    if (parameters.width is None) != (parameters.height is None):
        missing = "width" if parameters.width is None else "height"
        raise APIError("missing", f"{missing} is missing: expected both sides or none", missing)
    if parameters.width is not None and parameters.height is not None:
        return parameters.width, parameters.height
    if parameters.image is not None:
        return max(16, parameters.image.width // 16 * 16), max(16, parameters.image.height // 16 * 16)
    return side, side


def _too_large(width: int, height: int, most: int) -> str:
    factor = math.sqrt(most / (width * height))
    fits = [max(16, int(side * factor) // 16 * 16) for side in (width, height)]
    return f"invalid size {width}x{height}: expected at most {most:,} pixels, such as {fits[0]}x{fits[1]}"
