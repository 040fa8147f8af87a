"""Gives a pipeline diffusers' LoRA methods, with the same names and arguments.

LoRA files are read and applied by `weights/lora.py`; scaling, fusing and switching adapters come from diffusers.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE, LoraBaseMixin
from safetensors.torch import save_file
from torch import Tensor

from leanlens.files import whole_file
from leanlens.weights.lora import (
    Lora,
    apply_lora,
    as_lora,
    next_name,
    peft_config,
    read_lora,
    remove_loras,
    set_lora_scales,
)

TRANSFORMER = "transformer"


class LensLoraMixin(LoraBaseMixin):
    """The LoRA methods of a pipeline; `set_adapters`, `delete_adapters` and others come from diffusers."""

    _lora_loadable_modules = [TRANSFORMER]  # noqa: RUF012 - read by diffusers as class attributes
    transformer_name = TRANSFORMER
    transformer: Any

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        *,
        scale: float = 1.0,
        low_cpu_mem_usage: bool = False,
        **where: Any,
    ) -> None:
        """Load a LoRA in any trainer's layout into the transformer, and make it the only active one.

        As in diffusers, LoRAs that were loaded before become inactive; `set_adapters(names, scales)` activates several.

        Args:
            pretrained_model_name_or_path_or_dict: a file, an adapter folder, a repository id, or tensors by name.
            adapter_name: name of the adapter; the default is `default_0`, then `default_1` and so on.
            hotswap: replace the weights of the loaded adapter `adapter_name`. A compiled transformer stays compiled.
            scale: weight of the LoRA; 1 is as trained.
            low_cpu_mem_usage: as in diffusers; the result is the same.
            where: `weight_name`, `subfolder`; for a repository also `revision`, `token`, `cache_dir`,
                `force_download`, `local_files_only`.

        Raises:
            ValueError: what `weights/lora.py` refuses, an unknown option, or a file that is not safetensors.
        """
        lora = _lora_of(pretrained_model_name_or_path_or_dict, self.transformer, **where)
        if hotswap and adapter_name is None:
            raise ValueError("hotswap needs adapter_name, the name of the loaded LoRA to replace")
        name = next_name(self.transformer) if adapter_name is None else adapter_name
        pipeline = self if self._is_offloaded_by_diffusers else None
        options = {"low_cpu_mem_usage": low_cpu_mem_usage, "_pipeline": pipeline}
        apply_lora(self.transformer, lora, name, scale, hotswap, **options)
        if not hotswap:
            set_lora_scales(self.transformer, {name: scale})

    @property
    def _is_offloaded_by_diffusers(self) -> bool:
        """Whether diffusers must renew its offload hooks so that they cover the layers of a LoRA.

        Handed a pipeline whose hooks are leanlens' own (offload "model"), it would replace them with different ones.
        """
        return getattr(self, "_offload_device", None) is not None or _is_group_offload_enabled(self.transformer)

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor], **where: Any
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], dict[str, Any]]:
        """A LoRA of any trainer's layout as diffusers names its tensors, `transformer.LAYER.lora_A.weight` and so on.

        Args:
            pretrained_model_name_or_path_or_dict: as for `load_lora_weights`.
            where: as for `load_lora_weights`; with `return_lora_metadata=True` the PEFT configuration comes as a second
                value. Without it, an alpha that differs from the rank stands among the tensors as `LAYER.alpha`.
        """
        with_metadata = where.pop("return_lora_metadata", False)
        lora = _lora_of(pretrained_model_name_or_path_or_dict, **where)
        tensors: dict[str, Tensor] = {}
        for name, layer in lora.layers.items():
            tensors[f"{TRANSFORMER}.{name}.lora_A.weight"] = layer.a
            tensors[f"{TRANSFORMER}.{name}.lora_B.weight"] = layer.b
            if layer.alpha != layer.rank and not with_metadata:
                tensors[f"{TRANSFORMER}.{name}.alpha"] = torch.tensor(layer.alpha)
        if not with_metadata:
            return tensors
        return tensors, {f"{TRANSFORMER}.{key}": value for key, value in peft_config(lora).items()}

    @classmethod
    def load_lora_into_transformer(
        cls,
        state_dict: Mapping[str, Tensor],
        transformer: Any,
        adapter_name: str | None = None,
        _pipeline: Any = None,
        low_cpu_mem_usage: bool = False,
        hotswap: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """As `load_lora_weights`, of tensors and the PEFT configuration that `lora_state_dict` gives."""
        config = {key.removeprefix(f"{TRANSFORMER}."): value for key, value in (metadata or {}).items()}
        name = next_name(transformer) if adapter_name is None else adapter_name
        options = {"low_cpu_mem_usage": low_cpu_mem_usage, "_pipeline": _pipeline}
        apply_lora(transformer, as_lora(state_dict, config=config), name, 1.0, hotswap, **options)
        if not hotswap:
            set_lora_scales(transformer, {name: 1.0})

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        transformer_lora_layers: torch.nn.Module | Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable[[dict[str, Tensor], str], Any] | None = None,
        safe_serialization: bool = True,
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Save LoRA layers as diffusers' pipelines do; the file is written atomically.

        Args:
            save_directory: a folder; it is created if it is missing.
            transformer_lora_layers: as `peft.get_peft_model_state_dict(pipeline.transformer)` gives them.
            is_main_process: False writes nothing.
            weight_name: file name; without it `pytorch_lora_weights.safetensors`.
            save_function: called with the tensors and the path instead of writing them.
            safe_serialization: only True.
            transformer_lora_adapter_metadata: the PEFT configuration (`LoraConfig.to_dict()`), which holds alpha.

        Raises:
            ValueError: nothing to write, another format than safetensors, or a `save_directory` that is a file.
        """
        if not safe_serialization:
            raise ValueError("invalid safe_serialization False: leanlens writes and reads safetensors only")
        if not transformer_lora_layers:
            raise ValueError("transformer_lora_layers is missing; give the tensors of an adapter by name")
        path = Path(save_directory) / _safetensors_name(weight_name or LORA_WEIGHT_NAME_SAFE)
        if Path(save_directory).is_file():
            raise ValueError(f"invalid save_directory {str(save_directory)!r}: it is a file; expected a folder")
        if not is_main_process:
            return
        tensors = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in cls.pack_weights(transformer_lora_layers, TRANSFORMER).items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        if save_function is not None:
            save_function(tensors, str(path))
            return
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata=_header(transformer_lora_adapter_metadata))

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the active adapters, or the named ones, to the weights; `unfuse_lora` subtracts them again."""
        super().fuse_lora(components or [TRANSFORMER], lora_scale, safe_fusing, adapter_names, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Undo `fuse_lora`."""
        super().unfuse_lora(components or [TRANSFORMER], **kwargs)

    def unload_lora_weights(self) -> None:
        """Remove every LoRA; as in diffusers, what was fused stays in the weights."""
        remove_loras(self.transformer)


