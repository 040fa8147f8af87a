"""LoRA files of every trainer: read into one form, applied to a transformer, written for any program.

Comes in: a safetensors file or an adapter folder. Goes out: a `Lora`, low-rank pairs by the official module names; an
adapter in a transformer; or a file. Knows nothing of training and of pictures.

A LoRA adds `alpha / r * B @ A` to a weight (out, in): A is (r, in), also called down; B is (out, r), also called up.
Where alpha is not stored as a tensor it is looked for in the PEFT configuration, then in the header fields of kohya-ss
and others, and else equals r. A LoKr file whose second factor is low-rank is the same thing in other words, and is read
as a LoRA exactly: kron(W1, U V) = kron(W1, U) @ kron(I, V).

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
    """A LoRA by the official names of the linear layers it changes, and the header of the file it came from."""

    layers: dict[str, LowRank]
    metadata: dict[str, str]


def read_lora(path: str | Path, transformer: LensTransformer2DModel | None = None) -> Lora:
    """Read the LoRA of any trainer: a safetensors file, or a folder written by PEFT or diffusers.

    Keys of other models in the same file (a text encoder's) are named in a warning and left out. Names, shapes and
    dtypes are checked by the file's header, before a weight is read.

    Args:
        path: the file or folder.
        transformer: one that the LoRA must fit, so that a wrong one is refused before it is read.

    Raises:
        ValueError: not safetensors, no key of a Lens layer, half a pair, matrices that do not fit each other or the
            transformer, an alpha or a rank that is no number above 0, or a format that is not a LoRA (LoHa, DoRA, OFT,
            full differences, LoKr with a full second factor).
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
        tensors: as a file holds them.
        file: what to call it in errors.
        config: a PEFT configuration, for alpha.
        metadata: header fields of a file.
        transformer: as for `read_lora`.

    Raises:
        ValueError: as `read_lora`, but for the file.
    """
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{file} holds a {type(tensor).__name__} as {key!r}; tensors by name are accepted")
    entries = {
        key: Entry(Path(str(file)), STORED_DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), 0, 0)
        for key, tensor in tensors.items()
    }
    read = lambda key: tensors[key].to(_dtype(entries[key]))  # noqa: E731
    return _assembled(file, entries, read, config or {}, metadata or {}, transformer)


def apply_lora(
    transformer: LensTransformer2DModel,
    lora: Lora,
    name: str = "default",
    scale: float = 1.0,
    hotswap: bool = False,
    **options: Any,
) -> None:
    """Add a LoRA to a transformer as the adapter `name`, active at `scale` beside those that are active already.

    Args:
        transformer: what to change.
        lora: what to add.
        name: of the adapter, without dots.
        scale: 1 is as it was trained.
        hotswap: put the weights in the place of the loaded adapter `name`, which a compiled model bears.
        options: `low_cpu_mem_usage` and the like, as diffusers' `load_lora_adapter` has them.

    Raises:
        ValueError: a name that is taken, or with `hotswap` is not; one with a dot; a LoRA for layers of another size.
    """
    if not name or "." in name:
        raise ValueError(f"name {name!r} cannot name an adapter; give letters without dots")
    if hotswap and name not in _loaded(transformer):
        raise ValueError(
            f"name {name!r} is no LoRA that hotswap could replace; loaded are "
            f"{', '.join(_loaded(transformer)) or 'none'}"
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
    """The name of an adapter that is given none: "default_0", then "default_1", as diffusers counts them."""
    loaded = _loaded(transformer)
    return next(name for count in range(len(loaded), 2 * len(loaded) + 1) if (name := f"default_{count}") not in loaded)


def set_lora_scales(transformer: LensTransformer2DModel, scales: Mapping[str, float]) -> None:
    """Make exactly these adapters active, each at its scale; an empty mapping turns all of them off.

    Raises:
        ValueError: a name that is not loaded.
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
    """Name -> scale of the active adapters, in the order they were made active."""
    scales: dict[str, float] = {}
    for module in transformer.modules():
        if isinstance(module, PeftLayer) and not module.disable_adapters:
            for name in module.active_adapters:
                if module.lora_alpha.get(name):  # a layer that another adapter changes does not know this one
                    scales.setdefault(name, float(module.scaling[name]) * module.r[name] / module.lora_alpha[name])
    return scales


def remove_loras(transformer: LensTransformer2DModel) -> None:
    """Take every adapter out; the weights are what they were, and frozen, as PEFT leaves them."""
    if _loaded(transformer):
        transformer.unload_lora()


def extract_lora(transformer: LensTransformer2DModel, name: str = "default") -> Lora:
    """The adapter `name` of a transformer, at scale 1, as training leaves it; the tensors are shared, not copied.

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
    """Write a LoRA file, whole or not at all.

    Args:
        path: a `.safetensors` path.
        lora: what to write.
        style: "comfy" (`diffusion_model.` names, which ComfyUI and most programs load), "peft" (`transformer.` names,
            as diffusers pipelines write them) or "kohya" (`lora_unet_` names).
        metadata: header fields beside, or instead of, those that follow from the LoRA: `ss_steps`,
            `modelspec.author`, `modelspec.trigger_phrase` and so on. All values are strings.

    Raises:
        ValueError: an unknown style, a path with another suffix, or a value that is not a string.
    """
    path = Path(path)
    if style not in _STYLES:
        raise ValueError(f"style {style!r} is not known; accepted are {', '.join(_STYLES)}")
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
    """The weight file of `path`, and the PEFT configuration that lies beside it."""
    if path.is_dir():
        for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"):
            if (path / name).is_file():
                return _open(path / name)
        if len(single := [*path.glob("*.safetensors")]) == 1:
            return _open(single[0])
        raise ValueError(f"{path} holds neither adapter_model.safetensors nor pytorch_lora_weights.safetensors")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a LoRA file or an adapter folder")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file; other formats can run any program when opened")
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
    """What a part is read as: its own dtype, or bfloat16, which holds every value of 8 bits."""
    stored = TORCH_DTYPES.get(entry.dtype)
    return torch.bfloat16 if stored in (torch.float8_e4m3fn, torch.float8_e5m2) else stored


def _assembled(
    file: str | Path,
    entries: Mapping[str, Entry],
    read: Callable[[str], Tensor],
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
    transformer: LensTransformer2DModel | None,
) -> Lora:
    """The LoRA whose keys have these shapes; `read` gives the tensor of a key, once all of them are checked."""
    sorted_parts, strange = sort_keys(file, entries, config)
    if strange:
        shown = ", ".join(strange[:20]) + (", ..." if len(strange) > 20 else "")
        logger.warning("%s: %d keys name no Lens layer and are left out: %s", file, len(strange), shown)
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
    """The tensor, else the PEFT configuration, else the header, else the rank."""
    if tensor is not None:
        return number(file, f"alpha of {name}", float(tensor))
    configured = config.get("lora_alpha", config.get("alpha"))  # PEFT calls it so for LoKr
    if configured is not None:
        alpha = number(file, "lora_alpha", by_pattern(file, config.get("alpha_pattern"), name, configured))
        return scaled(alpha, rank, config.get("use_rslora"), file)
    for key in _HEADER_ALPHAS:
        text = metadata.get(key, "None")
        if text not in ("", "None", "Dynamic", "0", "0.0"):  # kohya-ss writes these where there is no one alpha
            try:
                value = float(text)
            except ValueError as error:
                raise ValueError(f"{file}: header field {key} is {text[:60]!r}, which is not a number") from error
            return number(file, f"header field {key}", value)
    return float(rank)


def _fused_sizes(parts: Mapping[str, Parts]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Official name and (out, in) of each weight that is changed; query, key and value are a third of one."""
    for name, part in parts.items():
        stem, _, last = name.rpartition(".")
        whole = next((whole for whole, split in SPLIT.items() if last in split), None)
        if whole is None:
            yield name, (part.out_features, part.in_features)
        else:
            yield f"{stem}.{whole}", (len(SPLIT[whole]) * part.out_features, part.in_features)


def _fuse_split(file: str | Path, layers: dict[str, LowRank]) -> dict[str, LowRank]:
    """Pairs for query, key and value -> one pair for the fused matrix, where a file has them apart."""
    fused = dict(layers)
    for stem in sorted({name.rpartition(".")[0] for name in layers}):
        for whole, parts in SPLIT.items():
            found = [fused.pop(f"{stem}.{part}", None) for part in parts]
            if all(layer is None for layer in found):
                continue
            if f"{stem}.{whole}" in fused:
                raise ValueError(f"{file} holds both {stem}.{whole} and its parts {', '.join(parts)}; give one of them")
            fused[f"{stem}.{whole}"] = _fused(file, stem, found)
    return fused


def _fused(file: str | Path, stem: str, parts: list[LowRank | None]) -> LowRank:
    """A = the A of all parts below each other; B = block-diagonal, with zeros where a part is not changed."""
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
    """Replace what a hotswap leaves of the old LoRA: the rank and alpha that every later scale is computed from."""
    for path, module in transformer.named_modules():
        if isinstance(module, PeftLayer) and name in module.lora_A:
            if (layer := lora.layers.get(path)) is not None:
                rank = module.lora_A[name].weight.shape[0]  # padded, where swaps between ranks were prepared
                module.r[name], module.lora_alpha[name] = rank, layer.alpha * rank / layer.rank
            scaling = scale * module.lora_alpha[name] / module.r[name]
            if isinstance(module.scaling[name], Tensor):  # prepared for a compiled model: filled, so that it stays
                module.scaling[name].fill_(scaling)
            else:
                module.scaling[name] = scaling


@contextmanager
def _without_false_alarms() -> Iterator[None]:
    """PEFT doubts that a second adapter is meant; diffusers misses every key that has the adapter's name in it."""
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
                f"{what} changes {name}, which this transformer of {transformer.config.num_layers} blocks lacks"
            )
        wanted = (modules[name].out_features, modules[name].in_features)
        if found != wanted:
            raise ValueError(
                f"{what} changes {name} as a weight {found}, but here it is {wanted}; give one for this model"
            )


def peft_config(lora: Lora) -> dict[str, Any]:
    """The arguments of PEFT's `LoraConfig`; layers that differ from the first have patterns of their own."""
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
    """Header fields that other programs read; `ss_` ones are kohya-ss's, `modelspec.` ones Stability's ModelSpec."""
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
