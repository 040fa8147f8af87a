"""Exports the public names of the library, imported on first use, so that `import leanlens` never loads torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that holds it.
_EXPORTS = {
    "LensPipeline": "leanlens.pipeline.pipeline",
    "LensPipelineOutput": "leanlens.pipeline.pipeline",
    "LensImg2ImgPipeline": "leanlens.pipeline.variants",
    "LensInpaintPipeline": "leanlens.pipeline.variants",
    "LensTransformer2DModel": "leanlens.models.transformer",
    "LensGptOssEncoder": "leanlens.models.text_encoder",
    "LoadOptions": "leanlens.plan.options",
    "find_machine": "leanlens.pipeline.auto",
    "plan_image": "leanlens.pipeline.auto",
}

__all__ = [
    "LensGptOssEncoder",
    "LensImg2ImgPipeline",
    "LensInpaintPipeline",
    "LensPipeline",
    "LensPipelineOutput",
    "LensTransformer2DModel",
    "LoadOptions",
    "__version__",
    "find_machine",
    "plan_image",
]

if TYPE_CHECKING:
    from leanlens.models.text_encoder import LensGptOssEncoder
    from leanlens.models.transformer import LensTransformer2DModel
    from leanlens.pipeline.auto import find_machine, plan_image
    from leanlens.pipeline.pipeline import LensPipeline, LensPipelineOutput
    from leanlens.pipeline.variants import LensImg2ImgPipeline, LensInpaintPipeline
    from leanlens.plan.options import LoadOptions


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'leanlens' has no attribute {name!r}: it exports {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
