"""What the configuration of a model may ask for, checked before anything is built from it.

Comes in: the JSON of a config.json, a model_index.json or a tokenizer's configuration, whoever wrote it. Goes out: a
`ValueError` that names the file and the key where a size is no size, is larger than that of any known model, or where
code is named: leanlens chooses classes and kernels, a file does not. Knows nothing of what the sizes mean.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Key -> largest whole number; the smallest is 1. Each is a multiple of what the largest known model has.
_SIZES = {
    "num_layers": 512, "num_hidden_layers": 512, "n_layer": 512, "num_attention_heads": 1024, "n_head": 1024,
    "num_key_value_heads": 1024, "attention_head_dim": 1024, "head_dim": 2048, "inner_dim": 2**16,
    "enc_hidden_dim": 2**16, "hidden_size": 2**16, "n_embd": 2**16, "d_model": 2**16, "embedding_size": 2**16,
    "intermediate_size": 2**19, "moe_intermediate_size": 2**19, "d_ff": 2**19, "vocab_size": 2**22,
    "max_position_embeddings": 2**24, "initial_context_length": 2**24, "sliding_window": 2**24, "type_vocab_size": 1024,
    "num_local_experts": 1024, "num_experts": 1024, "num_experts_per_tok": 1024, "in_channels": 4096,
    "out_channels": 4096, "latent_channels": 1024, "layers_per_block": 16, "norm_num_groups": 1024,
    "sample_size": 2**14, "num_train_timesteps": 100_000, "base_image_seq_len": 2**20, "max_image_seq_len": 2**20,
}  # fmt: skip
_MAYBE_ZERO = ("type_vocab_size", "sliding_window")
# Key -> most elements, smallest and largest of each.
_LISTS = {
    "axes_dims_rope": (8, 2, 1024),
    "block_out_channels": (8, 1, 8192),
    "decoder_block_out_channels": (8, 1, 8192),
    "selected_layer_index": (64, 0, 511),
    "lens_selected_layers": (64, 0, 511),
}
_TEXTS = {"down_block_types": 8, "up_block_types": 8, "layer_types": 512}  # key -> most elements
# Key -> smallest and largest number.
_NUMBERS = {
    "shift": (1e-3, 1e3), "base_shift": (-100, 100), "max_shift": (-100, 100), "shift_terminal": (0, 1),
    "layer_norm_eps": (0, 1), "rms_norm_eps": (0, 1), "batch_norm_eps": (0, 1), "rope_theta": (1, 1e12),
    "initializer_range": (0, 100), "swiglu_limit": (0, 1e6),
}  # fmt: skip
_KERNELS = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation",
            "_attn_implementation_internal", "_experts_implementation_internal")  # fmt: skip
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_pipeline", "use_kernels", "kernel_config")
_QUANTISATIONS = ("mxfp4", "bitsandbytes", "fp8", "sdnq")  # and leanlens_ and a name of its own
_NESTED = 4  # levels of objects inside a configuration that are looked at
# Part of a pipeline -> the library and the classes that a model_index.json may name for it.
_CLASSES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "vae": ("diffusers", "AutoencoderKLFlux2"),
    "transformer": ("diffusers", "LensTransformer2DModel"),
    "text_encoder": ("transformers", r"LensGptOssEncoder|[A-Z][A-Za-z0-9_]*(Model|ForCausalLM|LMHeadModel)"),
    "tokenizer": ("transformers", r"[A-Z][A-Za-z0-9_]*Tokenizer(Fast)?|TokenizersBackend"),
}


def check_config(config: Any, what: str | Path) -> dict[str, Any]:
    """`config` itself, once nothing in it is out of bounds.

    Args:
        config: the content of a config.json, a scheduler_config.json or a tokenizer_config.json.
        what: names it in messages.

    Raises:
        ValueError: it is no object, a size in it is no size or out of bounds, or it names code.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{what} is not a JSON object, so it configures no model")
    for key, value in _values(config, _NESTED):
        if problem := _problem(key, value):
            raise ValueError(f"{what} is not accepted: {key} is {_shortened(value)}; {problem}")
    return config


