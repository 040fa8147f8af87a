"""Identifies a file or folder of weights from its headers and JSON: component, layout, precision and missing files.

It reads no weights and does not import torch, so that inspecting a 20 GB file is instant. `load.py` decodes tensors.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leanlens.bounds import check_against_weights, check_config, check_index
from leanlens.files import JSON_BYTES, read_json
from leanlens.weights.headers import (
    INDEX_SUFFIX,
    PICKLE_REFUSAL,
    Entry,
    is_pickle,
    read_folder,
    read_header,
)
from leanlens.weights.lora_formats import find_converter
from leanlens.weights.lora_keys import layer_width, sort_keys

PARTS = ("scheduler", "vae", "text_encoder", "tokenizer", "transformer")  # the order of the official model_index.json
OPTIONAL_PARTS = ("text_encoder", "tokenizer")  # a model_index.json may omit them

# Prefixes that other programs add to the official names.
TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "")
ENCODER_PREFIXES = ("gpt_oss.transformer.", "text_encoders.gpt_oss.transformer.", "model.", "")
# Suffixes of the extra tensors for each weight in quantised files of ComfyUI.
COMFY_SUFFIXES = (".comfy_quant", ".weight_scale", ".weight_scale_2", ".input_scale")
# Suffixes of the extra tensors of leanlens for INT4 weights, and of bitsandbytes for NF4 weights.
PACKED_SUFFIXES = (".weight_zero", ".weight.absmax", ".weight.quant_map", ".weight.quant_state.bitsandbytes__nf4")

TITLES = {"transformer": "Lens transformer", "text_encoder": "GPT-OSS text encoder", "vae": "FLUX.2 autoencoder"}
READABLE_QUANTISATIONS = (None, "mxfp8", "nvfp4", "mxfp4", "fp8")
DENOISER_QUANTISATIONS = ("int8", "int4", "nf4")
USE_INSTEAD = {
    "gguf": "is a GGUF file, which is not supported; use the safetensors files of the same part, for the text "
    "encoder those of openai/gpt-oss-20b (MXFP4, 13.8 GB)",
    "sdnq": "is quantised by SDNQ, which is not supported; use the bf16, fp32 or MXFP8 files of the transformer "
    "and the MXFP4 files of openai/gpt-oss-20b",
    "pickle": PICKLE_REFUSAL,
}

LENS_WIDTHS = {"turbo, rl and base": 1536, "nano": 320}  # widths of the released networks
LANGUAGE_MODEL_ADVICE = (
    "the text encoder of a small Lens, opened by transformers as part of its pipeline folder; "
    "the released Lens needs GPT-OSS"
)

# JSON files that diffusers and transformers read in addition to config.json.
SIDE_FILES = ("scheduler_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
              "generation_config.json")  # fmt: skip
_NUMBERED = re.compile(r"(?:^|\.)(?:layers|layer|h|block|blocks)\.([0-9]{1,4})\.")
_LORA = re.compile(
    r"lora_(A|B|up|down|unet|transformer|linear_layer)|\.lora\.(up|down)|lokr_w|hada_w|oft_blocks|\.dora_scale$"
)


@dataclass(frozen=True)
class Layout:
    """What a path contains.

    Attributes:
        kind: pipeline, {transformer,text-encoder,vae}-{folder,file}, lora, tokenizer, language-model, gguf, sdnq,
            pickle or unknown.
        title: the kind in plain words.
        component: pipeline, transformer, text_encoder, language_model, vae, lora, tokenizer or unknown.
        files: all its files.
        dtypes: stored dtype -> number of tensors, with the dtype names of the safetensors format.
        quantisation: mxfp4, mxfp8, nvfp4, fp8, int8, int4, nf4, sdnq, gguf; None if not quantised, "unknown" if not
            recognised.
        tensors, parameters: number of stored tensors, and of values in the model.
        facts: sizes from shapes and configs.
        missing: missing parts or files.
        advice: how to use it.
        refusal: why it cannot be opened, as a phrase that follows the path; empty if it can.
        naming: naming scheme of the tensors: official, comfy (also for other packed formats) or bfl.
        prefix: prefix of each official name.
        entries: stored name -> place in the files.
        config: the content of config.json (model_index.json for a pipeline), empty for a file.
        parts: the parts of a pipeline.
    """

    path: Path
    kind: str
    title: str
    component: str
    files: tuple[Path, ...] = ()
    dtypes: Mapping[str, int] = field(default_factory=dict)
    quantisation: str | None = None
    tensors: int = 0
    parameters: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    advice: str = ""
    refusal: str = ""
    naming: str = "official"
    prefix: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parts: "Mapping[str, Layout]" = field(default_factory=dict, repr=False)

    def summary(self) -> dict[str, Any]:
        """Everything except the tensors, as JSON values."""
        keys = ("kind", "title", "component", "quantisation", "tensors", "parameters", "naming", "advice", "refusal")
        return {
            "path": str(self.path),
            **{key: getattr(self, key) for key in keys},
            "dtypes": dict(self.dtypes),
            "facts": dict(self.facts),
            "missing": list(self.missing),
            "files": [str(file) for file in self.files],
            "bytes": sum(file.stat().st_size for file in self.files),
            "parts": {name: part.summary() for name, part in self.parts.items()},
        }


def identify(path: str | Path) -> Layout:
    """Identify the file or folder at `path` from its headers and JSON files.

    Raises:
        ValueError: it does not exist, or is damaged: empty or truncated files, missing shards, invalid JSON.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected a file or folder of weights")
    if path.is_dir():
        return _identify_folder(path)
    if path.name in ("model_index.json", "config.json") or path.name.endswith(INDEX_SUFFIX):
        return _identify_folder(path.parent)
    return _identify_file(path)


