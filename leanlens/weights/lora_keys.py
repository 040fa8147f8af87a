"""Maps the keys of a LoRA file to layers and parts, and checks that their shapes fit each other.

It reads no weights and does not import torch, so that an invalid file is rejected before it is in memory. Patterns from
a file are never run as regular expressions.

Sources: LoKr, arXiv 2309.14859, section 4; PEFT's adapter format; the key names that trainers of Lens write.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from leanlens.weights.headers import DTYPE_BITS, Entry

# Prefixes of the module name, in any order and number; the longest first, so that none hides another.
_PREFIXES = (
    "model.diffusion_model.",
    "base_model.model.",
    "diffusion_model.",
    "lora_transformer_",
    "lora_unet__",
    "transformer.",
    "lora_unet_",
    "_orig_mod.",
    "_orig_mod_",
    "orig_mod_",
    "lycoris_",
    "module.",
    "model.",
    "unet.",
)
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # wrapper modules that torch inserts
# Suffix after the module name -> part of the pair. An adapter's name may come before "weight".
_ENDINGS = (
    (r"(.+)\.(?:lora_A|lora_down)(?:\.[^.]+)?\.weight", "A"),
    (r"(.+)\.(?:lora_B|lora_up)(?:\.[^.]+)?\.weight", "B"),
    (r"(.+)\.lora(?:_linear_layer)?\.down\.weight", "A"),
    (r"(.+)\.lora(?:_linear_layer)?\.up\.weight", "B"),
    (r"(.+)\.lora_A(?:\.default)?", "A"),
    (r"(.+)\.lora_B(?:\.default)?", "B"),
    (r"(.+)\.alpha(?:\.default)?", "alpha"),
)
_LOKR = r"(.+)\.(lokr_w1|lokr_w1_a|lokr_w1_b|lokr_w2_a|lokr_w2_b)(?:\.default)?"
# Key patterns of formats that are not a pair of low-rank matrices.
_OTHER_FORMATS = {
    "LoKr with a full second factor": r"\.lokr_(w2|t2)(\.default)?$",
    "LoHa": r"\.hada_",
    "OFT": r"\.(oft_|boft_)",
    "GLoRA": r"\.[ab][12]\.weight$",
    "DoRA": r"\.(dora_scale|lora_magnitude_vector)",
    "LoRA with biases": r"\.lora_B\.([^.]+\.)?bias$",
    "LoCon": r"\.lora_mid\.",
    "a full weight difference": r"\.(diff|diff_b|set_weight|reshape_weight)$",
}
# Related networks have separate query, key and value matrices; Lens has one for the three.
SPLIT = {
    "img_qkv": ("to_q", "to_k", "to_v"),
    "txt_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
_ATTENTION_LAYERS = ("img_qkv", "txt_qkv", "to_out.0", "to_add_out", *SPLIT["img_qkv"], *SPLIT["txt_qkv"])
_BLOCK_LAYERS = (
    *(f"attn.{name}" for name in _ATTENTION_LAYERS),
    *(f"{stream}_mlp.{name}" for stream in ("img", "txt") for name in ("w1", "w2", "w3")),
    *("img_mod.1", "txt_mod.1"),
)
_OTHER_LAYERS = (
    "img_in", "txt_in", "proj_out", "norm_out.linear",
    "time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2",
)  # fmt: skip
# Layers whose input is as wide as the network.
_WIDTH_LAYERS = (*(f"attn.{name}" for name in _ATTENTION_LAYERS), "img_mlp.w1", "txt_mlp.w1", "img_mod.1", "txt_mod.1")

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
MAX_BYTES = 2**31  # of all pairs of a file after multiplying out LoKr; a LoRA of rank 128 for Lens has 0.7 GB
_PATTERNS = 10_000
_WILD_PATTERNS = 256
_PLAIN = re.compile(r"[A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class Parts:
    """The parts of one layer in a file.

    Attributes:
        keys: part (A, B, alpha, lokr_w1, ...) -> stored key.
        out_features, in_features: sizes of the changed layer.
        rank: rank of the pair.
        copies: repetitions of the stored rank: 1 for LoRA, the number of columns of the first factor for LoKr.
    """

    keys: Mapping[str, str]
    out_features: int
    in_features: int
    rank: int
    copies: int = 1

    @property
    def elements(self) -> int:
        """Values of both matrices of the pair."""
        return self.rank * (self.out_features + self.in_features)


def sort_keys(
    file: str | Path, entries: Mapping[str, Entry], config: Mapping[str, Any]
) -> tuple[dict[str, Parts], list[str]]:
    """Official name -> parts, and the keys that match no layer of Lens.

    Raises:
        ValueError: no key of a Lens layer, an incomplete pair, shapes that do not fit each other, a rank of 0, a dtype
            that is not floating point, pairs that would take gigabytes after multiplying out, or not a LoRA.
    """
    _refuse_other_formats(file, entries, config)
    keys: dict[str, dict[str, str]] = defaultdict(dict)
    strange = []
    for key in entries:
        name, part = parse_key(key)
        if name is None:
            strange.append(key)
        elif part in keys[name]:
            raise ValueError(f"{file} has {part} of {name} twice, once as {key!r}; expected it once")
        else:
            keys[name][part] = key
    if not keys:
        raise ValueError(f"{file} has no LoRA of a Lens layer; its first keys are {', '.join(list(entries)[:5])}")
    layers = {name: _sized(file, name, found, entries) for name, found in keys.items()}
    size = sum(parts.elements * _width(parts, entries) for parts in layers.values())
    if size > MAX_BYTES:
        raise ValueError(
            f"{file} would take {size / 1e9:.1f} GB after multiplying out its factors; "
            f"the limit is {MAX_BYTES / 1e9:.1f} GB"
        )
    return layers, strange


def parse_key(key: str) -> tuple[str | None, str]:
    """The official name of a stored key's layer (None if it matches none), and the part."""
    rest = key
    while prefix := next((prefix for prefix in _PREFIXES if rest.startswith(prefix)), None):
        rest = rest.removeprefix(prefix)
    if any(wrapper in rest for wrapper in _WRAPPERS):
        rest = ".".join(word for word in rest.split(".") if word not in _WRAPPERS)
    if (match := re.fullmatch(_LOKR, rest)) is not None:
        return _official_name(match[1]), match[2]
    for pattern, part in _ENDINGS:
        if (match := re.fullmatch(pattern, rest)) is not None:
            return _official_name(match[1]), part
    return None, ""


