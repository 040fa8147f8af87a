"""Reads LoRA files of any trainer, applies them to a transformer, and writes them for any program.

A LoRA adds `alpha / r * B @ A` to a weight (out, in): A is (r, in), also called down; B is (out, r), also called up.
If alpha is not stored as a tensor, it comes from the PEFT configuration, then from the header fields of kohya-ss and
others, and otherwise equals r. A LoKr file whose second factor is low-rank is equivalent to a LoRA, and is read as one
exactly: kron(W1, U V) = kron(W1, U) @ kron(I, V).

Sources: LoRA, arXiv 2106.09685, section 4.1; LoKr, arXiv 2309.14859, section 4; PEFT's adapter format; the key names
that trainers of Lens write.
"""

import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer as PeftLayer
from safetensors.torch import save_file
from torch import Tensor

from leanlens.files import parse_json, read_json, whole_file
from leanlens.log import logger
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.weights.headers import Entry, read_header
from leanlens.weights.lora_formats import converted, find_converter
from leanlens.weights.lora_keys import SPLIT, Parts, by_pattern, number, scaled, sort_keys
from leanlens.weights.shards import STORED_DTYPES, TORCH_DTYPES, read_tensor

_HEADER_ALPHAS = ("ss_network_alpha", "lora_alpha", "alpha")
_STYLES = ("comfy", "peft", "kohya")


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change of one weight: `alpha / r * b @ a`, with a (r, in) and b (out, r)."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA: official name of each linear layer that it changes -> low-rank pair, and its file's header fields."""

    layers: dict[str, LowRank]
    metadata: dict[str, str]


def read_lora(path: str | Path, transformer: LensTransformer2DModel | None = None) -> Lora:
    """Read the LoRA of any trainer: a safetensors file, or a folder written by PEFT or diffusers.

    Keys of other models in the same file, such as a text encoder, are ignored with a warning. Names, shapes and dtypes
    are checked by the file's header before any weight is read.

    Args:
        path: the file or folder.
        transformer: check that the LoRA fits this transformer before reading weights.

    Raises:
        ValueError: not safetensors, no key of a Lens layer, an incomplete pair, matrices that do not fit each other or
            the transformer, an alpha or a rank that is not a number above 0, or another format (LoHa, DoRA, OFT, full
            differences, LoKr with a full second factor).
    """
    file, config = _open(Path(path))
    entries, metadata = read_header(file)
    read = lambda key: read_tensor(entries[key], dtype=_dtype(entries[key]))  # noqa: E731
    return _assembled(file, entries, read, config or _stored_config(file, metadata), metadata, transformer)


def as_lora(
    tensors: Mapping[str, Tensor],
    file: str | Path = "the state dict",
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    transformer: LensTransformer2DModel | None = None,
) -> Lora:
    """The LoRA of any trainer from its tensors by key.

    Args:
        tensors: stored key -> tensor.
        file: its name in errors.
        config: a PEFT configuration, for alpha.
        metadata: header fields of a file.
        transformer: as for `read_lora`.

    Raises:
        ValueError: as for `read_lora`, except for the file's own errors.
    """
    entries = entries_of(tensors, file)
    read = lambda key: tensors[key].to(_dtype(entries[key]))  # noqa: E731
    return _assembled(file, entries, read, config or {}, metadata or {}, transformer)


def entries_of(tensors: Mapping[str, Tensor], file: str | Path) -> dict[str, Entry]:
    """What the header of a file with these tensors would say.

    Raises:
        ValueError: something that is not a tensor with a name.
    """
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{file} has a {type(tensor).__name__} at {key!r}; expected a tensor")
    return {
        key: Entry(Path(str(file)), STORED_DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), 0, 0)
        for key, tensor in tensors.items()
    }


