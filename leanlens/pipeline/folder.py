"""Opening and saving pipeline folders in the official layout.

Comes in: a folder, whoever wrote it. Goes out: a pipeline; and the other way round, with the official class names, so
that any Lens program opens what we save. Knows nothing of drawing.

Source: the `model_index.json` of the released folders. It names two classes as if they were part of diffusers and
transformers; nothing is registered there, they are found where they are while a folder is opened.
"""

from typing import Any

import torch

# Class in the official files -> (the library they say it is in, our module).
_LIBRARIES = {
    "LensTransformer2DModel": ("diffusers", "leanlens.models.transformer"),
    "LensGptOssEncoder": ("transformers", "leanlens.models.text_encoder"),
}


class OfficialFolderMixin:
    """`from_pretrained` and `save_pretrained` of diffusers, with the official names in the files."""

    _internal_dict: Any

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Open a pipeline folder in the official layout, whoever wrote it.

        Args:
            pretrained_model_name_or_path: a folder, a preset name (`turbo`, `rl`, `base`, `nano`) or a repository id.
            kwargs: as diffusers has them: `torch_dtype`, `device_map`, any component by its name, and so on.

        Raises:
            ValueError: weights that are missing, unexpected, damaged or of another shape, before anything is loaded.
        """
        from leanlens.hub import locate
        from leanlens.weights.layouts import identify
        from leanlens.weights.load import open_text_encoder
        from leanlens.weights.verify import require_sound

        layout = identify(locate(str(pretrained_model_name_or_path)))
        if layout.component != "pipeline":
            raise ValueError(
                f"{layout.path} is a {layout.title}, not a pipeline folder; `leanlens generate --model` opens it with "
                "the parts it lacks, `leanlens weights assemble` makes a folder of them"
            )
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        named = [name for name, entry in layout.config.items() if isinstance(entry, list) and entry[0] is not None]
        if missing := [name for name in layout.missing if name in named and name not in kwargs]:
            raise ValueError(f"{layout.path} lacks {', '.join(missing)}, which its model_index.json names")
        parts = {name: part for name, part in layout.parts.items() if name not in kwargs}
        for part in parts.values():
            require_sound(part)
        encoder = parts.get("text_encoder")
        if encoder is not None and encoder.quantisation == "mxfp4" and not torch.cuda.is_available():
            # Without a GPU there are no MXFP4 kernels; decoding tensor by tensor spares the packed copy.
            kwargs["text_encoder"] = open_text_encoder(encoder.path, kwargs.get("dtype") or torch.bfloat16)
        opening: Any = super()
        return opening.from_pretrained(str(layout.path), **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read `model_index.json`, with our classes found where they are instead of where the official files say."""
        loading: Any = super()
        loaded = loading.load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for entry in config.values():
            if isinstance(entry, list) and len(entry) == 2 and entry[1] in _LIBRARIES:
                entry[0] = _LIBRARIES[entry[1]][1]
        return loaded

    def to_json_string(self) -> str:
        """`model_index.json` with the official class names, so that any Lens program opens what we save."""
        kept = self._internal_dict
        official = {
            name: [_LIBRARIES[entry[1]][0], entry[1]]
            if isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] in _LIBRARIES
            else entry
            for name, entry in kept.items()
            if not (name == "text_template" and entry is None)
        }
        try:
            self._internal_dict = official
            writing: Any = super()
            return writing.to_json_string().replace(f'"{type(self).__name__}"', '"LensPipeline"')
        finally:
            self._internal_dict = kept
