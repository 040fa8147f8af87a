"""Assembles stock parts into a pipeline folder, converts weights between layouts, and opens a pipeline's components.

Each part may have any layout that `layouts.py` knows. Output is written atomically. Nothing is downloaded.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler

from leanlens.files import whole_folder
from leanlens.weights.layouts import PARTS, TITLES, Layout, identify, require_readable
from leanlens.weights.load import (
    empty_model,
    model_config,
    open_text_encoder,
    open_tokenizer,
    open_transformer,
    open_vae,
    read_tensors,
    require_fit,
    stored_tensors,
)
from leanlens.weights.packed import FORMATS, format_named, packed_config, packed_slots, packed_tensors
from leanlens.weights.shards import SHARD_BYTES, STORED_DTYPES, Slot, write_file, write_shards

# Library and class of each part, as the official model_index.json names them.
OFFICIAL_CLASSES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "vae": ("diffusers", "AutoencoderKLFlux2"),
    "text_encoder": ("transformers", "LensGptOssEncoder"),
    "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
    "transformer": ("diffusers", "LensTransformer2DModel"),
}
OFFICIAL_SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "time_shift_type": "exponential",
    "shift_terminal": None,
    "stochastic_sampling": False,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
WEIGHT_STEM = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
# The quantisation_config of the released quantised text encoder.
MXFP4_CONFIG = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
OPENERS: dict[str, Callable[..., Any]] = {
    "transformer": open_transformer,
    "text_encoder": open_text_encoder,
    "vae": open_vae,
}


def assemble(
    out: str | Path,
    transformer: str | Path,
    text_encoder: str | Path,
    vae: str | Path,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> Path:
    """Build a complete pipeline folder in the official layout. Files that need no change are hard-linked or copied.

    Args:
        out: a folder that does not exist, or is empty.
        tokenizer: None uses the one in, or next to, the text encoder.
        dtype: dtype of the weights; None keeps the stored one, but writes bfloat16 for quantisations that only ComfyUI
            reads. An MXFP4 text encoder is kept; use `convert` to dequantise it.

    Raises:
        ValueError: a part is missing, damaged, unsupported, or does not fit the others.
    """
    layouts = {
        name: _expect(name, path)
        for name, path in (("transformer", transformer), ("text_encoder", text_encoder), ("vae", vae))
    }
    require_parts_fit(layouts)
    tokens = open_tokenizer(_tokenizer_path(tokenizer, layouts["text_encoder"]))
    with whole_folder(out) as folder:
        for name, layout in layouts.items():
            _write_component(folder / name, layout, dtype, progress)
        official_scheduler().save_pretrained(folder / "scheduler")
        _write_tokenizer(folder / "tokenizer", tokens, _tokenizer_path(tokenizer, layouts["text_encoder"]))
        index = {"_class_name": "LensPipeline", "_diffusers_version": diffusers.__version__}
        _write_json(folder / "model_index.json", {**index, **{name: OFFICIAL_CLASSES[name] for name in PARTS}})
    return Path(out)


def convert(
    path: str | Path,
    out: str | Path,
    to: str = "diffusers",
    dtype: torch.dtype | None = None,
    progress: bool = False,
    quant: str = "none",
    modulation: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write one component in another layout, dtype or quantisation.

    Args:
        out: a path that does not exist; for "comfy" it ends in .safetensors.
        to: "diffusers" for a component folder; "comfy" for a single file of the transformer.
        dtype: dtype of the weights that are not quantised; None keeps the stored one, or uses bfloat16 for weights that
            were quantised.
        quant: "none", or a format of `packed.FORMATS` for the attention and gated MLPs of a transformer. bitsandbytes
            can read NF4 folders; only leanlens reads the others.
        modulation: quantise the modulation as well, and so every matrix of the blocks.
        shard_bytes: maximum size of the tensors in one file of a folder.

    Raises:
        ValueError: an unsupported layout, or a target or format that is not available for it.
    """
    layout = identify(path)
    if quant != "none":
        _require_packable(layout, path, to, quant)
    if to not in ("diffusers", "comfy"):
        raise ValueError(f"invalid to {to!r}: expected 'diffusers' or 'comfy'")
    if layout.component not in TITLES or layout.refusal:
        reason = layout.refusal or f"is a {layout.title}; expected a transformer, text encoder or autoencoder"
        raise ValueError(f"{path} {reason}")
    if to == "comfy":
        if layout.component != "transformer":
            raise ValueError(f"to 'comfy' is only for a transformer; {path} is a {layout.title}, use to 'diffusers'")
        if Path(out).suffix != ".safetensors":
            raise ValueError(f"out {str(out)!r} does not end in .safetensors; to 'comfy' writes one file of that kind")
        if Path(out).exists():
            raise ValueError(f"{out} exists already; give a path that does not")
        slots, tensors = _contents(layout, dtype, quant, progress, modulation)
        write_file(Path(out), slots, tensors)
        return Path(out)
    with whole_folder(out) as folder:
        _rewrite_component(folder, layout, dtype, progress, quant, modulation, shard_bytes)
        if _has_tokenizer(layout):
            _write_tokenizer(folder, open_tokenizer(layout.path), layout.path)
    return Path(out)


