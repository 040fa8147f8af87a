"""Loads weights of any layout into the models of Lens, one tensor at a time.

A model is built on the meta device, its names and shapes are checked against the file, and then the tensors are loaded
one after the other. Peak memory is the model in its target dtype plus one stored tensor.

Shapes: E experts, N output rows, K input columns.

Source: the weight names of the released Lens and of stock GPT-OSS; GPT-OSS keeps experts as (E, in, out), MXFP4 and
ComfyUI's files as (E, out, in).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GenerationConfig, GptOssConfig, PreTrainedTokenizerFast
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

from leanlens.files import decode_text, parse_json, read_text
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.weights.headers import Entry
from leanlens.weights.layouts import (
    COMFY_SUFFIXES,
    PACKED_SUFFIXES,
    TITLES,
    Layout,
    identify,
    require_readable,
)
from leanlens.weights.quantized import (
    GROUP,
    decode_int4,
    decode_mxfp4,
    decode_mxfp8,
    decode_nf4,
    decode_nvfp4,
    decode_scaled,
)
from leanlens.weights.shards import TORCH_DTYPES, read_tensor

HEAD_DIM = 64  # of every released Lens; a single file does not state it
_MARKER_BYTES = 65536  # limit of the JSON marker that describes a layer's quantisation; real ones have about 100
SPECIAL_IDS = {"pad_token_id": 199999, "eos_token_id": 200002}
SPECIAL_TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}


@dataclass(frozen=True)
class Stored:
    """One tensor of a model as stored in the files.

    Attributes:
        weight: the values, or the packed codes.
        shape: shape in the model.
        quantisation: None, fp8, mxfp8, nvfp4, mxfp4, int8, int4 or nf4.
        scales: the entries of the scales, in the order of the decoder's arguments.
        transpose: the last two axes are swapped in the model.
    """

    weight: Entry
    shape: tuple[int, ...]
    quantisation: str | None = None
    scales: tuple[Entry, ...] = ()
    transpose: bool = False

    def dtype(self, wanted: torch.dtype | None) -> torch.dtype:
        """The dtype after decoding: `wanted`, or the stored one (bfloat16 if quantised). Integers keep theirs."""
        stored = TORCH_DTYPES.get(self.weight.dtype, torch.float32)
        if self.quantisation is None and not stored.is_floating_point:
            return stored
        if wanted is not None:
            return wanted
        return torch.bfloat16 if self.quantisation or stored.itemsize == 1 else stored


def stored_tensors(layout: Layout) -> dict[str, Stored]:
    """Official name -> stored tensor, without embedded tokenizers and quantisation markers.

    Raises:
        ValueError: a quantised weight without its scales, or scales without a weight.
    """
    if layout.component == "vae":
        return _vae_tensors(layout)
    entries = {name.removeprefix(layout.prefix): entry for name, entry in layout.entries.items()}
    target = "model." if layout.component == "text_encoder" else ""
    found = {}
    for name, entry in entries.items():
        if name.endswith((*COMFY_SUFFIXES, *PACKED_SUFFIXES, "_scales")) or name == "tokenizer_json":
            continue
        official = name if name.startswith("lm_head.") else target + _official_name(name)
        found[official] = _stored(layout, name, entry, entries)
    return found


def read_stored(stored: Stored, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Tensor:
    """Decode one tensor on `device`; experts are decoded one at a time.

    `dtype` None keeps the stored one (see `Stored.dtype`).
    """
    target = stored.dtype(dtype)
    if stored.quantisation is None:
        tensor = read_tensor(stored.weight, dtype=target).to(device)
        return (tensor.transpose(-1, -2) if stored.transpose else tensor).reshape(stored.shape).contiguous()
    if len(stored.shape) < 3:
        return _decode(stored, None, target, device)
    whole = torch.empty(stored.shape, dtype=target, device=device)
    for expert in range(stored.shape[0]):
        decoded = _decode(stored, expert, target, device)
        whole[expert] = decoded.transpose(-1, -2) if stored.transpose else decoded
    return whole


def read_tensors(
    layout: Layout,
    dtype: torch.dtype | None = None,
    names: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Official names and decoded tensors, one at a time.

    Args:
        dtype: dtype of every floating-point tensor; None keeps the stored one, or uses bfloat16 if it is quantised.
        names: the tensors to read, in this order; None reads all.
        device: where they are decoded.
        progress: show a progress bar.

    Raises:
        ValueError: an unsupported layout, or an unknown name.
    """
    if layout.refusal:
        raise ValueError(f"{layout.path} {layout.refusal}")
    stored = stored_tensors(layout)
    wanted = list(stored if names is None else names)
    if unknown := [name for name in wanted if name not in stored]:
        raise ValueError(f"{layout.path} does not contain {_listed(unknown)}")
    for name in tqdm(wanted, desc=layout.path.name, unit="tensor", disable=not progress):
        yield name, read_stored(stored[name], dtype, device)