def layer_width(layers: Mapping[str, Parts]) -> int | None:
    """The width of the network that the layers belong to; None if it is unknown or inconsistent."""
    widths = {parts.in_features for name, parts in layers.items() if name.split(".", 2)[-1] in _WIDTH_LAYERS}
    return widths.pop() if len(widths) == 1 else None


def number(file: str | Path, what: str, value: Any) -> float:
    """`value` as an alpha.

    Raises:
        ValueError: not a number, not finite, or not above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ValueError(f"{file}: {what} is {str(value)[:60]!r}; expected a number above 0 and below 1000000")
    return float(value)


def by_pattern(file: str | Path, patterns: Any, name: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, from a dot on, as in PEFT.

    Patterns are literal names, with `.*` for anything, `^` before the full name and `$` after it.

    Raises:
        ValueError: not a mapping, too many patterns, or one of another form.
    """
    if not patterns:
        return default
    if not isinstance(patterns, dict) or len(patterns) > _PATTERNS:
        raise ValueError(f"{file}: alpha_pattern is not an object of at most {_PATTERNS} patterns")
    literal, wild = _compiled(str(file), tuple(patterns))
    ends = [name[start:] for start in range(len(name)) if start == 0 or name[start - 1] == "."]
    fitting = [literal[end] for end in (*ends, f"^{name}") if end in literal]
    fitting += [place for place, segments in wild if any(_fits(end, segments) for end in _starts(segments, ends))]
    return default if not fitting else list(patterns.values())[min(fitting)]


@cache
def _official_names() -> dict[str, str]:
    """Flattened name -> official name, of every linear layer of a Lens of one block, split attention included.

    Names contain underscores themselves, so `to_add_out` needs a look-up and not a rule.
    """
    names = (*(f"transformer_blocks.0.{name}" for name in _BLOCK_LAYERS), *_OTHER_LAYERS)
    return {name.replace(".", "_"): name for name in names}


def _official_name(name: str) -> str | None:
    """`transformer_blocks.7.attn.img_qkv`, with dots or with underscores, -> the same with dots."""
    flat = name.replace(".", "_")
    block = re.fullmatch(r"transformer_blocks_([0-9]{1,4})_(.+)", flat)
    if block is None:
        return None if flat.startswith("transformer_blocks_") else _official_names().get(flat)
    found = _official_names().get(f"transformer_blocks_0_{block[2]}")
    return found and found.replace(".0.", f".{int(block[1])}.", 1)