_FILE_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl")
_OF_A_REPOSITORY = ("revision", "token", "cache_dir", "force_download", "local_files_only")


def _lora_of(
    source: Any,
    transformer: Any = None,
    weight_name: str | None = None,
    subfolder: str | None = None,
    use_safetensors: bool | None = None,
    **repository: Any,
) -> Lora:
    """The LoRA that the arguments of diffusers name."""
    if use_safetensors is False:
        raise ValueError(
            "invalid use_safetensors False: files of other formats can run any program when they are opened"
        )
    if unknown := [name for name in repository if name not in _OF_A_REPOSITORY]:
        raise ValueError(
            f"{unknown[0]} is not a known option; known are {', '.join(_OF_A_REPOSITORY)}, "
            "weight_name, subfolder, use_safetensors"
        )
    if weight_name is not None:
        _safetensors_name(weight_name)
    if isinstance(source, Mapping):
        return as_lora(source, transformer=transformer)
    path = Path(source).expanduser()
    if not path.exists() and path.suffix not in _FILE_SUFFIXES:
        from leanlens.hub import locate_weights

        file = "/".join([*([subfolder] if subfolder else []), weight_name or LORA_WEIGHT_NAME_SAFE])
        return read_lora(locate_weights(str(source), file, **repository), transformer)
    path = path / (subfolder or "")
    return read_lora(path / weight_name if weight_name is not None and path.is_dir() else path, transformer)


def _safetensors_name(name: str) -> str:
    """`name`, a plain file name that ends as it should."""
    if PurePath(name).name != name or not name.endswith(".safetensors"):
        raise ValueError(f"invalid weight_name {name!r}: expected a file name that ends in .safetensors")
    return name


def _header(config: Mapping[str, Any] | None) -> dict[str, str]:
    """Header fields as diffusers writes them."""
    if not config:
        return {"format": "pt"}
    plain = {f"{TRANSFORMER}.{key}": sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(plain, indent=2, sort_keys=True)}
