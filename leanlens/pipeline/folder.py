"""Opens and saves pipeline folders in the official layout.

Folders are saved with the official class names, so that any program for Lens opens them.

Source: the `model_index.json` of the released folders. It names two classes as if they belonged to diffusers and
transformers. Nothing is registered there; while a folder is opened, these classes are taken from this package.
"""

from typing import Any

import torch

from leanlens.hub import locate
from leanlens.pipeline.device import resolve_device
from leanlens.pipeline.encoder_loading import warn_of_missing_kernels
from leanlens.pipeline.offload import is_small, open_denoiser, open_folder
from leanlens.plan.options import LoadOptions, kernels_missing
from leanlens.weights.layouts import identify
from leanlens.weights.load import open_text_encoder
from leanlens.weights.verify import require_sound

LOAD_OPTIONS = ("device", "quant", "offload", "encoder_on", "tile_vae")
# Class in the official files -> (the library they say it is in, our module).
_LIBRARIES = {
    "LensTransformer2DModel": ("diffusers", "leanlens.models.transformer"),
    "LensGptOssEncoder": ("transformers", "leanlens.models.text_encoder"),
}


class OfficialFolderMixin:
    """diffusers' `from_pretrained` and `save_pretrained`, with the official class names in the files."""

    _internal_dict: Any

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Open a pipeline folder in the official layout.

        Args:
            pretrained_model_name_or_path: a folder, a preset name (`turbo`, `rl`, `base`, `nano`) or a repository id.
            kwargs: as diffusers has them: `torch_dtype`, `device_map`, any component by its name, and so on. Or, with
                `torch_dtype` alone, `device` and the fields of `LoadOptions`, such as `offload="block"`: the parts
                are then placed already, and `to` must not be called.

        Raises:
            ValueError: weights are missing, unexpected, damaged or of a wrong shape; raised before anything is loaded.
        """
        layout = identify(locate(str(pretrained_model_name_or_path)))
        if layout.component != "pipeline":
            raise ValueError(
                f"{layout.path} is a {layout.title}, not a pipeline folder; `leanlens generate --model` opens it with "
                "the parts it lacks, `leanlens weights assemble` makes a folder of them"
            )
        if kwargs.get("use_safetensors") is False:
            raise ValueError("invalid use_safetensors False: leanlens reads safetensors only")
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        if words := {name: kwargs.pop(name) for name in LOAD_OPTIONS if name in kwargs}:
            return _hold(cls, layout, words, **kwargs)
        named = [name for name, entry in layout.config.items() if isinstance(entry, list) and entry[0] is not None]
        if missing := [name for name in layout.missing if name in named and name not in kwargs]:
            raise ValueError(f"{layout.path} lacks {', '.join(missing)}, which its model_index.json names")
        parts = {name: part for name, part in layout.parts.items() if name not in kwargs}
        for part in parts.values():
            require_sound(part)
        encoder, denoiser = parts.get("text_encoder"), parts.get("transformer")
        has_kernels = torch.cuda.is_available() and not kernels_missing()
        if encoder is not None and encoder.quantisation == "mxfp4" and not has_kernels:
            # Without kernels for MXFP4 it is decoded in any case; tensor by tensor that spares the packed copy.
            warn_of_missing_kernels(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            kwargs["text_encoder"] = open_text_encoder(encoder.path, _dtype("text_encoder", kwargs, torch.bfloat16))
        if denoiser is not None and denoiser.quantisation is not None:  # diffusers does not know our formats
            usual = torch.float32 if is_small(denoiser) else torch.bfloat16  # a small one is as one that is not packed
            kwargs["transformer"] = open_denoiser(
                denoiser.path, _place(kwargs), _dtype("transformer", kwargs, usual), LoadOptions(offload="none")
            )
        opening: Any = super()
        return opening.from_pretrained(str(layout.path), **kwargs)

    def save_pretrained(self, save_directory: Any, safe_serialization: bool = True, *args: Any, **kwargs: Any) -> None:
        """Save in the official layout, as diffusers does; safetensors only.

        Raises:
            ValueError: `safe_serialization=False`.
        """
        if not safe_serialization:
            raise ValueError("invalid safe_serialization False: leanlens writes and reads safetensors only")
        saving: Any = super()
        saving.save_pretrained(save_directory, True, *args, **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read `model_index.json`, with this package in place of the official libraries for its own classes."""
        loading: Any = super()
        loaded = loading.load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for entry in config.values():
            if isinstance(entry, list) and len(entry) == 2 and entry[1] in _LIBRARIES:
                entry[0] = _LIBRARIES[entry[1]][1]
        return loaded

    def to_json_string(self) -> str:
        """`model_index.json` with the official class names, so that any program for Lens opens the folder."""
        kept = self._internal_dict
        official = {
            name: [_LIBRARIES[entry[1]][0], entry[1]]
            if isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] in _LIBRARIES
            else entry
            for name, entry in kept.items()
            if not (name in ("text_template", "caption_style") and entry is None)
        }
        try:
            self._internal_dict = official
            writing: Any = super()
            return writing.to_json_string().replace(f'"{type(self).__name__}"', '"LensPipeline"')
        finally:
            self._internal_dict = kept


def _dtype(name: str, kwargs: dict[str, Any], usual: torch.dtype) -> torch.dtype:
    """What diffusers would open a part in: one dtype may be given for all, or one for each; `usual` without any."""
    dtype = kwargs.get("dtype")
    if isinstance(dtype, dict):
        dtype = dtype.get(name, dtype.get("default", torch.float32))
    return usual if dtype is None else dtype


def _place(kwargs: dict[str, Any]) -> torch.device:
    """Where a `device_map` that is the name of a device wants every part; else the processor."""
    return torch.device(kwargs["device_map"] if kwargs.get("device_map") in ("cuda", "mps", "xpu") else "cpu")


def _hold(kind: Any, layout: Any, words: dict[str, Any], dtype: torch.dtype | None = None, **others: Any) -> Any:
    """A folder opened with load options."""
    if others:
        raise ValueError(f"{next(iter(others))} cannot be combined with {next(iter(words))}; give torch_dtype alone")
    device = resolve_device(words.pop("device", None))
    return open_folder(kind, layout, device, dtype or torch.bfloat16, LoadOptions(**words).without_planning())