def check_index(index: Any, what: str | Path) -> dict[str, Any]:
    """A model_index.json, once every class it names is one that leanlens opens.

    Raises:
        ValueError: it is no object, or names a class or a library for a part that is none of its own.
    """
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError(f"{what} names no _class_name, so it is not a diffusers pipeline")
    check_config({key: value for key, value in index.items() if not isinstance(value, list)}, what)
    if not index["_class_name"].startswith("Lens"):
        return index  # refused by its name
    for name, named in index.items():
        if not isinstance(named, list) or named == [None, None]:
            continue
        library, accepted = _CLASSES.get(name, ("", ""))
        given = [one if isinstance(one, str) else "" for one in named]
        if len(named) != 2 or not accepted or given[0] != library or not re.fullmatch(accepted, given[1][:100]):
            raise ValueError(
                f"{what} is not accepted: {name[:40]} is {_shortened(named)}; "
                + (f"a class of {library} for a {name} is accepted" if accepted else "a Lens pipeline has no such part")
            )
    return index


def check_against_weights(config: Mapping[str, Any], parameters: int, depth: int | None, what: str | Path) -> None:
    """Check that a language model's configuration describes no more than the files hold.

    Args:
        parameters: how many values the files hold.
        depth: how many numbered layers they hold; None where they number none.

    Raises:
        ValueError: another number of layers, or many times more weights.
    """
    layers = config.get("num_hidden_layers")
    if layers is not None and depth and layers != depth:
        raise ValueError(f"{what} is not accepted: num_hidden_layers is {layers}; its weights hold {depth}")
    width, inner, words = (config.get(key) or 0 for key in ("hidden_size", "intermediate_size", "vocab_size"))
    needed = max(words * width, (layers or 0) * width * max(inner, width))
    if needed > 8 * parameters:  # packed weights hold up to 8 values in one
        raise ValueError(
            f"{what} is not accepted: hidden_size {width}, intermediate_size {inner} and vocab_size {words} ask for "
            f"{needed:,} weights; its files hold {parameters:,}"
        )


def _values(config: Mapping[str, Any], levels: int) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield key, value
        if isinstance(value, dict) and levels:
            yield from _values(value, levels - 1)


def _problem(key: str, value: Any) -> str:
    """What is accepted in place of `value`; empty where it is."""
    if key in _CODE:
        return "" if value in (None, False, {}, []) else "leanlens runs no code that a file names; remove the key"
    if key in _KERNELS:
        return "" if value in (None, "eager", "sdpa") else "leanlens chooses the implementation; remove the key"
    if key == "quantization_config" and value is not None:
        method = value.get("quant_method") if isinstance(value, dict) else 0
        known = isinstance(method, str) and (method in _QUANTISATIONS or re.fullmatch(r"leanlens_\w{1,20}", method))
        return "" if known else f"an object whose quant_method is {', '.join(_QUANTISATIONS)} or leanlens_* is accepted"
    if value is None:
        return ""
    if key == "patch_size" and isinstance(value, list):
        return "" if _fits(value, 2, 1, 16) else "a list of at most 2 whole numbers from 1 to 16 is accepted"
    if key == "patch_size" or key in _SIZES:
        least, largest = int(key not in _MAYBE_ZERO), _SIZES.get(key, 16)
        return "" if _is_whole(value, least, largest) else f"a whole number from {least} to {largest} is accepted"
    if key in _LISTS:
        most, smallest, largest = _LISTS[key]
        fine = _fits(list(value) if isinstance(value, tuple) else value, most, smallest, largest)
        return "" if fine else f"a list of at most {most} whole numbers from {smallest} to {largest} is accepted"
    if key in _TEXTS:
        fine = isinstance(value, list) and 0 < len(value) <= _TEXTS[key] and all(isinstance(one, str) for one in value)
        return "" if fine else f"a list of at most {_TEXTS[key]} names is accepted"
    if key in _NUMBERS:
        low, high = _NUMBERS[key]
        fine = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return "" if fine else f"a number from {low:g} to {high:g} is accepted"
    return ""


def _is_whole(value: Any, smallest: int, largest: int) -> bool:
    return type(value) is int and smallest <= value <= largest


def _fits(values: Any, most: int, smallest: int, largest: int) -> bool:
    fine = isinstance(values, list) and 0 < len(values) <= most
    return fine and all(_is_whole(value, smallest, largest) for value in values)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