def identify_pipeline(folder: Path) -> tuple[Layout, dict[str, str]]:
    """The layout of a pipeline folder from its readable parts, and part name -> error for the others.

    Raises:
        ValueError: its model_index.json is unreadable or not that of a pipeline.
    """
    index = check_index(read_json(folder / "model_index.json"), folder / "model_index.json")
    parts: dict[str, Layout] = {}
    broken: dict[str, str] = {}
    try:
        _check_side_files(folder / "scheduler")
    except ValueError as error:
        broken["scheduler"] = str(error)
    for name in PARTS:
        if name in index and name != "scheduler" and (folder / name).is_dir() and any((folder / name).iterdir()):
            try:
                parts[name] = _identify_part(folder, name)
            except ValueError as error:
                broken[name] = str(error)
    return _pipeline(folder, index, parts, broken), broken


def require_readable(layout: Layout, component: str) -> None:
    """Check that `layout` is the given component in a supported format.

    Raises:
        ValueError: it is another component or an unsupported format; the message says what to use instead.
    """
    if layout.refusal:
        raise ValueError(f"{layout.path} {layout.refusal}")
    if layout.component != component:
        raise ValueError(f"{layout.path} is a {layout.title}; expected a {TITLES.get(component, component)}")


def _identify_folder(folder: Path) -> Layout:
    if (folder / "model_index.json").is_file():
        layout, broken = identify_pipeline(folder)
        if broken:
            raise ValueError(next(iter(broken.values())))
        return layout
    config = _read_config(folder)
    _check_side_files(folder)
    entries = read_folder(folder)
    if not entries:
        return _identify_without_safetensors(folder, config)
    if (config.get("quantization_config") or {}).get("quant_method") == "sdnq":
        return _refused(folder, "sdnq", entries, config)
    layout = _classify(folder, entries, config)
    extra = [file for file in folder.glob("*.json") if file.is_file()]
    if layout.component in TITLES and not config:
        layout = replace(layout, missing=("config.json",))
    return replace(layout, files=tuple(sorted({*layout.files, *extra})))


def _identify_part(folder: Path, name: str) -> Layout:
    part = identify(folder / name)
    accepted = (name, "language_model") if name == "text_encoder" else (name,)  # a small Lens has another text encoder
    if part.component not in accepted and not part.refusal:
        raise ValueError(f"{part.path} is a {part.title}; expected a {TITLES.get(name, name)}")
    return part


def _pipeline(folder: Path, index: Mapping[str, Any], parts: Mapping[str, Layout], broken: Mapping[str, str]) -> Layout:
    present = {*parts, *broken, *(name for name in OPTIONAL_PARTS if index.get(name) == [None, None])}
    if (folder / "scheduler" / "scheduler_config.json").is_file():
        present.add("scheduler")
    missing = tuple(name for name in PARTS if name not in present)
    named = str(index["_class_name"])
    ours = named.startswith("Lens") and "transformer" in index
    quantisations = {part.quantisation for part in parts.values() if part.quantisation}
    return Layout(
        path=folder,
        kind="pipeline",
        title=f"diffusers pipeline folder ({named})",
        component="pipeline",
        files=(folder / "model_index.json", *(file for part in parts.values() for file in part.files)),
        dtypes=dict(sum((Counter(part.dtypes) for part in parts.values()), Counter())),
        quantisation=", ".join(sorted(quantisations)) or None,
        tensors=sum(part.tensors for part in parts.values()),
        parameters=sum(part.parameters for part in parts.values()),
        facts={"class": named},
        missing=missing,
        advice=f"fetch {', '.join(missing)} again, or rebuild the folder with `leanlens weights assemble`"
        if missing
        else "open it with LensPipeline.from_pretrained, or give it to `leanlens generate --model`",
        refusal="" if ours else f"is a pipeline of class {named}; expected a LensPipeline",
        config=index,
        parts=parts,
    )


