"""Draws with any text-to-image pipeline of diffusers, opened from a folder or a repository, safetensors weights only.

Each pipeline draws with the settings that its model was published with (`published_settings.py`), unless the user
gives others. The names of its arguments come from the signature of its `__call__`.
"""

import gc
import inspect
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leanlens.evaluate.image_models.lens_flop import COUNTED_PROMPT
from leanlens.evaluate.image_models.published_settings import published_settings
from leanlens.evaluate.image_models.spec import ModelSpec
from leanlens.evaluate.suite import Drawn, ImageFailed, Item
from leanlens.files import fingerprint, read_json, sha256
from leanlens.hub import locate_pipeline
from leanlens.install import install_extra
from leanlens.log import logger
from leanlens.machine import peak_memory
from leanlens.store import content_key

OFFLOADS = ("none", "model", "sequential")
_ARGUMENTS = {"steps": "num_inference_steps", "negative": "negative_prompt", "tokens": "max_sequence_length"}
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model")


class DiffusersModel:
    """A column drawn by a pipeline of diffusers.

    Args:
        spec: the model; its source is a folder, or a repository id, which is downloaded if it is not here.
        device, dtype: where the user's settings name none; None for the first GPU, or the processor, and bfloat16.
        count_flop: draw one more image to count the floating-point operations of an image.

    Raises:
        ValueError: no text-to-image pipeline of an installed diffusers, or a setting that it does not have.
        DownloadError: it could not be downloaded.
    """

    def __init__(
        self, spec: ModelSpec, device: str | None = None, dtype: str | None = None, count_flop: bool = False
    ) -> None:
        from leanlens.pipeline.device import dtype_name, resolve_device, resolve_dtype

        self.name = spec.name
        self._options: dict[str, Any] = spec.options
        self._device = resolve_device(spec.options.get("device", device))
        self._dtype = resolve_dtype(spec.options.get("dtype", dtype), self._device)
        self._folder = _folder_of(spec)
        index = _checked_index(self._folder)
        self._pipeline = _opened(self._folder, self._dtype, spec.options.get("variant"))
        _add_loras(self._pipeline, spec)
        source = spec.source.replace("\\", "/").rstrip("/").rpartition("/")[2]
        self._call, settings_source = _call_settings(self._pipeline, spec, source)
        self._count_flop = count_flop
        self._flop: int | None = None
        self._peak_bytes = 0
        self._identity = {
            "kind": "diffusers",
            "class": type(self._pipeline).__name__,
            "source": source,
            **_digests(self._folder, index),
            "loras": [{"sha256": _lora_digest(lora.path), "scale": lora.scale} for lora in spec.loras],
            "settings": self._call | {"size": spec.options.get("size")},
            "settings_source": settings_source,
            "dtype": dtype_name(self._dtype),
            "device": self._device.type,
            **_versions(),
        }
        logger.info("%s draws with %s: %s", self.name, settings_source, self._call)
        self._parameters, self._weight_bytes = _weights_of(self._pipeline)
        _place(self._pipeline, self._device, spec.options.get("offload", "none"))

    def identity(self) -> dict[str, Any]:
        """Class, weights, settings and their source, dtype, and versions of diffusers, transformers and torch."""
        return self._identity

    def draw(self, item: Item, seed: int) -> Drawn:
        """The image of an item. The noise comes from a generator on the processor, so it is the same on any device.

        A prompt that is longer than a text encoder takes is reported in `Drawn.notes`.

        Raises:
            ImageFailed: no memory, an image that a safety checker blackened, values that are not numbers, a black
                image, or an image of another size.
        """
        size = self._options.get("size") or item.size
        start = time.perf_counter()
        with _watched_tokenizers(self._pipeline) as cuts, _without_memory_failing():
            result = self._pipeline(**self._arguments(item.prompt, size, seed))
        seconds = time.perf_counter() - start
        self._peak_bytes = peak_memory(self._device)
        image = _checked_image(result, size)
        if not cuts:
            return Drawn(image, seconds)
        tokens, read = max(cuts)
        logger.warning("%s: prompt %s has %d tokens; a text encoder read %d", self.name, item.id, tokens, read)
        return Drawn(image, seconds, notes={"truncated": {"tokens": tokens, "read": read}})

    def costs(self) -> dict[str, Any]:
        """Parameters and bytes of all its modules; the most memory that drawing took; FLOP if counted."""
        if self._count_flop and self._flop is None:
            self._flop = self._counted_flop()
        return {
            "flop": self._flop,
            "parameters": self._parameters,
            "weight_bytes": self._weight_bytes,
            "peak_bytes": self._peak_bytes or None,
        }

    def close(self) -> None:
        """Free the memory that it holds."""
        self._pipeline = None
        _free_memory()

    def _arguments(self, prompt: str, size: tuple[int, int] | None, seed: int) -> dict[str, Any]:
        import torch

        sides = {} if size is None else {"width": size[0], "height": size[1]}
        generator = torch.Generator("cpu").manual_seed(seed)
        return {"prompt": prompt, **self._call, **sides, "generator": generator, "output_type": "np"}

    def _counted_flop(self) -> int:
        """FLOP of one image of the model's own size, by torch's counter: matrix products, convolutions, attention."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False, custom_mapping=_attention_on_the_processor()) as counter:
            self._pipeline(**self._arguments(COUNTED_PROMPT, self._options.get("size"), 0))
        return int(counter.get_total_flops())


def _attention_on_the_processor() -> dict[Any, Any]:
    """How to count the one kernel of attention that torch's counter leaves out."""
    import torch
    from torch.utils.flop_counter import sdpa_flop_count

    def count(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **options: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    return {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count}


# ------------------------------------------------------------------------------------------- opening


def _folder_of(spec: ModelSpec) -> Path:
    path = Path(spec.source).expanduser()
    if path.exists():
        return path
    return locate_pipeline(spec.source, spec.options.get("revision"), spec.options.get("variant"))


def _checked_index(folder: Path) -> dict[str, Any]:
    """The model_index.json of a pipeline all of whose classes are those of diffusers and transformers.

    Raises:
        ValueError: it names another library, which would be imported, or no class.
    """
    from diffusers import pipelines

    index = read_json(folder / "model_index.json")
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError(f"{folder / 'model_index.json'} names no _class_name, so it is not a diffusers pipeline")
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or value[:1] == [None]:
            continue
        library = str(value[0]) if value else ""
        if library not in ("diffusers", "transformers") and not _is_of_diffusers(library, pipelines):
            raise ValueError(
                f"{folder}: {name} is of {library[:60]!r}; expected classes of diffusers and transformers alone"
            )
    return index


def _is_of_diffusers(library: str, pipelines: Any) -> bool:
    """Whether it is a folder of diffusers' pipelines, where some keep classes of their own."""
    return library.isidentifier() and Path(pipelines.__path__[0], library).is_dir()


def _opened(folder: Path, dtype: Any, variant: str | None) -> Any:
    """The pipeline, on the processor.

    Raises:
        ValueError: diffusers cannot open it, or it is no text-to-image pipeline.
    """
    from diffusers import DiffusionPipeline

    _make_known(read_json(folder / "model_index.json"))
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype, variant=variant, use_safetensors=True)
    except (OSError, ValueError, AttributeError, ImportError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} cannot be opened as a diffusers pipeline: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    parameters = _call_parameters(pipeline)
    needed = [name for name, one in parameters.items() if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if not {"prompt", "num_inference_steps", "generator"} <= set(parameters) or set(needed) - {"prompt"}:
        raise ValueError(f"{folder} is a {type(pipeline).__name__}, which draws no image from a prompt alone")
    _require_text_cleaning(pipeline, parameters)
    return pipeline


def _make_known(index: dict[str, Any]) -> None:
    """Put PRX's text encoder where its index names it. Diffusers does so too, but what it writes to can be replaced
    while transformers is imported."""
    if ["transformers", "T5GemmaEncoder"] in index.values():
        import transformers
        from diffusers.pipelines import prx

        for module in (transformers, sys.modules["transformers"]):
            setattr(module, "T5GemmaEncoder", prx.T5GemmaEncoder)  # noqa: B010


def _require_text_cleaning(pipeline: Any, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raise a ValueError if its class cleans prompts with packages that are missing: it would draw other prompts."""
    module = sys.modules[type(pipeline).__module__]
    cleans = _default(parameters, "clean_caption") is True or _default(parameters, "skip_text_cleaning") is False
    for name in ("ftfy", "bs4"):
        if cleans and hasattr(module, f"is_{name}_available") and util.find_spec(name) is None:
            raise ValueError(
                f"{type(pipeline).__name__} cleans prompts with {name}, which is not installed: {install_extra('eval')}"
            )


def _call_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return {name: one for name, one in inspect.signature(type(pipeline).__call__).parameters.items() if name != "self"}


def _call_settings(pipeline: Any, spec: ModelSpec, source: str) -> tuple[dict[str, Any], str]:
    """Arguments of the call that hold for every image, and where those that the user does not give come from.

    Raises:
        ValueError: a setting that the call does not have, or that would have no effect.
    """
    parameters = _call_parameters(pipeline)
    settings, published = published_settings(pipeline, source)
    given = {
        key: spec.options[key] for key in ("steps", "cfg", "true_cfg", "negative", "tokens") if key in spec.options
    }
    cfg = "guidance_scale" if _default(parameters, "guidance_scale") is not None else "true_cfg_scale"
    names = {**_ARGUMENTS, "cfg": cfg, "true_cfg": "true_cfg_scale"}
    for key in given:
        if names[key] not in parameters:
            raise ValueError(f"{spec.name} is a {type(pipeline).__name__}, which has no {names[key]}; leave out {key}")
    call: dict[str, Any] = {
        name: _default(parameters, name) for name in names.values() if _default(parameters, name) is not None
    }
    call |= {names[key]: value for key, value in settings.items() if names[key] in parameters}
    call |= {names[key]: value for key, value in given.items()}
    if "negative" in given and "true_cfg_scale" in call and call["true_cfg_scale"] <= 1:
        raise ValueError(f"{spec.name} has negative without effect; give true_cfg above 1 too")
    return call, published


def _default(parameters: Mapping[str, inspect.Parameter], name: str) -> Any:
    return parameters[name].default if name in parameters else None


def _add_loras(pipeline: Any, spec: ModelSpec) -> None:
    """Load the LoRAs and set their scales.

    Raises:
        ValueError: a file of another format than safetensors, or one that does not fit.
    """
    if not spec.loras:
        return
    if not hasattr(pipeline, "load_lora_weights") or not hasattr(pipeline, "set_adapters"):
        raise ValueError(
            f"{spec.name} is a {type(pipeline).__name__}, which takes no LoRA; leave out +{spec.loras[0].path}"
        )
    names = [f"lora_{index}" for index in range(len(spec.loras))]
    for name, lora in zip(names, spec.loras, strict=True):
        path = _lora_file(lora.path)
        try:
            pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"LoRA {lora.path} does not fit {spec.name}: {reason}") from error
    pipeline.set_adapters(names, [lora.scale for lora in spec.loras])


def _lora_file(path: str) -> Path:
    file = Path(path).expanduser()
    file = file / "adapter_model.safetensors" if file.is_dir() else file
    if file.suffix != ".safetensors":
        raise ValueError(f"invalid LoRA {path!r}: expected a file that ends in .safetensors")
    return file.resolve()


def _lora_digest(path: str) -> str:
    return sha256(_lora_file(path))


def _place(pipeline: Any, device: Any, offload: str) -> None:
    """Put the pipeline on the device; with offload, its parts or layers come there as they are needed.

    Raises:
        ValueError: an unknown word, or a processor, which has nothing to offload from.
    """
    if offload not in OFFLOADS:
        raise ValueError(f"invalid offload {offload!r} for a diffusers pipeline: expected one of {', '.join(OFFLOADS)}")
    if offload == "none":
        pipeline.to(device)
        return
    if device.type == "cpu":
        raise ValueError(f"offload {offload!r} needs a GPU; leave it out on the processor")
    move = pipeline.enable_model_cpu_offload if offload == "model" else pipeline.enable_sequential_cpu_offload
    move(device=device)


def _digests(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    """Checksums of the weights, and of the small files beside them: configurations, tokenizers, schedules."""
    parts = [folder / name for name, value in index.items() if isinstance(value, list) and (folder / name).is_dir()]
    weights = [file for part in parts for file in sorted(part.glob("*.safetensors"))]
    small = sorted({file for part in parts for pattern in _SMALL_FILES for file in part.glob(pattern)})
    configs = {file.relative_to(folder).as_posix(): sha256(file) for file in small}
    return {"fingerprint": fingerprint(weights), "configs": content_key(index=index, files=configs)}


def _versions() -> dict[str, str]:
    import diffusers
    import torch
    import transformers

    return {
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }


def _weights_of(pipeline: Any) -> tuple[int, int]:
    """Parameters of all modules of a pipeline, and the bytes of parameters and buffers as they are held."""
    import torch

    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    weights = {id(one): one for module in modules for one in module.parameters()}.values()
    buffers = {id(one): one for module in modules for one in module.buffers()}.values()
    return sum(one.numel() for one in weights), sum(one.numel() * one.element_size() for one in (*weights, *buffers))


# ------------------------------------------------------------------------------------------- drawing


@contextmanager
def _watched_tokenizers(pipeline: Any) -> Iterator[list[tuple[int, int]]]:
    """A list that gets (tokens of a text, tokens that were read) for each text that is cut inside the block.

    Most pipelines cut a long prompt without a word. So each tokenizer's class is replaced, meanwhile, by one that
    counts again without the limit.
    """
    cuts: list[tuple[int, int]] = []
    found = {id(one): one for one in map(_tokenizer_of, pipeline.components.values()) if one is not None}.values()
    classes = [type(one) for one in found]
    for one in found:
        one.__class__ = _counting(type(one), cuts)
    try:
        yield cuts
    finally:
        for one, kind in zip(found, classes, strict=True):
            one.__class__ = kind


def _tokenizer_of(component: Any) -> Any:
    """The tokenizer that a component is, or that a processor has."""
    from transformers import PreTrainedTokenizerBase

    for one in (component, getattr(component, "tokenizer", None)):
        if isinstance(one, PreTrainedTokenizerBase):
            return one
    return None


def _counting(kind: type, cuts: list[tuple[int, int]]) -> type:
    """A subclass of a tokenizer's class that notes cut texts in `cuts`."""

    class Counting(kind):
        def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
            if options.get("truncation") and isinstance(text, str | list):
                limit = options.get("max_length") or self.model_max_length
                special = options.get("add_special_tokens", True)
                for one in [text] if isinstance(text, str) else text:
                    ids = super().__call__(one, add_special_tokens=special, verbose=False)["input_ids"]
                    if len(ids) > limit:
                        cuts.append((len(ids), int(limit)))
            return super().__call__(text, *args, **options)

    Counting.__name__, Counting.__qualname__ = kind.__name__, kind.__qualname__
    return Counting


@contextmanager
def _without_memory_failing() -> Iterator[None]:
    """Turns the errors of a device, or of the machine, that has no memory left into an `ImageFailed`."""
    import torch

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        is_memory = not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError)
        if not is_memory and not any(words in text for words in ("out of memory", "can't allocate memory")):
            raise
        _free_memory()
        raise ImageFailed(f"out of memory: {text[:200]}") from None


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _checked_image(result: Any, size: tuple[int, int] | None) -> Image.Image:
    """The one image of a pipeline's result, whose values are floats from 0 to 1 of shape (1, H, W, 3).

    Raises:
        ImageFailed: it is no image that a judge may see.
    """
    flags = getattr(result, "nsfw_content_detected", None)
    if flags and any(flags):
        raise ImageFailed("refused: the pipeline's safety checker replaced the image")
    values = np.asarray(result.images[0], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ImageFailed("the image has values that are not numbers (NaN); another dtype may help")
    if values.max(initial=0) <= 0:
        raise ImageFailed("the image is black all over")
    image = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    if size is not None and image.size != tuple(size):
        raise ImageFailed(f"the image has {image.width} x {image.height} pixels; asked for were {size[0]} x {size[1]}")
    return image
