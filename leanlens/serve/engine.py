"""A device with one model open: draws requests that share a batch, with a preview of each image after every step.

What does not fit in the device's memory is rejected before it is drawn. Each worker has one engine, in its own process
or, with replicas, in another.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from leanlens.pipeline.device import resolve_device
from leanlens.pipeline.draw import DrawnPicture, draw_together
from leanlens.pipeline.encoder_loading import release_memory
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.open import open_model
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.free_memory import FreeMemory, largest_batch
from leanlens.plan.memory import ModelSizes, part_bytes
from leanlens.serve.errors import APIError
from leanlens.serve.library import Library
from leanlens.serve.memory import free_bytes, in_gb, require_memory, sizes_of
from leanlens.serve.preview import LatentColours, LatentPreview, Preview
from leanlens.serve.settings import ServerSettings

# Opening builds models under the process-wide random state, so one opens at a time.
_OPENING = threading.Lock()

OnStep = Callable[[int, Sequence[Preview | None]], bool]
"""Called after every step with the number of finished steps and a preview of each image, where there is one yet. True
ends the drawing with the images as predicted then; an exception ends it without images."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model once it is open: its device, the side of its native square in pixels, and its sizes."""

    device: str
    side: int
    sizes: ModelSizes


@dataclass(frozen=True)
class Drawn:
    """An image, and the number of text tokens of its prompt."""

    picture: DrawnPicture
    text_tokens: int


class Engine(Protocol):
    """What a worker needs of a device.

    Attributes:
        name: of the device, for the log.
        model: the name of the model that is open; None without one.
    """

    name: str
    model: str | None

    def open(self, model: str) -> ModelInfo:
        """Open a model, and close any other. Raises APIError if it cannot be opened."""

    def draw(self, model: str, requests: Sequence[ImageRequest], on_step: OnStep) -> list[Drawn]:
        """Draw requests that share a batch. Raises MemoryError for several that do not fit together."""

    def free_memory(self) -> FreeMemory | None:
        """Memory that is free now; None where it is not checked."""

    def unload(self) -> None:
        """Unload the model."""

    def clear_caches(self) -> None:
        """Free what is kept only for speed; called after memory ran out."""

    def close(self) -> None:
        """Release the device for good."""


class Sources(Protocol):
    """What an engine needs of a library: sources for `open_model`, and sizes where they are known."""

    def source(self, model: str) -> str:
        """What `open_model` takes."""

    def sizes(self, model: str) -> ModelSizes | None:
        """The sizes of the model, where they are known."""