def apply_lora(
    transformer: LensTransformer2DModel,
    lora: Lora,
    name: str = "default",
    scale: float = 1.0,
    hotswap: bool = False,
    **options: Any,
) -> None:
    """Add a LoRA to a transformer as the adapter `name`, active at `scale` in addition to those already active.

    Args:
        transformer: the model to change.
        lora: the LoRA to add.
        name: name of the adapter, without dots.
        scale: strength; 1 is as trained.
        hotswap: replace the weights of the loaded adapter `name` in place, without recompiling a compiled model.
        options: options of diffusers' `load_lora_adapter`, such as `low_cpu_mem_usage`.

    Raises:
        ValueError: the name is taken (or, with `hotswap`, not loaded) or contains a dot, or layer sizes differ.
    """
    if not name or "." in name:
        raise ValueError(f"invalid adapter name {name!r}: expected a name without dots")
    if hotswap and name not in _loaded(transformer):
        raise ValueError(
            f"cannot hotswap {name!r}, which is not loaded; loaded are {', '.join(_loaded(transformer)) or 'none'}"
        )
    if not hotswap and name in _loaded(transformer):
        raise ValueError(f"name {name!r} is taken by another LoRA; loaded are {', '.join(_loaded(transformer))}")
    _check_sizes(transformer, ((name, (one.b.shape[0], one.a.shape[1])) for name, one in lora.layers.items()))
    scales = lora_scales(transformer)
    state = {f"{module}.lora_A.weight": layer.a for module, layer in lora.layers.items()}
    state |= {f"{module}.lora_B.weight": layer.b for module, layer in lora.layers.items()}
    options |= {"adapter_name": name, "metadata": peft_config(lora), "hotswap": hotswap}
    with _without_false_alarms():
        transformer.load_lora_adapter(state, prefix=None, **options)
    if hotswap:
        _take_over(transformer, lora, name, scale)
    else:
        set_lora_scales(transformer, scales | {name: scale})


def next_name(transformer: LensTransformer2DModel) -> str:
    """The default name of the next adapter: "default_0", then "default_1", as in diffusers."""
    loaded = _loaded(transformer)
    return next(name for count in range(len(loaded), 2 * len(loaded) + 1) if (name := f"default_{count}") not in loaded)


def set_lora_scales(transformer: LensTransformer2DModel, scales: Mapping[str, float]) -> None:
    """Activate exactly these adapters, each at its scale; an empty mapping turns all of them off.

    Raises:
        ValueError: a name is not loaded.
    """
    for name in scales:
        if name not in _loaded(transformer):
            raise ValueError(f"LoRA {name!r} is not loaded; loaded are {', '.join(_loaded(transformer)) or 'none'}")
    if scales:
        transformer.enable_lora()
        transformer.set_adapters(list(scales), [float(scale) for scale in scales.values()])
    elif _loaded(transformer):
        transformer.disable_lora()


def lora_scales(transformer: LensTransformer2DModel) -> dict[str, float]:
    """Name -> scale of the active adapters, in the order of activation."""
    scales: dict[str, float] = {}
    for module in transformer.modules():
        if isinstance(module, PeftLayer) and not module.disable_adapters:
            for name in module.active_adapters:
                if module.lora_alpha.get(name):  # layers that only other adapters change have no entry
                    scales.setdefault(name, float(module.scaling[name]) * module.r[name] / module.lora_alpha[name])
    return scales


def remove_loras(transformer: LensTransformer2DModel) -> None:
    """Remove every adapter. The base weights are unchanged, and frozen, as PEFT leaves them."""
    if _loaded(transformer):
        transformer.unload_lora()


def extract_lora(transformer: LensTransformer2DModel, name: str = "default") -> Lora:
    """The adapter `name` of a transformer at scale 1, for example after training. Tensors are shared, not copied.

    Raises:
        ValueError: it is not loaded.
    """
    if name not in _loaded(transformer):
        raise ValueError(f"LoRA {name!r} is not loaded; loaded are {', '.join(_loaded(transformer)) or 'none'}")
    rank_stabilised = transformer.peft_config[name].use_rslora
    layers = {}
    for path, module in transformer.named_modules():
        if isinstance(module, PeftLayer) and name in module.lora_A:
            alpha = float(module.lora_alpha[name]) * (math.sqrt(module.r[name]) if rank_stabilised else 1.0)
            layers[path] = LowRank(module.lora_A[name].weight, module.lora_B[name].weight, alpha)
    return Lora(layers, {})