def _identify_without_safetensors(folder: Path, config: Mapping[str, Any]) -> Layout:
    if (folder / "tokenizer.json").is_file():
        return _tokenizer(folder, tuple(sorted(file for file in folder.iterdir() if file.is_file())))
    for file in sorted(folder.iterdir()):
        if file.is_file() and (kind := _magic_kind(file)):
            return replace(_refused(folder, kind, {}, config), files=(file,))
    raise ValueError(f"{folder} has no weights: no model_index.json, no .safetensors file and no tokenizer.json")


def _identify_file(path: Path) -> Layout:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: 0 bytes; fetch it again")
    if kind := _magic_kind(path):
        return replace(_refused(path, kind, {}, {}), files=(path,))
    if path.suffix == ".json":
        content = read_json(path)
        if isinstance(content, dict) and "model" in content and "added_tokens" in content:
            return _tokenizer(path, (path,))
        raise ValueError(f"{path} is a JSON file but not a tokenizer.json; give its folder")
    return _classify(path, read_header(path)[0], {})


def _magic_kind(path: Path) -> str | None:
    """gguf or pickle, by the first bytes and the file suffix; None for anything else."""
    with open(path, "rb") as file:
        first = file.read(9)
    if first.startswith(b"GGUF") or path.suffix == ".gguf":
        return "gguf"
    return "pickle" if is_pickle(first) or path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl") else None


def _classify(path: Path, entries: Mapping[str, Entry], config: Mapping[str, Any]) -> Layout:
    names = set(entries)
    if any(_LORA.search(name) for name in names):
        return _lora(path, entries, config)
    if any(name.endswith((".svd_up", ".zero_point")) for name in names) or _has_plain_scales(entries):
        return _refused(path, "sdnq", entries, config)
    for prefix in TRANSFORMER_PREFIXES:
        if {f"{prefix}img_in.weight", f"{prefix}proj_out.weight", f"{prefix}txt_norm.0.weight"} <= names:
            return _component(path, "transformer", entries, config, prefix)
    for prefix in ENCODER_PREFIXES:
        if f"{prefix}layers.0.self_attn.sinks" in names:
            return _component(path, "text_encoder", entries, config, prefix)
    if {"bn.running_mean", "decoder.conv_in.weight"} <= names:
        return _component(path, "vae", entries, config, "")
    return _unknown(path, entries, config)


def _component(
    path: Path, component: str, entries: Mapping[str, Entry], config: Mapping[str, Any], prefix: str
) -> Layout:
    quantisation = _quantisation(entries)
    naming = _naming(component, entries)
    facts = _FACTS[component]({name.removeprefix(prefix): entry for name, entry in entries.items()})
    container = "folder" if path.is_dir() else "file"
    packed = "folder, packed as ComfyUI's files are" if path.is_dir() else "file in ComfyUI's layout"
    where = {"comfy": packed, "bfl": f"{container} with Black Forest Labs' names"}
    refusal = ""
    readable = READABLE_QUANTISATIONS + (DENOISER_QUANTISATIONS if component == "transformer" else ())
    if quantisation not in readable:
        dtypes = ", ".join(sorted({entry.dtype for entry in entries.values()}))
        refusal = f"has an unknown quantisation (dtypes {dtypes}); use bf16, fp32, FP8, MXFP8, INT8, NVFP4 or MXFP4"
    layout = Layout(
        path=path,
        kind=f"{component.replace('_', '-')}-{container}",
        title=f"{TITLES[component]}, {_precision(quantisation, entries)}, {where.get(naming, container)}",
        component=component,
        quantisation=quantisation,
        facts=facts,
        naming=naming,
        prefix=prefix,
        advice=_advice(component, container),
        refusal=refusal,
        config=config,
    )
    return _with_entries(layout, entries)


def _advice(component: str, container: str) -> str:
    if component == "transformer" and container == "file":
        return "give it to `leanlens generate --model` with the other parts next to it, or assemble a folder"
    option = component.replace("_", "-")
    return (
        f"pass it as --{option} to `leanlens weights assemble`, or open it with leanlens.weights.load.open_{component}"
    )