def open_transformer(
    path: str | Path, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu", progress: bool = False
) -> LensTransformer2DModel:
    """The denoiser from a folder or single file of any layout.

    Raises:
        ValueError: not a Lens transformer, damaged, or names and shapes that do not fit.
    """
    layout = identify(path)
    require_readable(layout, "transformer")
    return _fill(empty_model(layout), layout, dtype, device, progress)


def open_text_encoder(
    path: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    keep_head: bool = False,
    progress: bool = False,
) -> LensGptOssEncoder:
    """GPT-OSS as the text encoder, dequantised to `dtype`. Weights that no feature needs are not read.

    Args:
        keep_head: also read the language-model head, which a prompt reasoner needs.

    Raises:
        ValueError: not GPT-OSS, damaged, names and shapes that do not fit, or the file has no head.
    """
    layout = identify(path)
    require_readable(layout, "text_encoder")
    model = _fill(empty_model(layout, keep_head), layout, dtype, device, progress)
    model.config.dtype = dtype
    model.model.rotary_emb = GptOssRotaryEmbedding(model.config).to(device)  # its buffers are computed, not stored
    if keep_head and (layout.path / "generation_config.json").is_file():  # names the tokens that end an answer
        model.generation_config = GenerationConfig.from_pretrained(layout.path)
    return _without_meta(model, layout)


def open_vae(
    path: str | Path, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu", progress: bool = False
) -> AutoencoderKLFlux2:
    """The FLUX.2 autoencoder from a folder or single file, with diffusers' or Black Forest Labs' names.

    Raises:
        ValueError: not a FLUX.2 autoencoder, damaged, or names and shapes that do not fit.
    """
    layout = identify(path)
    require_readable(layout, "vae")
    return _fill(empty_model(layout), layout, dtype, device, progress)


def open_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer from a folder, a tokenizer.json, or ComfyUI's text encoder file, which embeds one.

    Raises:
        ValueError: there is no tokenizer, or it lacks the special tokens of GPT-OSS.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        folder = path / "tokenizer" if (path / "tokenizer").is_dir() else path
        if (folder / "tokenizer_config.json").is_file() and (folder / "tokenizer.json").is_file():
            return _stock_tokenizer(folder)
        path = folder / "tokenizer.json"
    if path.suffix == ".json":
        if not path.is_file():
            raise ValueError(f"{path.parent} holds no tokenizer.json; give a tokenizer folder or the file itself")
        return _tokenizer(read_text(path), path)
    entry = identify(path).entries.get("tokenizer_json")
    if entry is None:
        raise ValueError(f"{path} embeds no tokenizer; give a tokenizer folder or a tokenizer.json")
    return _tokenizer(
        decode_text(bytes(read_tensor(entry).view(torch.uint8).numpy()), f"the tokenizer in {path}"), path
    )


def empty_model(layout: Layout, keep_head: bool = False) -> Any:
    """The model for `layout` on the meta device, which takes no memory.

    Raises:
        ValueError: the model rejects the config.
    """
    config = model_config(layout)
    try:
        with torch.device("meta"):
            if layout.component == "transformer":
                return LensTransformer2DModel.from_config(config)
            if layout.component == "vae":
                return AutoencoderKLFlux2.from_config(config)
            return LensGptOssEncoder(GptOssConfig.from_dict(config), lens_keep_head=keep_head)
    except Exception as error:  # the libraries may raise anything for an invalid value
        raise ValueError(
            f"{layout.path} has an invalid config.json for a {TITLES[layout.component]}: {_sentence(error)}"
        ) from error