def write_lora(path: str | Path, lora: Lora, style: str = "comfy", metadata: Mapping[str, str] | None = None) -> None:
    """Write a LoRA file atomically.

    Args:
        path: a `.safetensors` path.
        lora: the LoRA to write.
        style: "comfy" (`diffusion_model.` names, which ComfyUI and most programs load), "peft" (`transformer.` names,
            as diffusers pipelines write them) or "kohya" (`lora_unet_` names).
        metadata: header fields that extend or override those that follow from the LoRA: `ss_steps`,
            `modelspec.author`, `modelspec.trigger_phrase` and so on. All values are strings.

    Raises:
        ValueError: an unknown style, a path with another suffix, or a value that is not a string.
    """
    path = Path(path)
    if style not in _STYLES:
        raise ValueError(f"invalid style {style!r}: expected one of {', '.join(_STYLES)}")
    if path.suffix != ".safetensors":
        raise ValueError(f"path {str(path)!r} must end in .safetensors")
    header = _header(path, lora, style) | dict(metadata or {})
    for key, value in header.items():
        if not isinstance(value, str):
            raise ValueError(f"metadata {key!r} is {value!r}; header fields of safetensors are strings")
    tensors = {}
    for module, layer in lora.layers.items():
        if style == "kohya":
            stem, down, up = "lora_unet_" + module.replace(".", "_"), "lora_down", "lora_up"
        else:
            stem, down, up = ("transformer." if style == "peft" else "diffusion_model.") + module, "lora_A", "lora_B"
        tensors[f"{stem}.{down}.weight"] = layer.a.detach().cpu().contiguous().clone()
        tensors[f"{stem}.{up}.weight"] = layer.b.detach().cpu().contiguous().clone()
        if style != "peft":  # PEFT keeps alpha in the header
            tensors[f"{stem}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)


# ------------------------------------------------------------------------------------------------- reading


def _open(path: Path) -> tuple[Path, dict[str, Any]]:
    """The weight file of `path`, and the PEFT configuration next to it."""
    if path.is_dir():
        for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
            if (path / name).is_file():
                return _open(path / name)
        if len(single := [*path.glob("*.safetensors")]) == 1:
            return _open(single[0])
        raise ValueError(f"{path} has neither adapter_model.safetensors nor pytorch_lora_weights.safetensors")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a LoRA file or an adapter folder")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file; other formats can run arbitrary code when opened")
    config = path.with_name("adapter_config.json")
    return path, read_json(config) if path.name == "adapter_model.safetensors" and config.is_file() else {}


