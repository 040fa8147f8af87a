"""Draws the images of an evaluation with an opened Lens model, with or without rewriting the prompts."""

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import leanlens
from leanlens.evaluate.image_models.lens_flop import COUNTED_PROMPT, image_flop
from leanlens.evaluate.suite import Drawn, ImageFailed, Item
from leanlens.files import sha256
from leanlens.machine import peak_memory
from leanlens.pipeline.draw import draw
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest, LoraChoice
from leanlens.presets import preset_for
from leanlens.reason import Reasoner, reason_request


class LensModel:
    """An `ImageModel` of this library.

    Args:
        opened: the model.
        name: of its column; the model's own without it.
        reasoner: rewrites the prompts.
        steps, guidance: the model's own without them.
        negative: the negative prompt.
        size: (width, height) in pixels in place of the items' own.
        loras: what is added to its weights.
        tokens: most text tokens; the model's own without it.

    Raises:
        ValueError: an invalid value, or a LoRA that is missing or does not fit.
    """

    def __init__(
        self,
        opened: OpenedModel,
        name: str | None = None,
        reasoner: Reasoner | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str = "",
        size: tuple[int, int] | None = None,
        loras: Sequence[LoraChoice] = (),
        tokens: int | None = None,
    ):
        preset = preset_for(opened.name)
        self.opened, self.name, self.reasoner = opened, name or opened.name, reasoner
        self.steps = preset.num_inference_steps if steps is None else steps
        self.guidance = preset.guidance_scale if guidance is None else guidance
        self.size = size
        self._loras = [{"sha256": _digest(lora.path), "scale": lora.scale} for lora in loras]
        self._fields: dict[str, Any] = {"negative_prompt": negative} if negative else {}
        self._fields |= {"max_sequence_length": tokens} if tokens else {}
        self._fields |= {"loras": tuple(loras)} if loras else {}
        self.request(Item("", "", size=size), 0)  # invalid settings are errors now, and no failed images later
        opened.use_loras(tuple(loras))
        self._peak = 0

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
            **{name: value for name, value in self._fields.items() if name != "loras"},
            **({"loras": self._loras} if self._loras else {}),
            **({"size": self.size} if self.size else {}),
        }

    def request(self, item: Item, seed: int) -> ImageRequest:
        """The request of an item, with its prompt rewritten where there is a reasoner."""
        side = int(self.opened.pipeline.vae.config.sample_size)
        width, height = self.size or item.size or (side, side)
        request = ImageRequest.checked(
            prompt=item.prompt, width=width, height=height, num_inference_steps=self.steps,
            guidance_scale=self.guidance, seed=seed, **self._fields,
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
        seconds = time.perf_counter() - began
        self._peak = peak_memory(self.opened.device)
        reasoned = None if request.reasoner is None else request.reasoner.model_dump(mode="json", exclude={"seconds"})
        return Drawn(image, seconds, reasoned)

    def costs(self) -> dict[str, Any]:
        """See `ImageModel`. FLOP are the planner's: those of the denoiser, the text encoder and the decoder, for an
        image of the model's own size, or of `size`, of COUNTED_PROMPT."""
        modules = [part for part in self.opened.pipeline.components.values() if hasattr(part, "parameters")]
        weights = [tensor for module in modules for tensor in module.parameters()]
        return {
            "flop": image_flop(self.opened, self.request(Item("", COUNTED_PROMPT, size=self.size), 0)),
            "parameters": sum(tensor.numel() for tensor in weights),
            "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights),
            **({"peak_bytes": self._peak} if self._peak else {}),
        }

    def close(self) -> None:
        """See `ImageModel`."""
        del self.opened
        gc.collect()


def _digest(path: str) -> str:
    """The checksum of a LoRA, which is a file or a folder that PEFT wrote."""
    file = Path(path).expanduser()
    return sha256(file / "adapter_model.safetensors" if file.is_dir() else file)