def _refuse_other_formats(file: str | Path, keys: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for title, pattern in _OTHER_FORMATS.items():
        key = next((key for key in keys if re.search(pattern, key)), None)
        if key is not None:
            raise ValueError(f"{file} contains {title} ({key!r}), which is not supported; give a plain LoRA")
    kind = config.get("peft_type", "LORA")
    if kind not in ("LORA", "LOKR"):
        raise ValueError(f"{file} is a {str(kind)[:40]} adapter, which is not supported; give a plain LoRA")


def _sized(file: str | Path, name: str, keys: Mapping[str, str], entries: Mapping[str, Entry]) -> Parts:
    for part, key in keys.items():
        entry = entries[key]
        if part != "alpha" and entry.dtype not in FLOATS:
            raise ValueError(f"{file}: {part} of {name} has dtype {entry.dtype}; expected {', '.join(FLOATS)}")
        if part == "alpha" and (entry.elements != 1 or entry.dtype not in DTYPE_BITS or entry.dtype == "BOOL"):
            raise ValueError(f"{file}: alpha of {name} has shape {entry.shape} and is {entry.dtype}; expected a number")
    sizes = {part: entries[key].shape for part, key in keys.items() if part != "alpha"}
    found = _lokr_parts(file, name, keys, sizes) if any("lokr" in part for part in sizes) else None
    found = found or _lora_parts(file, name, keys, sizes)
    if not found.rank or not found.elements or 0 in (found.out_features, found.in_features):
        raise ValueError(f"{file}: {name} has a rank or a side of 0; a LoRA layer has at least 1")
    return found


def _lora_parts(file: str | Path, name: str, keys: Mapping[str, str], sizes: Mapping[str, tuple[int, ...]]) -> Parts:
    if "A" not in sizes or "B" not in sizes:
        raise ValueError(
            f"{file} holds only {' and '.join(sorted(keys))} of {name}; a LoRA layer is a pair of lora_A and lora_B"
        )
    a, b = sizes["A"], sizes["B"]
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise ValueError(f"{file}: lora_A {a} and lora_B {b} of {name} are not (r, in) and (out, r)")
    return Parts(keys, b[0], a[1], a[0])


def _lokr_parts(file: str | Path, name: str, keys: Mapping[str, str], sizes: Mapping[str, tuple[int, ...]]) -> Parts:
    """kron(w1, w2_a @ w2_b) as one pair; the rank of w2 is repeated for each column of w1."""
    second = {"lokr_w2_a", "lokr_w2_b"}
    if sizes.keys() not in ({"lokr_w1"} | second, {"lokr_w1_a", "lokr_w1_b"} | second):
        raise ValueError(
            f"{file} has {', '.join(sorted(sizes))} of {name}; "
            "a LoKr layer has lokr_w1 (or its _a and _b), lokr_w2_a and lokr_w2_b"
        )
    halves = [(sizes[f"{one}_a"], sizes[f"{one}_b"]) for one in ("lokr_w1", "lokr_w2") if f"{one}_a" in sizes]
    if any(len(shape) != 2 for shape in sizes.values()) or any(a[1] != b[0] for a, b in halves):
        shapes = ", ".join(f"{part} {shape}" for part, shape in sorted(sizes.items()))
        raise ValueError(f"{file}: the factors of {name} do not fit each other: {shapes}")
    rows, columns = sizes["lokr_w1"] if "lokr_w1" in sizes else (sizes["lokr_w1_a"][0], sizes["lokr_w1_b"][1])
    if "lokr_w1_a" in sizes and sizes["lokr_w1_a"][1] == 0:
        raise ValueError(f"{file}: {name} has a rank or a side of 0; a LoRA layer has at least 1")
    (out, rank), (_, inner) = sizes["lokr_w2_a"], sizes["lokr_w2_b"]
    return Parts(keys, rows * out, columns * inner, columns * rank, columns)


def _width(parts: Parts, entries: Mapping[str, Entry]) -> int:
    """Bytes of one value in memory; 8-bit values are read as bfloat16."""
    return max(2, *(DTYPE_BITS[entries[key].dtype] // 8 for part, key in parts.keys.items() if part != "alpha"))


@cache
def _compiled(file: str, patterns: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[int, list[str]]]]:
    """Literal pattern -> its index, and (index, segments between wildcards) of the others."""
    literal: dict[str, int] = {}
    wild = []
    for place, pattern in enumerate(patterns):
        text = re.sub(r"\\([._\-])", r"\1", pattern.replace(".*", "*")).removesuffix("$")
        segments = text.split("*")
        body = [segments[0].removeprefix("^"), *segments[1:]]
        if not all(_PLAIN.fullmatch(segment) for segment in body) or not any(body):
            raise ValueError(
                f"{file}: invalid alpha_pattern {pattern[:60]!r}: expected a layer name, with .* for anything, ^ at "
                "the start and $ at the end"
            )
        if len(segments) == 1:
            literal.setdefault(text, place)
        else:
            wild.append((place, segments))
    if len(wild) > _WILD_PATTERNS:
        raise ValueError(f"{file}: alpha_pattern has {len(wild)} patterns with .*; the limit is {_WILD_PATTERNS}")
    return literal, wild


def _starts(segments: list[str], ends: list[str]) -> list[str]:
    return ends[:1] if segments[0].startswith("^") else ends


def _fits(text: str, segments: list[str]) -> bool:
    """Whether `text` consists of the segments in order, with anything between them."""
    first, last = segments[0].removeprefix("^"), segments[-1]
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for segment in segments[1:-1]:
        found = text.find(segment, place, end)
        if found < 0:
            return False
        place = found + len(segment)
    return True


def scaled(alpha: float, rank: int, rank_stabilised: Any, file: str | Path) -> float:
    """The alpha for plain scaling `alpha / rank`, if PEFT divides by the square root of the rank.

    Raises:
        ValueError: `use_rslora` is neither true nor false.
    """
    if rank_stabilised not in (None, False, True):
        raise ValueError(f"{file}: use_rslora is {str(rank_stabilised)[:60]!r}; expected true or false")
    return alpha * math.sqrt(rank) if rank_stabilised else alpha
