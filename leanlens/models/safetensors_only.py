"""Restricts loading and saving of diffusers models to safetensors, and rejects configurations that are out of bounds.

Other formats can run arbitrary code when they are opened.
"""

from pathlib import Path
from typing import Any

from leanlens.bounds import check_config
from leanlens.files import read_json


class SafetensorsOnlyMixin:
    """A mixin that must come before diffusers' own classes."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in diffusers, but a `.bin` file is never opened.

        Raises:
            ValueError: `use_safetensors=False`, or a configuration out of bounds.
            OSError: a folder without a safetensors file.
        """
        require_safetensors("use_safetensors", kwargs.pop("use_safetensors", None))
        require_bounds(pretrained_model_name_or_path, kwargs.get("subfolder"))
        opening: Any = super()
        return opening.from_pretrained(pretrained_model_name_or_path, use_safetensors=True, **kwargs)

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As in diffusers. The arguments are spelled out because pipelines inspect this signature.

        Raises:
            ValueError: `safe_serialization=False`.
        """
        require_safetensors("safe_serialization", safe_serialization)
        saving: Any = super()
        saving.save_pretrained(
            save_directory, is_main_process, save_function, True, variant, max_shard_size, push_to_hub, **kwargs
        )

    def load_lora_adapter(self, pretrained_model_name_or_path_or_dict: Any, *args: Any, **kwargs: Any) -> None:
        """As in diffusers, but only from safetensors or a state dict.

        Raises:
            ValueError: `use_safetensors=False`, or a file of another format.
        """
        require_safetensors("use_safetensors", kwargs.pop("use_safetensors", None))
        name = kwargs.get("weight_name")
        if not isinstance(pretrained_model_name_or_path_or_dict, dict):
            for file in (str(pretrained_model_name_or_path_or_dict), name):
                if file is not None and file.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")):
                    raise ValueError(
                        f"{file!r} is not a .safetensors file; other formats can run arbitrary code when opened"
                    )
        loading: Any = super()
        loading.load_lora_adapter(pretrained_model_name_or_path_or_dict, *args, use_safetensors=True, **kwargs)

    def save_lora_adapter(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers.

        Raises:
            ValueError: `safe_serialization=False`.
        """
        require_safetensors("safe_serialization", kwargs.get("safe_serialization"))
        saving: Any = super()
        saving.save_lora_adapter(*args, **kwargs)


def require_safetensors(argument: str, value: bool | None) -> None:
    """Raise a ValueError if an option of diffusers or transformers requests another format."""
    if value is not None and not value:
        raise ValueError(f"invalid {argument} False: leanlens only reads and writes safetensors")


def require_bounds(folder: Any, subfolder: str | None = None) -> None:
    """Check the configuration in a folder before a model is built from it; repository ids are not checked.

    How weights are packed is left to the library, which may know more ways than `leanlens weights inspect`.

    Raises:
        ValueError: a size in it is no size or out of bounds, or it names code.
    """
    file = Path(folder, subfolder or "", "config.json")
    if file.is_file():
        config = read_json(file)
        packed = isinstance(config, dict) and config.get("quantization_config") is not None
        check_config({**config, "quantization_config": None} if packed else config, file)
