"""An opened model: its pipeline, what it was opened from and how, its text features and LoRAs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from leanlens.pipeline.device import dtype_name
from leanlens.pipeline.feature_cache import FeatureCache, prompt_key
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.request import ImageRequest, LoraChoice
from leanlens.pipeline.speed import Speed
from leanlens.plan.options import LoadOptions
from leanlens.threads import Load, StepThreads

if TYPE_CHECKING:
    from leanlens.pipeline.pipeline import LensPipeline


@dataclass
class OpenedModel:
    """A pipeline, what it was opened from, and how.

    Attributes:
        pipeline: ready to draw.
        name: the name that was given.
        parts: paths of components that were given separately, by component name.
        fingerprint: of its weight files (`files.fingerprint`).
        device, dtype: the device and the dtype of the transformer's computations.
        compiled: whether its blocks are compiled.
        options: how its parts are loaded.
        feature_cache: text features of earlier prompts; by default only of the last one.
        feature_key: what these depend on besides the prompt.
        speed: the speed settings it was opened with.
        load: the measured load by which a small model's threads are chosen in each call; None if they are fixed.
    """

    pipeline: "LensPipeline"
    name: str
    parts: dict[str, str]
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    options: LoadOptions = field(default_factory=LoadOptions)
    feature_cache: FeatureCache = field(default_factory=FeatureCache)
    feature_key: dict[str, str] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)
    load: Load | None = None
    _loras: tuple[LoraChoice, ...] = ()

    def identity(self) -> dict[str, Any]:
        """The record by which the same model can be opened again."""
        return {"name": self.name, "parts": self.parts, "fingerprint": self.fingerprint}

    def conditions(self) -> dict[str, Any]:
        """The other conditions that can change the last bits of an image."""
        import diffusers
        import transformers

        threads = {"threads": torch.get_num_threads()} if self.device.type == "cpu" else {}
        return {
            "device": self.device.type,
            "dtype": dtype_name(self.dtype),
            "compiled": self.compiled,
            **self.options.conditions(),
            **self.speed.conditions(),
            **threads,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def step_threads(self, plan: Sequence[Sequence[int]] | None = None) -> StepThreads:
        """Threads of the transformer's calls for one image: those of `plan`, or chosen by the load."""
        load = self.load if plan is None else None
        return StepThreads(torch.get_num_threads(), load, plan or ())

    def features(self, request: ImageRequest) -> tuple[TextFeatures, TextFeatures]:
        """Text features of a request's prompt and negative prompt, from `feature_cache` or newly encoded."""
        positive, negative = self.feature_cache.find(
            prompt_key(_text_of(request), self.feature_key), lambda: self._encode(request)
        )
        return positive, negative

    def prepare(self, requests: Sequence[ImageRequest]) -> None:
        """Encode the prompts of several requests in one loading of the text encoder, if it is unloaded after use.

        The cache then holds as many bytes as their features take.
        """
        loader = self.pipeline.encoder_loader
        if loader is not None:
            self.feature_cache.clear()
            self.feature_cache.memory = math.inf
            with loader.kept_loaded(self.pipeline):
                for request in requests:
                    self.features(request)
            self.feature_cache.memory = self.feature_cache.size

    def _encode(self, request: ImageRequest) -> tuple[TextFeatures, TextFeatures]:
        return self.pipeline.encode_prompt(
            request.prompt,
            request.negative_prompt,
            template_date=request.template_date,
            max_sequence_length=request.max_sequence_length,
        )

    def use_loras(self, loras: tuple[LoraChoice, ...]) -> None:
        """Activate exactly these adapters on the transformer."""
        if loras == self._loras:
            return
        if loras and self.options.offload == "disk":
            raise ValueError("loras cannot be used with offload 'disk', which holds no weights to add them to")
        if self._loras:
            self.pipeline.unload_lora_weights()
            self._loras = ()
        try:
            for index, lora in enumerate(loras):
                self.pipeline.load_lora_weights(lora.path, f"lora_{index}")
            if loras:  # loading one turns the others off
                names = [f"lora_{index}" for index in range(len(loras))]
                self.pipeline.set_adapters(names, [lora.scale for lora in loras])
        except BaseException:
            self.pipeline.unload_lora_weights()  # those before the one that failed
            raise
        self._loras = loras


def _text_of(request: ImageRequest) -> tuple[str, str, str, int]:
    """All that text features depend on, given a model."""
    return request.prompt, request.negative_prompt, request.template_date, request.max_sequence_length