def _naming(component: str, entries: Mapping[str, Entry]) -> str:
    if component == "vae":
        return "bfl" if any(name.startswith("encoder.down.") for name in entries) else "official"
    if component == "text_encoder":
        return "comfy" if any(name.endswith("experts.down_proj.weight") for name in entries) else "official"
    return "comfy" if any(name.endswith(COMFY_SUFFIXES + PACKED_SUFFIXES) for name in entries) else "official"


def _quantisation(entries: Mapping[str, Entry]) -> str | None:
    if any(name.endswith("_blocks") for name in entries):
        return "mxfp4"
    if any(name.endswith(".weight_scale_2") for name in entries):
        return "nvfp4"
    if any(name.endswith(".weight.quant_state.bitsandbytes__nf4") for name in entries):
        return "unknown" if any(name.endswith(".nested_absmax") for name in entries) else "nf4"
    scales = {entry.dtype for name, entry in entries.items() if name.endswith(".weight_scale")}
    weights = {entry.dtype for name, entry in entries.items() if name.endswith("weight") and len(entry.shape) > 1}
    if "F8_E4M3" in weights:
        return "mxfp8" if scales & {"U8", "F8_E8M0"} else "fp8"
    if scales == {"F32"} and "I8" in weights:
        return "int8"
    if scales == {"BF16"} and "U8" in weights and any(name.endswith(".weight_zero") for name in entries):
        return "int4"
    return "unknown" if scales or weights & {"U8", "I8"} else None


def _has_plain_scales(entries: Mapping[str, Entry]) -> bool:
    """Whether there are SDNQ scales: `name.scale` next to an integer `name.weight`."""
    integers = ("U8", "I8", "I32", "U32", "I16", "U16", "F8_E4M3")
    return any(
        name.endswith(".weight") and entry.dtype in integers and f"{name.removesuffix('weight')}scale" in entries
        for name, entry in entries.items()
    )


def _precision(quantisation: str | None, entries: Mapping[str, Entry]) -> str:
    if quantisation:
        return "unknown quantisation" if quantisation == "unknown" else quantisation.upper()
    counts: Counter[str] = Counter()
    for entry in entries.values():
        counts[entry.dtype] += entry.elements
    return {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}.get(counts.most_common(1)[0][0], "mixed")


def _with_entries(layout: Layout, entries: Mapping[str, Entry]) -> Layout:
    return replace(
        layout,
        entries=entries,
        files=tuple(sorted({entry.file for entry in entries.values()})),
        dtypes=dict(Counter(entry.dtype for entry in entries.values())),
        tensors=len(entries),
        parameters=sum(_values(name, entry, entries) for name, entry in entries.items()),
    )


def _values(name: str, entry: Entry, entries: Mapping[str, Entry]) -> int:
    """Number of model values in one stored tensor; 0 for scales, statistics and embedded files."""
    if (
        name.endswith(
            (*COMFY_SUFFIXES, *PACKED_SUFFIXES, "_scales", ".running_mean", ".running_var", ".num_batches_tracked")
        )
        or name == "tokenizer_json"
    ):
        return 0
    packed = name.endswith("_blocks") or any(
        f"{name}{ending}" in entries for ending in ("_scale_2", "_zero", ".absmax")
    )
    return entry.elements * (2 if packed else 1)