def parts_beside(path: str | Path, wanted: tuple[str, ...] = ("text_encoder", "vae")) -> dict[str, Path]:
    """The other parts for a transformer file in a ComfyUI `models` tree, as far as they exist.

    Raises:
        ValueError: several files could be a wanted part.
    """
    path = Path(path).expanduser().absolute()
    models = next((parent.parent for parent in path.parents if parent.name in ("diffusion_models", "unet")), None)
    if models is None:
        return {}
    places = {"text_encoder": (("text_encoders", "clip"), "gpt_oss"), "vae": (("vae",), "flux2")}
    found = {}
    for name in wanted:
        folders, word = places[name]
        files = sorted(
            file
            for folder in folders
            for file in (models / folder).rglob("*.safetensors")
            if word in file.name.lower().replace("-", "_").replace("flux_2", "flux2").replace("flux.2", "flux2")
        )
        if len(files) > 1:
            names = ", ".join(str(file.relative_to(models)) for file in files)
            raise ValueError(
                f"{models} holds {len(files)} files that could be the {name}: {names}; give {name} to choose one"
            )
        if files:
            found[name] = files[0]
    return found


def components(
    model: str | Path,
    transformer: str | Path | None = None,
    text_encoder: str | Path | None = None,
    vae: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """The components of a `LensPipeline`, from a single file and its other parts.

    Args:
        model: a transformer in any layout, or a pipeline folder. In a ComfyUI `models` tree, the other parts are found
            automatically.
        transformer, text_encoder, vae, tokenizer: parts that replace those of `model`.

    Returns:
        A dict with scheduler, vae, text_encoder, tokenizer and transformer.

    Raises:
        ValueError: a part is missing (the message says how to give it), or the parts do not fit each other.
    """
    paths = component_paths(model, transformer, text_encoder, vae, tokenizer)
    opened = {name: OPENERS[name](paths[name], dtype=dtype, device=device, progress=progress) for name in OPENERS}
    return {"scheduler": official_scheduler(), "tokenizer": open_tokenizer(paths["tokenizer"]), **opened}


def component_paths(
    model: str | Path,
    transformer: str | Path | None = None,
    text_encoder: str | Path | None = None,
    vae: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> dict[str, Path]:
    """The paths of the parts that `components` opens, after checking that they fit each other.

    Raises:
        ValueError: a part is missing (the message says how to give it), or the parts do not fit each other.
    """
    given = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae, "tokenizer": tokenizer}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    paths = {**_parts_of(identify(model), paths), **paths}
    for name in ("transformer", "text_encoder", "vae"):
        if name not in paths:
            raise ValueError(f"{model} has no {name}: {_how_to_give(name)}")
    layouts = {name: _expect(name, paths[name]) for name in OPENERS}
    require_parts_fit(layouts)
    paths["tokenizer"] = _tokenizer_path(paths.get("tokenizer"), layouts["text_encoder"])
    return {**paths, **{name: layout.path for name, layout in layouts.items()}}


def official_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler, configured as in every released Lens."""
    return FlowMatchEulerDiscreteScheduler.from_config(OFFICIAL_SCHEDULER)


def require_parts_fit(layouts: Mapping[str, Layout]) -> None:
    """Check by their sizes that transformer, text encoder and autoencoder fit each other.

    Raises:
        ValueError: two parts do not fit; the message gives both numbers.
    """
    transformer, encoder, vae = (layouts[name].facts for name in ("transformer", "text_encoder", "vae"))
    if transformer["text_width"] != encoder["hidden_size"]:
        raise ValueError(
            f"{layouts['text_encoder'].path} gives features of width {encoder['hidden_size']}; "
            f"the transformer {layouts['transformer'].path} takes {transformer['text_width']}"
        )
    if transformer["in_channels"] != vae["packed_channels"]:
        raise ValueError(
            f"{layouts['vae'].path} gives {vae['packed_channels']} packed channels; "
            f"the transformer {layouts['transformer'].path} takes {transformer['in_channels']}"
        )


def _expect(component: str, path: str | Path) -> Layout:
    layout = identify(path)
    if layout.component == "pipeline" and component in layout.parts:
        layout = layout.parts[component]
    require_readable(layout, component)
    return layout


def _parts_of(layout: Layout, given: Mapping[str, Path]) -> dict[str, Path]:
    if layout.component == "pipeline":
        return {name: part.path for name, part in layout.parts.items()}
    if layout.component == "transformer" or layout.refusal:
        require_readable(layout, "transformer")
        wanted = tuple(name for name in ("text_encoder", "vae") if name not in given)
        return {"transformer": layout.path, **parts_beside(layout.path, wanted)}
    raise ValueError(
        f"{layout.path} is a {layout.title}; give the transformer, and this as --{layout.component.replace('_', '-')}"
    )


def _how_to_give(name: str) -> str:
    where = {
        "transformer": "a Lens transformer folder or file",
        "text_encoder": "a GPT-OSS folder or ComfyUI's gpt_oss file, or put that file into text_encoders/ "
        "of the models folder",
        "vae": "a FLUX.2 autoencoder folder or file, or put flux2-vae.safetensors into vae/ of the models folder",
    }
    return f"give {name}= (--{name.replace('_', '-')}), {where[name]}"


def _tokenizer_path(tokenizer: str | Path | None, encoder: Layout) -> Path:
    """The path of the tokenizer: as given, or from the text encoder.

    Raises:
        ValueError: there is none.
    """
    if tokenizer is not None:
        return Path(tokenizer)
    if _has_tokenizer(encoder):
        return encoder.path
    beside = encoder.path.parent / "tokenizer"
    if encoder.path.is_dir() and (beside / "tokenizer.json").is_file():  # the text encoder of a pipeline folder
        return beside
    raise ValueError(
        f"{encoder.path} has no tokenizer: give tokenizer= (--tokenizer), "
        "the folder or tokenizer.json of openai/gpt-oss-20b"
    )


def _has_tokenizer(layout: Layout) -> bool:
    return bool(layout.facts.get("tokenizer")) or (layout.path / "tokenizer.json").is_file()


def _write_component(folder: Path, layout: Layout, dtype: torch.dtype | None, progress: bool) -> None:
    folder.mkdir()
    if (layout.path / "generation_config.json").is_file():
        shutil.copyfile(layout.path / "generation_config.json", folder / "generation_config.json")
    if _stays(layout, dtype):
        require_fit(empty_model(layout), stored_tensors(layout), layout)
        _link_weights(folder, layout)
        _write_json(folder / "config.json", _official_config(layout, keep_quantisation=True))
    else:
        _rewrite_component(folder, layout, dtype, progress)


def _stays(layout: Layout, dtype: torch.dtype | None) -> bool:
    """Whether the files can be used in an official folder unchanged."""
    if layout.naming != "official" or layout.prefix != ("model." if layout.component == "text_encoder" else ""):
        return False
    if layout.quantisation is not None:
        return layout.component == "text_encoder" and layout.quantisation == "mxfp4"
    return dtype is None or set(layout.dtypes) <= {STORED_DTYPES[dtype], "I64"}


def _link_weights(folder: Path, layout: Layout) -> None:
    stem = WEIGHT_STEM[layout.component]
    files = sorted({entry.file for entry in layout.entries.values()})
    if len(files) == 1:
        _link(files[0], folder / f"{stem}.safetensors")
        return
    for file in (*files, *layout.path.glob("*.safetensors.index.json")):
        _link(file, folder / file.name)


def _rewrite_component(
    folder: Path,
    layout: Layout,
    dtype: torch.dtype | None,
    progress: bool,
    quant: str = "none",
    modulation: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    slots, tensors = _contents(layout, dtype, quant, progress, modulation)
    write_shards(folder, WEIGHT_STEM[layout.component], slots, tensors, shard_bytes)
    config = _official_config(layout, keep_quantisation=False)
    if quant != "none":
        config["quantization_config"] = packed_config(quant, modulation)
    if layout.component == "text_encoder":
        largest = max(slots, key=lambda slot: slot.bytes)
        config["dtype"] = str(largest.dtype).removeprefix("torch.")
    _write_json(folder / "config.json", config)


def _contents(
    layout: Layout, dtype: torch.dtype | None, quant: str, progress: bool, modulation: bool
) -> tuple[list[Slot], Iterator[tuple[str, torch.Tensor]]]:
    """The slots of a component's file, and an iterator over their tensors."""
    if quant == "none":
        slots = _slots(layout, dtype)
        return slots, read_tensors(layout, dtype, [slot.name for slot in slots], progress=progress)
    stored = stored_tensors(layout)
    require_fit(empty_model(layout), stored, layout)
    slots = packed_slots(stored, quant, dtype, modulation)
    return slots, packed_tensors(layout, stored, quant, dtype, progress, modulation)


def _require_packable(layout: Layout, path: str | Path, to: str, quant: str) -> None:
    if format_named(quant).comfy is None and to == "comfy":
        known = ", ".join(name for name, form in FORMATS.items() if form.comfy)
        raise ValueError(f"invalid quant {quant!r} with to 'comfy': ComfyUI reads {known}; use to 'diffusers'")
    if layout.component != "transformer":
        raise ValueError(f"quant {quant!r} is only for a transformer; {path} is a {layout.title}")


def _slots(layout: Layout, dtype: torch.dtype | None) -> list[Slot]:
    """The tensors to write for a component: those of its model, and the other stored ones of the language model."""
    stored = stored_tensors(layout)
    names = [name for name in require_fit(empty_model(layout), stored, layout) if name in stored]
    rest = [name for name in stored if name not in set(names)]
    slots = [Slot(name, stored[name].dtype(dtype), stored[name].shape) for name in (*names, *rest)]
    return sorted(slots, key=lambda slot: -slot.dtype.itemsize)  # so that each tensor is aligned to its element size


def _official_config(layout: Layout, keep_quantisation: bool) -> dict[str, Any]:
    model = empty_model(layout)
    if layout.component != "text_encoder":
        config = json.loads(model.to_json_string())
        return {key: value for key, value in config.items() if key != "_name_or_path"}
    config = {"architectures": ["LensGptOssEncoder"], "model_type": "gpt_oss", **model_config(layout)}
    config["architectures"] = ["LensGptOssEncoder"]
    config.setdefault("transformers_version", transformers.__version__)
    if keep_quantisation and layout.quantisation:
        config["quantization_config"] = layout.config.get("quantization_config") or MXFP4_CONFIG
    return config


def _write_tokenizer(folder: Path, tokenizer: Any, source: Path) -> None:
    """Copy the stock files if there are any; otherwise write the tokenizer with transformers."""
    source = source / "tokenizer" if (source / "tokenizer").is_dir() else source
    if not (source / "tokenizer_config.json").is_file():
        tokenizer.save_pretrained(folder)
        return
    folder.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    source = source.resolve()  # download caches contain links
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)
