"""Where things run: a model opened by name, on a device, in a dtype, compiled or not, held as a plan says.

Comes in: a model's name and what was asked for. Goes out: an `OpenedModel`, ready to draw, that knows what it is.
"""

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from leanlens.files import fingerprint
from leanlens.log import warn_once
from leanlens.pipeline.feature_cache import FeatureCache, prompt_key
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.offload import open_folder, open_parts, packed_format
from leanlens.pipeline.request import ImageRequest, LoraChoice
from leanlens.pipeline.speed import Speed, apply_speed
from leanlens.plan.options import LoadOptions
from leanlens.store import Store
from leanlens.threads import Load, StepThreads, can_be_chosen

if TYPE_CHECKING:
    from leanlens.pipeline.pipeline import LensPipeline

# Decoding in tiles changes pixels near the seams, so no size the released Lens draws is tiled: its largest bucket has
# 8,450 tokens (1040 x 2080).
TILE_ABOVE_TOKENS = 8450

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Parameters below which a step is so short that its threads lose more by waiting for a core than they win.
SMALL = 500_000_000
_SHORT_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def compute_device(module: Any) -> torch.device:
    """The device a module computes on, which differs from where its weights lie while they are offloaded."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    from diffusers.hooks.group_offloading import _get_group_onload_device, _is_group_offload_enabled

    if _is_group_offload_enabled(module):
        return _get_group_onload_device(module)
    return next(module.parameters()).device


@contextmanager
def tiled_decoding(vae: Any, grid: tuple[int, int]) -> Iterator[None]:
    """Decode in tiles within this block if the (h, w) grid of tokens is larger than any official picture."""
    asked = vae.use_tiling
    try:
        if grid[0] * grid[1] > TILE_ABOVE_TOKENS:
            vae.enable_tiling()
        yield
    finally:
        vae.use_tiling = asked


def resolve_device(name: str | None) -> torch.device:
    """`name` as a torch device; None or "auto" takes cuda, then mps, then cpu.

    Raises:
        ValueError: a device this machine does not have.
    """
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        usable = device.type in ("cpu", "cuda", "mps", "xpu") and (device.type != "cpu" or device.index is None)
        if usable:
            torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        usable = False
    if not usable:
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"device {name!r} cannot be used here; give auto, {', '.join(here)}")
    return device


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """`name` as a dtype; None or "auto" takes bfloat16, or float32 on a processor that has no bfloat16 arithmetic.

    Raises:
        ValueError: an unknown name.
    """
    if name in (None, "auto"):
        return torch.float32 if device.type == "cpu" and not _cpu_has_bfloat16() else torch.bfloat16
    name = _SHORT_DTYPES.get(str(name), name)
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not accepted; use one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _cpu_has_bfloat16() -> bool:
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag)() for flag in flags if hasattr(torch.cpu, flag))


@dataclass
class OpenedModel:
    """A pipeline, and what it was opened from and how.

    Attributes:
        pipeline: ready to draw.
        name: as it was asked for.
        parts: paths that were given for single components, by component name.
        fingerprint: of its weight files (`files.fingerprint`).
        device, dtype: where and in what the transformer computes.
        compiled: whether its blocks are compiled.
        options: how its parts are held.
        feature_cache: text features of earlier prompts; only the last one's where nothing else was asked for.
        feature_key: what those depend on beyond the prompt.
        speed: how it was made fast.
        load: what a small model's threads are chosen by, call by call; None where their number is fixed.
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
        """What to write down so that the same model can be opened again."""
        return {"name": self.name, "parts": self.parts, "fingerprint": self.fingerprint}

    def conditions(self) -> dict[str, Any]:
        """What else can change the last bits of a picture."""
        import diffusers
        import transformers

        threads = {"threads": torch.get_num_threads()} if self.device.type == "cpu" else {}
        return {
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "compiled": self.compiled,
            **self.options.conditions(),
            **self.speed.conditions(),
            **threads,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def step_threads(self, plan: Sequence[Sequence[int]] | None = None) -> StepThreads:
        """Threads of the transformer's calls in one drawing: as `plan` has them, or chosen by the load."""
        load = self.load if plan is None else None
        return StepThreads(torch.get_num_threads(), load, plan or ())

    def features(self, request: ImageRequest) -> tuple[TextFeatures, TextFeatures]:
        """Text features of a request's prompt and negative prompt, encoded or from `feature_cache`."""
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
        """Have exactly these adapters on the transformer."""
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


def open_model(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    parts: dict[str, str] | None = None,
    compile: bool = False,
    options: LoadOptions | None = None,
    features: str | Path | None = None,
    speed: Speed | None = None,
) -> OpenedModel:
    """Open a model by name and place it.

    Args:
        name: a preset, a pipeline folder, a transformer file or folder in any known layout, a repository id, or "toy"
            for random weights.
        device: cpu, cuda, mps, or None to choose.
        dtype: bfloat16, float16, float32, or None to choose.
        parts: paths of single components (`transformer`, `text_encoder`, `vae`, `tokenizer`), for a `name` that does
            not hold them.
        compile: compile the transformer's blocks; without a C++ compiler on a CPU it stays as it is, and says so.
        options: how the parts are quantised, offloaded and tiled; None keeps all on the device (`LoadOptions`).
        features: a folder where text features are kept, so that a prompt is encoded once and for all.
        speed: attention kernels, CUDA graphs, and what is faster at a price; None takes nothing of it.

    Raises:
        ValueError: a name, device or dtype that cannot be used, weights that are missing or damaged, or words of
            `options` that do not go together with the rest.
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    options, speed = options or LoadOptions(), speed or Speed()
    parts = {part: path for part, path in (parts or {}).items() if path}
    if name == "toy" and parts:
        raise ValueError(f"{next(iter(parts))} cannot be given with the model toy, which is made of random weights")
    if speed.fp8 and (options.offload in ("block", "disk") or options.quant not in ("auto", "none")):
        raise ValueError(
            f"fp8 products cannot be combined with quant {options.quant!r} and offload {options.offload!r}; they make "
            "their own weights, which stay on the device"
        )
    if compile and options.offload in ("block", "disk"):
        raise ValueError(f"compile cannot be combined with offload {options.offload!r}; leave one of them out")
    text_files: list[Path] = []
    load = Load()  # looks at the machine while the model is opened
    if name == "toy":
        pipeline, digest = _toy(where, kind, options)
    else:
        pipeline, digest, text_files = _opened(name, where, kind, parts, options)
    pipeline.set_progress_bar_config(disable=True)
    compiled = compile and _can_compile(where)
    apply_speed(pipeline, where, speed, compiled)
    opened = OpenedModel(
        pipeline, name, parts, digest, where, kind, compiled, options, speed=speed, load=_load(where, pipeline, load)
    )
    if features is not None:
        opened.feature_cache.store = Store(features)
        opened.feature_key = {
            "encoder": fingerprint(text_files) if text_files else "toy",
            "dtype": str(kind),
            "device": "cpu" if options.encoder_on == "cpu" else where.type,  # the last bits differ between devices
            "torch": torch.__version__,
        }
    return opened


def _load(device: torch.device, pipeline: Any, load: Load) -> Load | None:
    """`load` where a model's threads may be chosen by it: small, on the processor, and nobody has chosen already."""
    size = sum(weight.numel() for weight in pipeline.transformer.parameters())
    chosen = device.type == "cpu" and size < SMALL and can_be_chosen(torch.get_num_threads())
    return load if chosen else None


def _text_of(request: ImageRequest) -> tuple[str, str, str, int]:
    """All that text features depend on, given a model."""
    return request.prompt, request.negative_prompt, request.template_date, request.max_sequence_length


def _toy(device: torch.device, dtype: torch.dtype, options: LoadOptions) -> "tuple[LensPipeline, str]":
    from leanlens.pipeline.toy import toy_pipeline

    pipeline, digest = toy_pipeline(), "toy".ljust(64, "0")
    if not options.is_plain:  # what is held otherwise is read from files
        from leanlens.weights.layouts import identify

        folder = tempfile.mkdtemp(prefix="leanlens-toy-")
        pipeline.save_pretrained(folder)
        held = open_folder(identify(folder), device, dtype, options)
        weakref.finalize(held, shutil.rmtree, folder, ignore_errors=True)
        return held, digest
    for part in (pipeline.transformer, pipeline.vae):
        part.to(dtype)
    return pipeline.to(device), digest


def _opened(
    name: str, device: torch.device, dtype: torch.dtype, parts: dict[str, str], options: LoadOptions
) -> "tuple[LensPipeline, str, list[Path]]":
    """A pipeline, the fingerprint of its weights, and the files of its text encoder and tokenizer."""
    from leanlens.hub import locate
    from leanlens.pipeline.pipeline import LensPipeline
    from leanlens.weights.assemble import component_paths, components
    from leanlens.weights.layouts import identify

    path = locate(name)
    layout = identify(path)
    if layout.component == "pipeline" and not parts:
        files = _files_of(layout)
        text = [file for part in ("text_encoder", "tokenizer") for file in _part_files(layout, part)]
        denoiser = layout.parts.get("transformer")
        packed = denoiser is not None and packed_format(denoiser) is not None
        if options == LoadOptions() or (options.is_plain and not packed):
            pipeline = LensPipeline.from_pretrained(path, dtype=dtype).to(device)
        else:
            pipeline = open_folder(layout, device, dtype, options)
    else:
        given: dict[str, Any] = dict(parts)
        paths = component_paths(path, **given)
        files = [file for used in (path, *paths.values()) for file in _files_of(identify(used))]
        text = [file for part in ("text_encoder", "tokenizer") for file in _files_of(identify(paths[part]))]
        if options.is_plain and not packed_format(identify(paths["transformer"])):
            pipeline = LensPipeline(**components(path, dtype=dtype, **given)).to(device)
        else:
            pipeline = open_parts(paths, device, dtype, options)
    return pipeline, fingerprint(sorted({file for file in files if file.suffix == ".safetensors"})), text


def _part_files(layout: Any, name: str) -> list[Path]:
    return _files_of(layout.parts[name]) if name in layout.parts else []


def _files_of(layout: Any) -> list[Path]:
    return [*layout.files, *(file for part in layout.parts.values() for file in part.files)]


def _can_compile(device: torch.device) -> bool:
    if device.type != "cpu":
        return True
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if any(shutil.which(compiler) for compiler in compilers if compiler):
        return True
    warn_once("No C++ compiler was found, so the model runs uncompiled; install g++, clang++ or MSVC to compile it.")
    return False
