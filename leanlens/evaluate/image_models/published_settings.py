"""The settings that a diffusers pipeline's model was published with, by its class and, where one class has several, by
its configuration or name.

A model that is not in the table has the defaults of its class's `__call__`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """Settings of one published model.

    Attributes:
        pipeline: name of the class.
        settings: values of the keys steps, cfg, true_cfg, negative and tokens.
        source: where they are published.
        is_it: whether a pipeline of that class, opened from a source of this name in lower case, is this model.
    """

    pipeline: str
    settings: dict[str, Any]
    source: str
    is_it: Callable[[Any, str], bool] = lambda pipeline, name: True


def _config(pipeline: Any, name: str) -> Any:
    return getattr(pipeline.transformer.config, name, None)


def _is_turbo(pipeline: Any, name: str) -> bool:
    return any(word in name for word in ("turbo", "distilled", "lightning"))


# The first row that fits decides.
TABLE = (
    Published(
        "FluxPipeline",
        {"steps": 4, "cfg": 0.0, "tokens": 256},
        "model card of FLUX.1-schnell",
        lambda pipeline, name: not _config(pipeline, "guidance_embeds"),
    ),
    Published("FluxPipeline", {"steps": 50, "cfg": 3.5, "tokens": 512}, "model card of FLUX.1-dev"),
    Published("Flux2Pipeline", {"steps": 50, "cfg": 4.0}, "model card of FLUX.2-dev"),
    Published(
        "Flux2KleinPipeline",
        {"steps": 4, "cfg": 1.0},
        "model card of FLUX.2-klein",
        lambda pipeline, name: bool(pipeline.config.get("is_distilled")),
    ),
    Published("Flux2KleinPipeline", {"steps": 50, "cfg": 4.0}, "model card of FLUX.2-klein-base"),
    Published(
        "StableDiffusion3Pipeline",
        {"steps": 4, "cfg": 0.0},
        "model card of Stable Diffusion 3.5 Large Turbo",
        _is_turbo,
    ),
    Published(
        "StableDiffusion3Pipeline",
        {"steps": 40, "cfg": 4.5},
        "model card of Stable Diffusion 3.5 Medium",
        lambda pipeline, name: bool(_config(pipeline, "dual_attention_layers")),
    ),
    Published(
        "StableDiffusion3Pipeline",
        {"steps": 28, "cfg": 3.5},
        "model card of Stable Diffusion 3.5 Large",
        lambda pipeline, name: _config(pipeline, "num_layers") == 38,
    ),
    Published("ZImagePipeline", {"steps": 9, "cfg": 0.0}, "model card of Z-Image-Turbo", _is_turbo),
    Published("ZImagePipeline", {"steps": 50, "cfg": 4.0}, "model card of Z-Image"),
    Published(
        "QwenImagePipeline", {"steps": 50, "true_cfg": 4.0, "negative": " "}, "model card of Qwen-Image"
    ),  # without a negative prompt, its call uses no guidance
    Published("PRXPipeline", {"steps": 8, "cfg": 1.0}, "diffusers' page of PRX, distilled models", _is_turbo),
    Published("PRXPipeline", {"steps": 28, "cfg": 5.0}, "diffusers' page of PRX"),
    Published("PRXPixelPipeline", {"steps": 28, "cfg": 5.0}, "diffusers' page of PRX Pixel"),
    Published("StableDiffusionXLPipeline", {"steps": 1, "cfg": 0.0}, "model card of SDXL-Turbo", _is_turbo),
)


def published_settings(pipeline: Any, name: str) -> tuple[dict[str, Any], str]:
    """The published settings of an opened pipeline, and where they are published; the call's defaults are left out.

    Args:
        name: of the folder or repository that it was opened from.
    """
    import diffusers

    kind = type(pipeline).__name__
    for row in TABLE:
        if row.pipeline == kind and row.is_it(pipeline, name.lower()):
            return dict(row.settings), row.source
    return {}, f"defaults of {kind} in diffusers {diffusers.__version__}"
