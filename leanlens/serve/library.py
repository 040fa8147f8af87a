"""The models and LoRA files that clients may name, and the defaults of each model.

A name is only ever looked up in lists made from the operator's folders, so nothing that a client sends becomes a path.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leanlens.files import read_json
from leanlens.hub import locate
from leanlens.pipeline.request import LoraChoice
from leanlens.plan.memory import ModelSizes
from leanlens.presets import PRESETS, is_made, preset_for
from leanlens.serve.errors import APIError
from leanlens.serve.settings import ServerSettings
from leanlens.weights.sizes import model_sizes

# Names that clients of the hosted service send unless they are configured otherwise.
_HOSTED = ("gpt-image", "chatgpt-image", "dall-e")


@dataclass(frozen=True)
class Defaults:
    """What a request without settings gets from a model: steps, guidance, and the side of its square in pixels."""

    num_inference_steps: int
    guidance_scale: float
    side: int


class Library:
    """Models and LoRA files by the names that clients use.

    Args:
        settings: which models and folders are allowed.
    """

    def __init__(self, settings: ServerSettings):
        self.settings = settings
        self._lock = threading.Lock()
        self._sides: dict[str, int] = {}
        self._sizes: dict[str, ModelSizes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the folders again."""
        models: dict[str, str] = {}
        for name in self.settings.models:
            if models.setdefault(_short_name(name), name) != name:
                raise ValueError(f"models: {models[_short_name(name)]} and {name} share a name; rename one of them")
        for folder in self.settings.model_folders:
            for path in sorted(folder.iterdir()):
                if (path / "model_index.json").is_file() or path.suffix == ".safetensors":
                    models.setdefault(path.stem if path.is_file() else path.name, str(path))
        loras: dict[str, Path] = {}
        for folder in self.settings.lora_folders:
            for path in sorted(folder.rglob("*.safetensors")):
                is_peft = path.name == "adapter_model.safetensors" and path.parent != folder
                loras.setdefault(path.parent.name if is_peft else path.stem, path.parent if is_peft else path)
        with self._lock:
            self._models, self._loras = models, loras

    @property
    def default(self) -> str:
        """The name of the model for requests that name none."""
        return _short_name(self.settings.models[0])

    def models(self) -> dict[str, str]:
        """Name -> what `open_model` takes."""
        return dict(self._models)

    def loras(self) -> dict[str, Path]:
        """Name -> file, or folder of a PEFT adapter."""
        return dict(self._loras)

    def find_model(self, name: str | None) -> str:
        """The name of a model in this library; no name, or one of the hosted service, means the default.

        Raises:
            APIError: a model that is not offered.
        """
        if not name:
            return self.default
        if name in self._models:
            return name
        if self.settings.alias_models and name.lower().startswith(_HOSTED):
            return self.default
        raise APIError("model", f"model {name[:80]!r} is not offered; choose among: {', '.join(self._models)}", "model")

    def source(self, model: str) -> str:
        """What `open_model` takes for a known name."""
        return self._models[model]

    def find_lora(self, name: str, scale: float) -> LoraChoice:
        """A LoRA by the name of its file, with or without the suffix.

        Raises:
            APIError: one that is not in the operator's folders.
        """
        path = self._loras.get(name) or self._loras.get(name.removesuffix(".safetensors"))
        if path is None:
            known = ", ".join(sorted(self._loras)[:20]) or "none"
            raise APIError("invalid", f"loras {name[:80]!r} is not offered; choose among: {known}", "loras")
        if not -100 <= scale <= 100:
            raise APIError("invalid", f"invalid loras scale {scale!r}: expected a number from -100 to 100", "loras")
        return LoraChoice(path=str(path), scale=scale)

    def defaults(self, model: str) -> Defaults:
        """What a request without settings gets from `model`, as from `leanlens generate`."""
        source = self._models[model]
        preset = preset_for(source)
        if model not in self._sides:
            self._sides[model] = _side_in_folder(source) or preset.base_resolution
        return Defaults(preset.num_inference_steps, preset.guidance_scale, self._sides[model])

    def sizes(self, model: str) -> ModelSizes | None:
        """The sizes of a model; None where they are not known before it is opened."""
        if model not in self._sizes:
            with suppress(ValueError, OSError):
                self._sizes[model] = model_sizes(self._models[model])[0]
        return self._sizes.get(model)

    def learn(self, model: str, side: int, sizes: ModelSizes) -> None:
        """Remember what an opened model states: the side of the square it was trained for, and its sizes."""
        self._sides[model], self._sizes[model] = side, sizes


def _short_name(name: str) -> str:
    """A preset's name as it is; the last part of a path or repository id, without the suffix of a file."""
    if name in PRESETS:
        return name
    path = Path(name)
    return (path.stem if path.suffix == ".safetensors" else path.name) or name


def _side_in_folder(source: str) -> int | None:
    """The side that the autoencoder of a local folder states; None where the model must be opened first."""
    if is_made(source):
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        folder = locate(source) if source in PRESETS and PRESETS[source].is_embedded else Path(source)
        return int(read_json(folder / "vae" / "config.json")["sample_size"])
    return None
