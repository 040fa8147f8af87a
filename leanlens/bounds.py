"""Checks untrusted model configurations (sizes, classes, code references) before a model is built from them.

A size must be within the bounds below, which exceed every known model. A configuration cannot choose classes, kernels
or code: leanlens chooses them.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Key -> largest integer; the smallest is 1. Each is a multiple of the largest known model's value.
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
# Key -> maximum length, smallest and largest element.
_LISTS = {
    "axes_dims_rope": (8, 2, 1024),
    "block_out_channels": (8, 1, 8192),
    "decoder_block_out_channels": (8, 1, 8192),
    "selected_layer_index": (64, 0, 511),
    "lens_selected_layers": (64, 0, 511),
}
_NAME_LISTS = {"down_block_types": 8, "up_block_types": 8, "layer_types": 512}  # key -> maximum length
# Key -> smallest and largest number.
_NUMBERS = {
    "shift": (1e-3, 1e3), "base_shift": (-100, 100), "max_shift": (-100, 100), "shift_terminal": (0, 1),
    "layer_norm_eps": (0, 1), "rms_norm_eps": (0, 1), "batch_norm_eps": (0, 1), "rope_theta": (1, 1e12),
    "initializer_range": (0, 100), "swiglu_limit": (0, 1e6),
}  # fmt: skip
_KERNELS = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation",
            "_attn_implementation_internal", "_experts_implementation_internal")  # fmt: skip
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_pipeline", "use_kernels", "kernel_config")
_QUANTISATIONS = ("mxfp4", "bitsandbytes", "fp8", "sdnq")  # leanlens_* is accepted as well
_NESTED = 4  # levels of nested objects that are checked
# Pipeline component -> the library and the class names that a model_index.json may give for it.
_CLASSES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "vae": ("diffusers", "AutoencoderKLFlux2"),
    "transformer": ("diffusers", "LensTransformer2DModel"),
    "text_encoder": ("transformers", r"LensGptOssEncoder|[A-Z][A-Za-z0-9_]*(Model|ForCausalLM|LMHeadModel)"),
    "tokenizer": ("transformers", r"[A-Z][A-Za-z0-9_]*Tokenizer(Fast)?|TokenizersBackend"),
}


def check_config(config: Any, what: str | Path) -> dict[str, Any]:
    """Check a configuration and return it unchanged.

    Args:
        config: the content of a config.json, a scheduler_config.json or a tokenizer_config.json.
        what: names it in messages.

    Raises:
        ValueError: it is not an object, a value is out of bounds, or it names code.
    """
    if not isinstance(config, dict):
        raise ValueError(f"invalid {what}: expected a JSON object")
    for key, value in _values(config, _NESTED):
        if problem := _problem(key, value):
            raise ValueError(f"invalid {what}: {key} is {_shortened(value)}; {problem}")
    return config


def check_index(index: Any, what: str | Path) -> dict[str, Any]:
    """Check that leanlens can open every class that a model_index.json names, and return the index unchanged.

    Raises:
        ValueError: it is not an object, or names a class or a library that is not allowed for a component.
    """
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError(f"{what} has no _class_name, so it is not a diffusers pipeline")
    check_config({key: value for key, value in index.items() if not isinstance(value, list)}, what)
    if not index["_class_name"].startswith("Lens"):
        return index  # rejected later, by its class name
    for name, named in index.items():
        if not isinstance(named, list) or named == [None, None]:
            continue
        library, accepted = _CLASSES.get(name, ("", ""))
        given = [one if isinstance(one, str) else "" for one in named]
        if len(named) != 2 or not accepted or given[0] != library or not re.fullmatch(accepted, given[1][:100]):
            raise ValueError(
                f"invalid {what}: {name[:40]} is {_shortened(named)}; "
                + (f"expected a {name} class of {library}" if accepted else "a Lens pipeline has no such component")
            )
    return index


def check_against_weights(config: Mapping[str, Any], parameters: int, depth: int | None, what: str | Path) -> None:
    """Check that a language model's configuration matches the size of its weight files.

    Args:
        parameters: number of values in the files.
        depth: number of layers in the files; None if the layers are not numbered.

    Raises:
        ValueError: the number of layers differs, or the configuration describes many times more weights.
    """
    layers = config.get("num_hidden_layers")
    if layers is not None and depth and layers != depth:
        raise ValueError(f"invalid {what}: num_hidden_layers is {layers}; its weights have {depth}")
    width, inner, words = (config.get(key) or 0 for key in ("hidden_size", "intermediate_size", "vocab_size"))
    needed = max(words * width, (layers or 0) * width * max(inner, width))
    if needed > 8 * parameters:  # packed weights hold up to 8 values in one
        raise ValueError(
            f"invalid {what}: hidden_size {width}, intermediate_size {inner} and vocab_size {words} need "
            f"{needed:,} weights; its files have {parameters:,}"
        )


def _values(config: Mapping[str, Any], levels: int) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        yield key, value
        if isinstance(value, dict) and levels:
            yield from _values(value, levels - 1)


def _problem(key: str, value: Any) -> str:
    """What is wrong with `value`, or an empty string."""
    if key in _CODE:
        return "" if value in (None, False, {}, []) else "leanlens does not run code from a file; remove the key"
    if key in _KERNELS:
        return "" if value in (None, "eager", "sdpa") else "leanlens chooses the implementation; remove the key"
    if key == "quantization_config" and value is not None:
        method = value.get("quant_method") if isinstance(value, dict) else 0
        known = isinstance(method, str) and (method in _QUANTISATIONS or re.fullmatch(r"leanlens_\w{1,20}", method))
        return "" if known else f"expected an object with quant_method {', '.join(_QUANTISATIONS)} or leanlens_*"
    if value is None:
        return ""
    if key == "patch_size" and isinstance(value, list):
        return "" if _fits(value, 2, 1, 16) else "expected a list of at most 2 integers from 1 to 16"
    if key == "patch_size" or key in _SIZES:
        least, largest = int(key not in _MAYBE_ZERO), _SIZES.get(key, 16)
        return "" if _is_integer(value, least, largest) else f"expected an integer from {least} to {largest}"
    if key in _LISTS:
        most, smallest, largest = _LISTS[key]
        fine = _fits(list(value) if isinstance(value, tuple) else value, most, smallest, largest)
        return "" if fine else f"expected a list of at most {most} integers from {smallest} to {largest}"
    if key in _NAME_LISTS:
        most = _NAME_LISTS[key]
        fine = isinstance(value, list) and 0 < len(value) <= most and all(isinstance(one, str) for one in value)
        return "" if fine else f"expected a list of at most {most} names"
    if key in _NUMBERS:
        low, high = _NUMBERS[key]
        fine = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return "" if fine else f"expected a number from {low:g} to {high:g}"
    return ""


def _is_integer(value: Any, smallest: int, largest: int) -> bool:
    return type(value) is int and smallest <= value <= largest


def _fits(values: Any, most: int, smallest: int, largest: int) -> bool:
    fine = isinstance(values, list) and 0 < len(values) <= most
    return fine and all(_is_integer(value, smallest, largest) for value in values)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