def _stored_config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The PEFT configuration that diffusers puts into the header of a file."""
    stored = metadata.get("lora_adapter_metadata")
    if stored is None:
        return {}
    try:
        return {key.removeprefix("transformer."): value for key, value in parse_json(stored, "it").items()}
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{file}: header field lora_adapter_metadata is not a JSON object: {error}") from error


def _dtype(entry: Entry) -> torch.dtype | None:
    """The dtype to read a part in: its own, or bfloat16 for 8-bit floats, which it represents exactly."""
    stored = TORCH_DTYPES.get(entry.dtype)
    return torch.bfloat16 if stored in (torch.float8_e4m3fn, torch.float8_e5m2) else stored


def _assembled(
    file: str | Path,
    entries: Mapping[str, Entry],
    read: Callable[[str], Tensor],
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
    transformer: LensTransformer2DModel | None,
    with_added_formats: bool = True,
) -> Lora:
    """The LoRA with these keys and shapes; `read` gives the tensor of a key and is called after all checks."""
    try:
        sorted_parts, strange = sort_keys(file, entries, config)
    except ValueError:
        found = find_converter(list(entries)) if with_added_formats else None
        if found is None:
            raise
        tensors = converted(file, *found, entries, read)
        return _assembled(file, entries_of(tensors, file), tensors.__getitem__, {}, metadata, transformer, False)
    if strange:
        shown = ", ".join(strange[:20]) + (", ..." if len(strange) > 20 else "")
        logger.warning("%s: ignoring %d keys that match no Lens layer: %s", file, len(strange), shown)
    if transformer is not None:
        _check_sizes(transformer, _fused_sizes(sorted_parts), f"the LoRA {file}")
    layers = {}
    for name, parts in sorted_parts.items():
        stored = {part: read(key) for part, key in parts.keys.items()}
        alpha = _alpha(file, name, parts.rank // parts.copies, stored.get("alpha"), config, metadata)
        a, b = (stored["A"], stored["B"]) if "A" in stored else _lokr_matrices(stored)
        # The stored alpha belongs to the stored rank, which a Kronecker product repeats.
        layers[name] = LowRank(a, b, parts.copies * alpha)
    return Lora(_fuse_split(file, layers), dict(metadata))


def _lokr_matrices(held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """kron(w1, w2_a @ w2_b) as one pair."""
    w1 = held["lokr_w1"] if "lokr_w1" in held else held["lokr_w1_a"] @ held["lokr_w1_b"]
    a = torch.kron(torch.eye(w1.shape[1], dtype=w1.dtype), held["lokr_w2_b"])
    return a, torch.kron(w1, held["lokr_w2_a"])


def _alpha(
    file: str | Path,
    name: str,
    rank: int,
    tensor: Tensor | None,
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> float:
    """Alpha from the tensor, the PEFT configuration, the header or the rank, in this order."""
    if tensor is not None:
        return number(file, f"alpha of {name}", float(tensor))
    configured = config.get("lora_alpha", config.get("alpha"))  # PEFT's name for LoKr
    if configured is not None:
        alpha = number(file, "lora_alpha", by_pattern(file, config.get("alpha_pattern"), name, configured))
        return scaled(alpha, rank, config.get("use_rslora"), file)
    for key in _HEADER_ALPHAS:
        text = metadata.get(key, "None")
        if text not in ("", "None", "Dynamic", "0", "0.0"):  # kohya-ss writes these if there is no single alpha
            try:
                value = float(text)
            except ValueError as error:
                raise ValueError(f"{file}: header field {key} is {text[:60]!r}, which is not a number") from error
            return number(file, f"header field {key}", value)
    return float(rank)


def _fused_sizes(parts: Mapping[str, Parts]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Official name and (out, in) of each changed weight; separate query, key and value count as the fused weight."""
    for name, part in parts.items():
        stem, _, last = name.rpartition(".")
        whole = next((whole for whole, split in SPLIT.items() if last in split), None)
        if whole is None:
            yield name, (part.out_features, part.in_features)
        else:
            yield f"{stem}.{whole}", (len(SPLIT[whole]) * part.out_features, part.in_features)


def _fuse_split(file: str | Path, layers: dict[str, LowRank]) -> dict[str, LowRank]:
    """Merge separate pairs for query, key and value into one pair for the fused matrix."""
    fused = dict(layers)
    for stem in sorted({name.rpartition(".")[0] for name in layers}):
        for whole, parts in SPLIT.items():
            found = [fused.pop(f"{stem}.{part}", None) for part in parts]
            if all(layer is None for layer in found):
                continue
            if f"{stem}.{whole}" in fused:
                raise ValueError(f"{file} has both {stem}.{whole} and its parts {', '.join(parts)}; expected one")
            fused[f"{stem}.{whole}"] = _fused(file, stem, found)
    return fused