def _transformer_facts(entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {
        "num_layers": _count(entries, r"transformer_blocks\.(\d+)\."),
        "width": entries["img_in.weight"].shape[0],
        "in_channels": entries["img_in.weight"].shape[-1],
        "text_layers": _count(entries, r"txt_norm\.(\d+)\.weight"),
        "text_width": entries["txt_norm.0.weight"].shape[0],
    }


def _encoder_facts(entries: Mapping[str, Entry]) -> dict[str, Any]:
    embedding, router = entries.get("embed_tokens.weight"), entries.get("layers.0.mlp.router.weight")
    return {
        "num_layers": _count(entries, r"layers\.(\d+)\."),
        "hidden_size": embedding.shape[1] if embedding else None,
        "vocabulary": embedding.shape[0] if embedding else None,
        "experts": router.shape[0] if router else None,
        "head": "lm_head.weight" in entries,
        "tokenizer": "tokenizer_json" in entries,
    }


def _vae_facts(entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {
        "latent_channels": entries["decoder.conv_in.weight"].shape[1],
        "packed_channels": entries["bn.running_mean"].shape[0],
    }


_FACTS = {"transformer": _transformer_facts, "text_encoder": _encoder_facts, "vae": _vae_facts}


def _lora(path: Path, entries: Mapping[str, Entry], config: Mapping[str, Any]) -> Layout:
    styles = ("lora_unet_", "diffusion_model.", "transformer.", "base_model.model.")
    style = next((style for style in styles if any(name.startswith(style) for name in entries)), "bare names")
    try:
        layers, _ = sort_keys(path, entries, config)
        refusal = ""
    except ValueError as error:
        added = find_converter(list(entries))
        layers, refusal = {}, "" if added else str(error).removeprefix(str(path)).lstrip(": ")
    width = layer_width(layers)
    fitting = [title for title, wide in LENS_WIDTHS.items() if wide == width]
    if fitting or width is None:
        advice = "give it to `leanlens generate --lora`" + (f" with {fitting[0]}" if fitting else "")
    else:
        widths = ", ".join(f"{wide} ({title})" for title, wide in LENS_WIDTHS.items())
        advice = f"its layers are {width} wide, so it fits no published Lens ({widths}), only one of that width"
    layout = Layout(
        path=path,
        kind="lora",
        title=f"LoRA adapter ({style})",
        component="lora",
        facts={"style": style, "ranks": sorted({parts.rank for parts in layers.values()}), "width": width},
        advice="use a LoRA that was trained for Lens" if refusal else advice,
        refusal=refusal,
        config=config,
    )
    return _with_entries(layout, entries)


def _tokenizer(path: Path, files: tuple[Path, ...]) -> Layout:
    advice = "pass it as --tokenizer to `leanlens weights assemble`"
    return Layout(path=path, kind="tokenizer", title="tokenizer", component="tokenizer", files=files, advice=advice)


def _refused(path: Path, kind: str, entries: Mapping[str, Entry], config: Mapping[str, Any]) -> Layout:
    title = {"gguf": "GGUF file", "sdnq": "SDNQ-quantised weights", "pickle": "pickle (PyTorch .pt, .bin or .ckpt)"}[
        kind
    ]
    advice = USE_INSTEAD[kind].split("; ")[-1]
    layout = Layout(path, kind, title, "unknown", advice=advice, refusal=USE_INSTEAD[kind], config=config)
    return _with_entries(replace(layout, quantisation=None if kind == "pickle" else kind), entries)


def _unknown(path: Path, entries: Mapping[str, Entry], config: Mapping[str, Any]) -> Layout:
    first = ", ".join(sorted(entries)[:3]) or "none"
    title = "safetensors weights that are not part of Lens"
    refusal = (
        f"is not part of Lens (first tensors: {first}); "
        "expected a Lens transformer, GPT-OSS, a FLUX.2 autoencoder or a LoRA"
    )
    if "block.0.attn.sinks" in entries:
        title = "GPT-OSS with OpenAI's original names"
        refusal = (
            "is GPT-OSS with OpenAI's original names; use the files in the root of openai/gpt-oss-20b, "
            "whose names begin with model-0000"
        )
    elif "decoder.conv_in.weight" in entries:
        title = "autoencoder without batch-norm statistics"
        refusal = "is an autoencoder without batch-norm statistics; Lens needs that of FLUX.2"
    elif model_type := config.get("model_type"):
        title = f"language model of type {str(model_type)[:40]}"
        numbered = {match[1] for name in entries if (match := _NUMBERED.search(name))}
        parameters = sum(entry.elements for entry in entries.values())
        check_against_weights(config, parameters, len(numbered) or None, path / "config.json")
        layout = Layout(path, "language-model", title, "language_model", config=config, advice=LANGUAGE_MODEL_ADVICE)
        return _with_entries(layout, entries)
    layout = Layout(path, "unknown", title, "unknown", advice=refusal.split("; ")[-1], refusal=refusal, config=config)
    return _with_entries(layout, entries)


def _read_config(folder: Path) -> Mapping[str, Any]:
    file = folder / "config.json"
    return check_config(read_json(file), file) if file.is_file() else {}


def _check_side_files(folder: Path) -> None:
    """Check the small JSON files next to weights or a tokenizer, which diffusers and transformers read on their own."""
    for name in SIDE_FILES:
        if (folder / name).is_file():
            check_config(read_json(folder / name), folder / name)
    if (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        # transformers would load the model that the adapter names, and download it if necessary
        raise ValueError(f"{folder} contains an adapter_config.json next to its config.json; remove it")
    if (folder / "tokenizer.json").is_file() and (folder / "tokenizer.json").stat().st_size > JSON_BYTES:
        raise ValueError(f"{folder / 'tokenizer.json'} is too large: the limit is {JSON_BYTES} bytes")


def _count(entries: Mapping[str, Entry], pattern: str) -> int:
    return len({match[1] for name in entries if (match := re.match(pattern, name))})