def model_config(layout: Layout) -> dict[str, Any]:
    """The configuration: the config.json of a folder, or values from tensor shapes and from the released models."""
    if layout.config:
        config = dict(layout.config)
        config.pop("quantization_config", None)  # tensors are decoded here
        return config
    infer = {"transformer": _transformer_config, "text_encoder": _encoder_config, "vae": _vae_config}
    return infer[layout.component](stored_tensors(layout))


def require_fit(model: nn.Module, stored: Mapping[str, Stored], layout: Layout) -> list[str]:
    """Check that the files contain exactly the model's tensors, and return their names in the model's order.

    Raises:
        ValueError: missing or unexpected names, or wrong shapes; the message counts them and names the first.
    """
    problems = list(differences(model, stored))
    if problems:
        raise ValueError(f"{layout.path} does not fit {type(model).__name__}: {'; '.join(problems)}")
    return list(model.state_dict())


def differences(model: nn.Module, stored: Mapping[str, Stored]) -> Iterator[str]:
    """Messages on missing and unexpected names and wrong shapes of `stored` as the weights of `model`."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    needless = _needless(model)
    # An unused count of training batches; some copies of the autoencoder omit it.
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    if missing := [name for name in expected if name not in stored and name not in optional]:
        yield f"missing {_listed(missing)}"
    if unexpected := [name for name in stored if name not in expected and not name.startswith(needless)]:
        yield f"unexpected {_listed(unexpected)}"
    wrong = [name for name, shape in expected.items() if name in stored and stored[name].shape != shape]
    if wrong:
        name = wrong[0]
        yield f"{len(wrong)} wrong shapes, first {name} {list(stored[name].shape)} instead of {list(expected[name])}"


def _fill(model: Any, layout: Layout, dtype: torch.dtype, device: str | torch.device, progress: bool) -> Any:
    stored = stored_tensors(layout)
    names = [name for name in require_fit(model, stored, layout) if name in stored]
    # Tensors are decoded on the target device, so that a model for a GPU is never in main memory.
    state = dict(read_tensors(layout, dtype, names, device, progress))
    for name, tensor in model.state_dict().items():
        if name not in state:  # num_batches_tracked
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    model.load_state_dict(state, strict=True, assign=True)
    model.eval()
    return model if layout.component == "text_encoder" else _without_meta(model, layout)


def _without_meta(model: Any, layout: Layout) -> Any:
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise ValueError(f"{layout.path} left {_listed(left)} of {type(model).__name__} without values")
    return model


def _needless(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of stored names that the trimmed text encoder does not need."""
    if not isinstance(model, LensGptOssEncoder) or model.has_head:
        return ()
    later = range(len(model.model.layers), model.config.num_hidden_layers)
    return ("lm_head.", "model.norm.", *(f"model.layers.{index}." for index in later))


def _official_name(name: str) -> str:
    name = name.removesuffix("_blocks")
    for projection in ("gate_up_proj", "down_proj"):  # ComfyUI makes modules of what GPT-OSS keeps as parameters
        name = name.replace(f"experts.{projection}.weight", f"experts.{projection}")
        name = name.replace(f"experts.{projection}.bias", f"experts.{projection}_bias")
    return name


def _stored(layout: Layout, name: str, entry: Entry, entries: Mapping[str, Entry]) -> Stored:
    if name.endswith("_blocks"):
        codes = _require(layout, entries, f"{name.removesuffix('_blocks')}_scales")
        experts, rows, groups, _ = entry.shape
        return Stored(entry, (experts, groups * 32, rows), "mxfp4", (codes,), transpose=True)
    in_expert = name.endswith(("experts.gate_up_proj.weight", "experts.down_proj.weight"))
    shape = entry.shape
    quantisation: str | None = None
    scales: tuple[Entry, ...] = ()
    if f"{name}_scale_2" in entries:
        scales = (_require(layout, entries, f"{name}_scale"), entries[f"{name}_scale_2"])
        quantisation, shape = "nvfp4", (*shape[:-1], shape[-1] * 2)
    elif f"{name}.absmax" in entries:
        scales, quantisation = (entries[f"{name}.absmax"],), "nf4"
        state = _said(_require(layout, entries, f"{name}.quant_state.bitsandbytes__nf4"))
        shape = tuple(state["shape"])
        if state.get("blocksize") != GROUP:
            raise ValueError(f"{layout.path} has NF4 groups of {state.get('blocksize')}; expected {GROUP}")
    elif f"{name}_zero" in entries:
        scales = (_require(layout, entries, f"{name}_scale"), entries[f"{name}_zero"])
        quantisation, shape = "int4", (*shape[:-1], shape[-1] * 2)
    elif f"{name}_scale" in entries:
        scales = (entries[f"{name}_scale"],)
        quantisation = "mxfp8" if scales[0].dtype in ("U8", "F8_E8M0") else "int8" if entry.dtype == "I8" else "fp8"
        marker = entries.get(f"{name.removesuffix('weight')}comfy_quant")
        if quantisation == "int8" and marker is not None and _said(marker).get("convrot"):
            raise ValueError(f"{layout.path} has rotated INT8 weights (ConvRot); expected plain INT8")
    elif entry.dtype in ("I8", "U8"):
        _require(layout, entries, f"{name}_scale")  # otherwise codes would be mistaken for weights
    if in_expert:
        shape = (*shape[:-2], shape[-1], shape[-2])
    return Stored(entry, tuple(shape), quantisation, scales, transpose=in_expert)


