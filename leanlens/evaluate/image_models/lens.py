"""Draws the images of an evaluation with an opened Lens model, with or without rewriting the prompts."""

import gc
import time
from typing import Any

import leanlens
from leanlens.evaluate.suite import Drawn, ImageFailed, Item
from leanlens.pipeline.draw import draw
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.presets import preset_for
from leanlens.reason import Reasoner, reason_request


class LensModel:
    """An `ImageModel` of this library.

    Args:
        opened: the model.
        name: of its column; the model's own without it.
        reasoner: rewrites the prompts.
        steps, guidance: the model's own without them.
    """

    def __init__(
        self,
        opened: OpenedModel,
        name: str | None = None,
        reasoner: Reasoner | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ):
        preset = preset_for(opened.name)
        self.opened, self.name, self.reasoner = opened, name or opened.name, reasoner
        self.steps = preset.num_inference_steps if steps is None else steps
        self.guidance = preset.guidance_scale if guidance is None else guidance
        self._peak: int | None = None

    def identity(self) -> dict[str, Any]:
        """See `ImageModel`."""
        return {
            "kind": "lens",
            "leanlens": leanlens.__version__,
            "model": self.opened.identity(),
            "run": self.opened.conditions(),
            "steps": self.steps,
            "guidance": self.guidance,
            "reason": None if self.reasoner is None else self.reasoner.source,
        }

    def request(self, item: Item, seed: int) -> ImageRequest:
        """The request of an item, with its prompt rewritten where there is a reasoner."""
        side = int(self.opened.pipeline.vae.config.sample_size)
        width, height = item.size or (side, side)
        request = ImageRequest.checked(
            prompt=item.prompt, width=width, height=height, num_inference_steps=self.steps,
            guidance_scale=self.guidance, seed=seed,
        )  # fmt: skip
        return reason_request(self.reasoner, request)

    def draw(self, item: Item, seed: int) -> Drawn:
        """See `ImageModel`."""
        began = time.perf_counter()
        try:
            request = self.request(item, seed)
            image = draw(self.opened, request).image
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ImageFailed(" ".join(str(error).split())[:200]) from error
        reasoned = None if request.reasoner is None else request.reasoner.model_dump(mode="json")
        return Drawn(image, time.perf_counter() - began, reasoned)

    def costs(self) -> dict[str, Any]:
        """See `ImageModel`."""
        modules = [part for part in self.opened.pipeline.components.values() if hasattr(part, "parameters")]
        weights = [tensor for module in modules for tensor in module.parameters()]
        return {
            "parameters": sum(tensor.numel() for tensor in weights),
            "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights),
        }

    def close(self) -> None:
        """See `ImageModel`."""
        del self.opened
        gc.collect()