def _fused(file: str | Path, stem: str, parts: list[LowRank | None]) -> LowRank:
    """Stack the A of all parts vertically; B is block-diagonal, with zeros for missing parts."""
    present = [part for part in parts if part is not None]
    height, dtype = present[0].b.shape[0], present[0].b.dtype
    if any(part.a.shape[1] != present[0].a.shape[1] or part.b.shape[0] != height for part in present):
        raise ValueError(f"{file}: query, key and value of {stem} have different sizes")
    same = len({part.scale for part in present}) == 1
    rank = sum(part.rank for part in present)
    b = torch.zeros(height * len(parts), rank, dtype=dtype)
    column = 0
    for row, part in enumerate(parts):
        if part is not None:
            block = part.b if same else (part.b.float() * part.scale).to(dtype)
            b[row * height : (row + 1) * height, column : column + part.rank] = block
            column += part.rank
    return LowRank(torch.cat([part.a for part in present]), b, rank * (present[0].scale if same else 1.0))


# ------------------------------------------------------------------------------------------------ applying


def _loaded(transformer: LensTransformer2DModel) -> list[str]:
    return list(getattr(transformer, "peft_config", {}))


def _take_over(transformer: LensTransformer2DModel, lora: Lora, name: str, scale: float) -> None:
    """Set the rank and alpha after a hotswap, which keeps those of the old LoRA; later scales depend on them."""
    for path, module in transformer.named_modules():
        if isinstance(module, PeftLayer) and name in module.lora_A:
            if (layer := lora.layers.get(path)) is not None:
                rank = module.lora_A[name].weight.shape[0]  # padded, if swapping between ranks was prepared
                module.r[name], module.lora_alpha[name] = rank, layer.alpha * rank / layer.rank
            scaling = scale * module.lora_alpha[name] / module.r[name]
            if isinstance(module.scaling[name], Tensor):  # prepared for a compiled model: keep the tensor, fill it
                module.scaling[name].fill_(scaling)
            else:
                module.scaling[name] = scaling


@contextmanager
def _without_false_alarms() -> Iterator[None]:
    """Silence two false warnings: PEFT's on a second adapter, diffusers' on keys that contain the adapter's name."""
    library = logging.getLogger("diffusers.utils.peft_utils")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            yield
    finally:
        library.setLevel(level)


def _check_sizes(
    transformer: LensTransformer2DModel, sizes: Iterable[tuple[str, tuple[int, int]]], what: str = "the LoRA"
) -> None:
    modules = dict(transformer.named_modules())
    for name, found in sizes:
        if name not in modules:
            raise ValueError(
                f"{what} changes {name}, which this transformer of {transformer.config.num_layers} blocks does not have"
            )
        wanted = (modules[name].out_features, modules[name].in_features)
        if found != wanted:
            raise ValueError(f"{what} changes {name} as a weight {found}, but it is {wanted} in this model")


def peft_config(lora: Lora) -> dict[str, Any]:
    """The arguments of PEFT's `LoraConfig`; layers that differ from the first get their own patterns."""
    first = next(iter(lora.layers.values()))
    return {
        "r": first.rank,
        "lora_alpha": first.alpha,
        "target_modules": list(lora.layers),
        "rank_pattern": {
            f"^{re.escape(name)}": layer.rank for name, layer in lora.layers.items() if layer.rank != first.rank
        },
        "alpha_pattern": {
            f"^{re.escape(name)}": layer.alpha for name, layer in lora.layers.items() if layer.alpha != first.alpha
        },
    }


# ------------------------------------------------------------------------------------------------- writing


def _header(path: Path, lora: Lora, style: str) -> dict[str, str]:
    """Header fields for other programs: `ss_` fields of kohya-ss, `modelspec.` fields of Stability's ModelSpec."""
    ranks = {layer.rank for layer in lora.layers.values()}
    alphas = {layer.alpha for layer in lora.layers.values()}
    prefix = "transformer." if style == "peft" else ""
    return {
        "format": "pt",
        "ss_network_module": "networks.lora_lens",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
        "ss_base_model_version": "lens",
        "ss_output_name": path.stem,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "Lens/lora",
        "modelspec.implementation": "leanlens",
        "modelspec.title": path.stem,
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "lora_adapter_metadata": json.dumps({prefix + key: value for key, value in peft_config(lora).items()}),
    }