class LocalEngine:
    """A device of this process.

    Args:
        name: the device, as `open_model` takes it.
        settings: dtype, compilation, limits of memory.
        library: resolves names of models.
    """

    def __init__(self, name: str, settings: ServerSettings, library: Sources):
        self.name = name
        self.settings = settings
        self.library = library
        self.model: str | None = None
        self._opened: OpenedModel | None = None
        self._info: ModelInfo | None = None
        self._colours: LatentColours | None = None

    def open(self, model: str) -> ModelInfo:
        """Open a model, and close any other.

        Raises:
            APIError: it cannot be opened, or its weights do not fit.
        """
        if self._info is not None and self.model == model:
            return self._info
        self.unload()
        self._require_memory_for_weights(model)
        try:
            with _OPENING:
                source = self.library.source(model)
                opened = open_model(
                    source, self.name, options=self.settings.load_options(source), features=self.settings.features,
                )  # fmt: skip
        except (ValueError, OSError) as error:
            raise APIError("unavailable", f"model {model} cannot be opened: {first_line(error)}", "model") from error
        opened.feature_cache.memory = self.settings.prompt_cache << 20
        self._opened, self.model = opened, model
        self._colours = LatentColours.fit(opened.pipeline.vae)
        self._info = ModelInfo(str(opened.device), int(opened.pipeline.vae.config.sample_size), sizes_of(opened))
        return self._info

    def unload(self) -> None:
        """Unload the model."""
        self._opened = self._info = self._colours = self.model = None
        self.clear_caches()

    def clear_caches(self) -> None:
        """Drop the cached text features and return unused memory to the system."""
        if self._opened is not None:
            self._opened.feature_cache.clear()
        release_memory()

    def close(self) -> None:
        """Unload the model."""
        self.unload()

    def draw(self, model: str, requests: Sequence[ImageRequest], on_step: OnStep) -> list[Drawn]:
        """Draw requests that share a batch, one image for each.

        Raises:
            APIError: the model cannot be opened, or a single image does not fit.
            MemoryError: several that do not fit together.
            ValueError: what `draw_together` refuses.
        """
        self.open(model)
        opened, memory = self._opened, self.free_memory()
        assert opened is not None
        if memory is not None:
            self._require_memory(memory, requests)
        tokens: list[int] = []

        def encode(request: ImageRequest) -> tuple[TextFeatures, TextFeatures]:
            pair = opened.features(request)
            tokens.append(int(pair[0].mask.sum()))
            return pair

        progress = _Progress(requests[0], opened, self._colours, on_step)
        pictures = draw_together(opened, requests, progress, encode)
        return [Drawn(picture, count) for picture, count in zip(pictures, tokens, strict=True)]

    def free_memory(self) -> FreeMemory | None:
        """What is free for drawing now, or the operator's bound; None without a model, or where the check is off."""
        limit = self.settings.memory_limit
        if self._opened is None or limit == 0:
            return None
        free = free_bytes(self._opened.device) if limit is None else limit * 1e9
        return FreeMemory(free, str(self._opened.dtype).removeprefix("torch."), self._opened.device.type)

    # ---------------------------------------------------------------------------------------- inside

    def _require_memory(self, memory: FreeMemory, requests: Sequence[ImageRequest]) -> None:
        assert self._info is not None
        first = requests[0]
        require_memory(self._info.sizes, memory, first)
        fits = largest_batch(self._info.sizes, memory, first.height, first.width, len(requests))
        if fits < len(requests):
            raise MemoryError(f"{fits} of {len(requests)} pictures of {first.width}x{first.height} fit together")

    def _require_memory_for_weights(self, model: str) -> None:
        """The system kills a process that runs out of main memory, so check first; a GPU raises an error instead."""
        device = resolve_device(self.name)
        sizes = self.library.sizes(model)
        held = self.settings.load_options(self.library.source(model))
        if sizes is None or device.type in ("cuda", "xpu") or self.settings.memory_limit == 0 or not held.is_plain:
            return  # memory of weights that are not all loaded at once is not counted here
        # The least that any dtype takes; weights that are packed in the file may stay packed.
        need, free = sum(part_bytes(sizes, "bfloat16", packed=True).values()), free_bytes(device)
        if need > free:
            raise APIError(
                "unavailable",
                f"model {model} cannot be opened: its weights need at least {in_gb(need)} of memory and {in_gb(free)} "
                "are free",
                "model",
            )


EngineFactory = Callable[[ServerSettings, Library], Sequence[Engine]]
"""A server's settings and library -> one engine for each device."""


def local_engines(settings: ServerSettings, library: Library) -> list[Engine]:
    """One engine for each device of this process."""
    return [LocalEngine(name, settings, library) for name in settings.devices]


class _Progress:
    """Called between two steps: keeps what previews need, and reports progress."""

    def __init__(self, request: ImageRequest, opened: OpenedModel, colours: LatentColours | None, on_step: OnStep):
        self.scheduler = opened.pipeline.scheduler
        self.colours = colours
        self.on_step = on_step
        side = 2 ** (len(opened.pipeline.vae.config.block_out_channels) - 1) * opened.pipeline.vae.config.patch_size[0]
        self.grid = (request.height // side, request.width // side)
        self.before: Any = None

    def __call__(self, step: int, latents: torch.Tensor) -> bool:
        first = self.scheduler.begin_index or 0
        high, low = (float(level) for level in self.scheduler.sigmas[first + step - 1 : first + step + 1])
        previews: list[Preview | None] = [None] * latents.shape[0]
        if self.before is not None and self.colours is not None:
            previews = [
                LatentPreview(step, self.before, latents, (high, low), row, self.grid, self.colours)
                for row in range(latents.shape[0])
            ]
        self.before = latents
        return self.on_step(step, previews)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)