def _require(layout: Layout, entries: Mapping[str, Entry], name: str) -> Entry:
    if name not in entries:
        raise ValueError(
            f"{layout.path} lacks the scales {layout.prefix}{name}, without which its weight cannot be decoded; "
            "fetch it again"
        )
    return entries[name]


def _said(entry: Entry) -> dict[str, Any]:
    """The JSON object in the bytes of a quantisation marker.

    Raises:
        ValueError: it is not a JSON object.
    """
    if entry.stop - entry.start > _MARKER_BYTES:
        raise ValueError(
            f"{entry.file} has a quantisation marker of {entry.stop - entry.start} bytes; the limit is {_MARKER_BYTES}"
        )
    content = bytes(read_tensor(entry).view(torch.uint8).numpy())
    said = parse_json(content, f"a quantisation marker in {entry.file}")
    if not isinstance(said, dict):
        raise ValueError(f"{entry.file} has a quantisation marker that is not a JSON object: {said!r}")
    return said


def _decode(stored: Stored, expert: int | None, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    weight = read_tensor(stored.weight, expert).to(device)
    scales = read_tensor(stored.scales[0], None if stored.quantisation == "fp8" else expert).to(device)
    if stored.quantisation == "mxfp4":
        return decode_mxfp4(weight, scales, dtype)
    if stored.quantisation == "mxfp8":
        return decode_mxfp8(weight, scales, dtype)
    if stored.quantisation == "nvfp4":
        return decode_nvfp4(weight, scales, _scale_of(stored, stored.scales[1], expert).to(device), dtype)
    if stored.quantisation == "nf4":
        return decode_nf4(weight, scales, stored.shape, dtype)
    if stored.quantisation == "int4":
        return decode_int4(weight, scales, read_tensor(stored.scales[1]).to(device), dtype)
    if stored.quantisation == "int8":
        if scales.numel() not in (1, len(weight)):
            raise ValueError(f"{stored.weight.file} has {scales.numel()} scales for {len(weight)} rows of INT8")
        return decode_scaled(weight, scales.reshape(-1, 1), dtype)
    return decode_scaled(weight, _scale_of(stored, stored.scales[0], expert).to(device), dtype)


def _scale_of(stored: Stored, entry: Entry, expert: int | None) -> Tensor:
    """The scale of a tensor, or of one expert if each has its own: a single float32."""
    scale = read_tensor(entry).float().reshape(-1)
    if expert is not None and len(scale) > 1:
        scale = scale[expert : expert + 1]
    if len(scale) != 1:
        raise ValueError(f"{stored.weight.file} has {len(scale)} scales for one tensor; expected a single one")
    return scale


def _vae_tensors(layout: Layout) -> dict[str, Stored]:
    """Official name -> stored tensor; diffusers' converter maps Black Forest Labs' names on the meta device."""
    if layout.naming == "official":
        return {name: Stored(entry, entry.shape) for name, entry in layout.entries.items()}
    named = {
        name.replace("encoder.quant_conv.", "quant_conv.").replace("decoder.post_quant_conv.", "post_quant_conv."): name
        for name in layout.entries
    }
    sources = {name: torch.empty(layout.entries[source].shape, device="meta") for name, source in named.items()}
    blocks = {
        "down_block_types": range(_levels(named, "encoder.down")),
        "up_block_types": range(_levels(named, "decoder.up")),
    }
    converted = convert_ldm_vae_checkpoint(dict(sources), blocks)
    converted.update({name: tensor for name, tensor in sources.items() if name.startswith("bn.")})
    origin = {id(tensor): layout.entries[named[name]] for name, tensor in sources.items()}
    return {
        # The converter returns attention weights as linear views of 1 x 1 convolutions.
        name: Stored(origin[id(tensor if tensor._base is None else tensor._base)], tuple(tensor.shape))
        for name, tensor in converted.items()
    }


def _transformer_config(stored: Mapping[str, Stored]) -> dict[str, Any]:
    heads = stored["img_in.weight"].shape[0] // HEAD_DIM
    layers = _levels(stored, "txt_norm")
    config: dict[str, Any] = {
        "patch_size": 2,
        "in_channels": stored["img_in.weight"].shape[1],
        "out_channels": stored["proj_out.weight"].shape[0] // 4,
        "num_layers": _levels(stored, "transformer_blocks"),
        "attention_head_dim": HEAD_DIM,
        "num_attention_heads": heads,
        "inner_dim": heads * HEAD_DIM,
        "enc_hidden_dim": stored["txt_norm.0.weight"].shape[0],
        "axes_dims_rope": [8, 28, 28],
    }
    return config if layers == 4 else {**config, "selected_layer_index": list(range(layers))}


def _encoder_config(stored: Mapping[str, Stored]) -> dict[str, Any]:
    first = "model.layers.0.self_attn"
    heads = stored[f"{first}.sinks"].shape[0]
    head_dim = stored[f"{first}.q_proj.weight"].shape[0] // heads
    vocabulary, width = stored["model.embed_tokens.weight"].shape
    layers = _levels(stored, "model.layers")
    return {
        "num_hidden_layers": layers,
        "num_local_experts": stored["model.layers.0.mlp.router.weight"].shape[0],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": stored["model.layers.0.mlp.experts.down_proj"].shape[1],
        "head_dim": head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": stored[f"{first}.k_proj.weight"].shape[0] // head_dim,
        **GPT_OSS,
        **(SPECIAL_IDS if vocabulary > max(SPECIAL_IDS.values()) else {}),
        "layer_types": ["full_attention" if index % 2 else "sliding_attention" for index in range(layers)],
    }


def _vae_config(stored: Mapping[str, Stored]) -> dict[str, Any]:
    levels = _levels(stored, "encoder.down_blocks")
    down = [stored[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
    up = [stored[f"decoder.up_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)][::-1]
    return {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": down,
        "decoder_block_out_channels": None if up == down else up,
        "layers_per_block": _levels(stored, "encoder.down_blocks.0.resnets"),
        "latent_channels": stored["decoder.conv_in.weight"].shape[1],
        "use_quant_conv": "quant_conv.weight" in stored,
        "use_post_quant_conv": "post_quant_conv.weight" in stored,
    }


# Configuration that does not follow from shapes; the same in every released GPT-OSS.
GPT_OSS: dict[str, Any] = {
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "rms_norm_eps": 1e-5,
    "swiglu_limit": 7.0,
    "attention_bias": True,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "initial_context_length": 4096,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
}


def _levels(names: Iterable[str], prefix: str) -> int:
    """Number of different indices that follow `prefix.` in names."""
    start = f"{prefix}."
    return len({name[len(start) :].split(".", 1)[0] for name in names if name.startswith(start)})


def _stock_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, padding_side="right", truncation_side="right")
    except Exception as error:  # the library may raise anything for an invalid value
        raise ValueError(f"{folder} has no readable tokenizer: {_sentence(error)}") from error


def _tokenizer(content: str, path: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} has no readable tokenizer: {_sentence(error)}") from error
    absent = [token for token in SPECIAL_TOKENS.values() if tokenizer.token_to_id(token) is None]
    if absent:
        raise ValueError(
            f"{path} is a tokenizer that lacks the special tokens {', '.join(absent)}; that of GPT-OSS has them"
        )
    template = path.parent / "chat_template.jinja"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="right", truncation_side="right", **SPECIAL_TOKENS
    )
    if template.is_file():
        fast.chat_template = read_text(template)
    return fast


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


def _listed(names: list[str]) -> str:
    """`3 tensors (a, b, c)`, with at most three names."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shown})"
