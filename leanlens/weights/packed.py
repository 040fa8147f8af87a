"""Keeps the attention and gated MLP weights of a denoiser quantised in memory and decodes them at each use.

Modulation, embedders, norms and output are not quantised: in low precision they cause a periodic grid in images. The
product is computed in the dtype of the activations, so a packed model runs, moves, offloads and takes LoRAs like the
plain one. Files may also contain quantised modulation to save space (`modulation`); it is decoded when they are opened.

Packed files keep their codes, so images are bit-identical whether weights are decoded at loading or at use.

Shapes: N output rows, K input columns.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from leanlens.weights.layouts import Layout, identify, require_readable
from leanlens.weights.load import Stored, empty_model, read_stored, require_fit, stored_tensors
from leanlens.weights.quantized import (
    GROUP,
    NF4_LEVELS,
    decode_int4,
    decode_mxfp8_groups,
    decode_nf4,
    decode_scaled,
    encode_fp8,
    encode_int4,
    encode_int8,
    encode_mxfp8,
    encode_nf4,
    swizzle,
    unswizzle,
)
from leanlens.weights.shards import Slot, read_tensor

# The packed layers of a block, such as `transformer_blocks.0.attn.img_qkv`.
PACKED_LAYERS = (
    *("attn.img_qkv", "attn.txt_qkv", "attn.to_out.0", "attn.to_add_out"),
    *(f"{stream}_mlp.{part}" for stream in ("img", "txt") for part in ("w1", "w2", "w3")),
)
MODULATION_LAYERS = ("img_mod.1", "txt_mod.1")  # the other matrices of a block


@dataclass(frozen=True)
class Format:
    """A storage format for one weight.

    Attributes:
        group: values that share a scale. Each row (`by_row`), or the whole weight, must have a multiple of it; 1 allows
            any shape.
        parts: tensor in memory -> suffix after the layer's name in a file.
        encode: values (N, K) -> the tensors, in the order of `parts`.
        decode: the tensors, shape and dtype -> values.
        sizes: (N, K) -> dtype and shape of each tensor.
        comfy: its name in ComfyUI; None if ComfyUI does not read it.
    """

    name: str
    group: int
    parts: Mapping[str, str]
    encode: Callable[[Tensor], tuple[Tensor, ...]]
    decode: Callable[..., Tensor]
    sizes: Callable[[int, int], tuple[tuple[torch.dtype, tuple[int, ...]], ...]]
    comfy: str | None = None
    by_row: bool = True

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape can be stored in this format."""
        return (shape[-1] if self.by_row else prod(shape)) % self.group == 0


def _scaled(codes: Tensor, scale: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return decode_scaled(codes, scale, dtype)


def _mxfp8(codes: Tensor, scale: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return decode_mxfp8_groups(codes, scale, dtype)


def _int4(codes: Tensor, scale: Tensor, zero: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return decode_int4(codes, scale, zero, dtype)


_SCALED = {"codes": "weight", "scale": "weight_scale"}
_FP8, _U8, _F32, _BF16 = torch.float8_e4m3fn, torch.uint8, torch.float32, torch.bfloat16

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(
            "fp8", 1, _SCALED, encode_fp8, _scaled, lambda n, k: ((_FP8, (n, k)), (_F32, ())), "float8_e4m3fn",
        ),
        Format(
            "mxfp8", 32, _SCALED, encode_mxfp8, _mxfp8, lambda n, k: ((_FP8, (n, k)), (_U8, (n, k // 32))), "mxfp8",
        ),
        Format(
            "int8", 1, _SCALED, encode_int8, _scaled, lambda n, k: ((torch.int8, (n, k)), (_F32, (n, 1))),
            "int8_tensorwise",
        ),
        Format(
            "nf4", GROUP, {"codes": "weight", "scale": "weight.absmax"}, encode_nf4, decode_nf4,
            lambda n, k: ((_U8, (n * k // 2, 1)), (_F32, (n * k // GROUP,))), by_row=False,
        ),
        Format(
            "int4", GROUP, {**_SCALED, "zero": "weight_zero"}, encode_int4, _int4,
            lambda n, k: ((_U8, (n, k // 2)), (_BF16, (n, k // GROUP)), (_BF16, (n, k // GROUP))),
        ),
    )
}  # fmt: skip


class PackedLinear(nn.Linear):
    """A linear layer whose weight is stored in a `Format`.

    Args:
        form: the format.
        shape: N and K.
        tensors: the result of `form.encode`; None allocates them on the meta device.
        bias: (N,) or None.
    """

    def __init__(
        self, form: Format, shape: tuple[int, ...], tensors: tuple[Tensor, ...] | None = None, bias: Any = None
    ):
        nn.Module.__init__(self)  # nn.Linear's own would allocate a weight
        self.out_features, self.in_features = shape
        self.form = form
        if tensors is None:
            tensors = tuple(torch.empty(size, dtype=dtype, device="meta") for dtype, size in form.sizes(*shape))
        for name, tensor in zip(form.parts, tensors, strict=True):
            self.register_buffer(name, tensor)
        self.bias = bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The decoded weight (N, K), in the dtype of the bias, or float32 without a bias."""
        return self.decoded(torch.float32 if self.bias is None else self.bias.dtype)

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The weight (N, K) in `dtype`."""
        tensors = [getattr(self, name) for name in self.form.parts]
        return self.form.decode(*tensors, shape=(self.out_features, self.in_features), dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.decoded(input.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, format={self.form.name}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        """Move like any module, but keep the dtypes of codes and scales if the model is cast."""
        kept = {name: self._buffers.pop(name) for name in self.form.parts}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            assert tensor is not None
            moved = fn(tensor)
            self._buffers[name] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        return self


def format_named(quant: str) -> Format:
    """The format with this name.

    Raises:
        ValueError: unknown name.
    """
    if quant not in FORMATS:
        raise ValueError(f"invalid quant {quant!r}: expected one of none, {', '.join(FORMATS)}")
    return FORMATS[quant]


def is_packed_layer(name: str, modulation: bool = False) -> bool:
    """Whether the layer with this name is packed; with `modulation`, including the modulation layers of files."""
    layers = PACKED_LAYERS + (MODULATION_LAYERS if modulation else ())
    return name.startswith("transformer_blocks.") and name.split(".", 2)[-1] in layers


def pack(model: nn.Module, quant: str) -> nn.Module:
    """Pack the layers of a denoiser in place, one after the other, and return it.

    Layers whose shape does not fit the format stay plain; the released sizes fit every format.

    Raises:
        ValueError: an unknown format.
    """
    form = format_named(quant)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and is_packed_layer(name) and form.fits(tuple(layer.weight.shape)):
            tensors = form.encode(layer.weight.detach())
            model.set_submodule(name, PackedLinear(form, tuple(layer.weight.shape), tensors, layer.bias))
    return model


def open_packed(
    path: str | Path,
    quant: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Any:
    """A denoiser with packed weights from files of any layout, one tensor at a time.

    Args:
        quant: a name in `FORMATS`; None keeps the format of the files. Weights already in this format are kept, others
            are encoded when they are read.

    Raises:
        ValueError: not a Lens transformer, an unknown format, or `quant` is None and the files are not packed.
    """
    layout = identify(path)
    require_readable(layout, "transformer")
    form = format_named(quant or kept_quantisation(layout) or "none")
    model, stored = nn.Module.to(empty_model(layout), dtype), stored_tensors(layout)
    names = require_fit(model, stored, layout)
    state: dict[str, Tensor] = {}
    for name in tqdm(names, desc=layout.path.name, unit="tensor", disable=not progress):
        layer, one = name.removesuffix(".weight"), stored[name]
        if name.endswith(".weight") and is_packed_layer(layer) and form.fits(one.shape):
            bias = model.get_submodule(layer).bias
            model.set_submodule(layer, PackedLinear(form, one.shape, bias=bias))
            tensors = _packed(form, one, device)
            state |= {f"{layer}.{part}": tensor for part, tensor in zip(form.parts, tensors, strict=True)}
        else:
            state[name] = read_stored(one, dtype, device)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def kept_quantisation(layout: Layout) -> str | None:
    """The packed format of a denoiser's files; None if they are not packed or the format is decoded when loading."""
    return layout.quantisation if layout.quantisation in FORMATS else None


def packed_slots(
    stored: Mapping[str, Stored], quant: str, dtype: torch.dtype | None, modulation: bool = False
) -> list[Slot]:
    """The tensors of a file in this format, in the order of `packed_tensors`: plain tensors, packed layers, markers.

    Args:
        modulation: pack every matrix of the blocks, including modulation.
    """
    form = format_named(quant)
    layers = _layers(form, stored, modulation)
    packed = {f"{layer}.weight" for layer, _ in layers}
    plain = [Slot(name, one.dtype(dtype), one.shape) for name, one in stored.items() if name not in packed]
    plain.sort(key=lambda slot: -slot.dtype.itemsize)  # so that each tensor is aligned to its element size
    slots = [
        Slot(f"{layer}.{suffix}", tensor.dtype, tuple(tensor.shape))
        for layer, one in layers
        for suffix, tensor in _written(form, one.shape, _reserved(form, one.shape))
    ]
    markers = [
        Slot(f"{layer}.{suffix}", tensor.dtype, tuple(tensor.shape))
        for layer, one in layers
        for suffix, tensor in _markers(form, one.shape)
    ]
    return [*plain, *slots, *markers]


def packed_tensors(
    layout: Layout,
    stored: Mapping[str, Stored],
    quant: str,
    dtype: torch.dtype | None,
    progress: bool = False,
    modulation: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of `packed_slots`, one layer at a time."""
    form = format_named(quant)
    layers = _layers(form, stored, modulation)
    packed = {f"{layer}.weight" for layer, _ in layers}
    for slot in packed_slots(stored, quant, dtype, modulation):
        if slot.name in stored and slot.name not in packed:
            yield slot.name, read_stored(stored[slot.name], dtype)
    for layer, one in tqdm(layers, desc=layout.path.name, unit="layer", disable=not progress):
        for suffix, tensor in _written(form, one.shape, _packed(form, one, "cpu")):
            yield f"{layer}.{suffix}", tensor
    for layer, one in layers:
        for suffix, tensor in _markers(form, one.shape):
            yield f"{layer}.{suffix}", tensor


def packed_config(quant: str, modulation: bool = False) -> dict[str, Any]:
    """The `quantization_config` of a config.json: NF4 as in bitsandbytes and diffusers, otherwise leanlens's own."""
    if quant != "nf4":
        return {"quant_method": f"leanlens_{quant}"}
    skipped = ["time_text_embed", "img_in", "txt_in", "norm_out", "proj_out"]
    skipped = skipped if modulation else ["img_mod", "txt_mod", *skipped]
    return {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": False, "bnb_4bit_compute_dtype": "bfloat16", "llm_int8_skip_modules": skipped,
    }  # fmt: skip


def _layers(form: Format, stored: Mapping[str, Stored], modulation: bool) -> list[tuple[str, Stored]]:
    """The layers to write packed, by name."""
    named = [(name.removesuffix(".weight"), one) for name, one in stored.items() if name.endswith(".weight")]
    return [(name, one) for name, one in named if is_packed_layer(name, modulation) and form.fits(one.shape)]


def _packed(form: Format, one: Stored, device: str | torch.device) -> tuple[Tensor, ...]:
    """The tensors of a stored weight in this format: its stored codes, or encoded from its values."""
    if one.quantisation != form.name:
        return form.encode(read_stored(one, torch.float32, device))
    tensors = [read_tensor(entry).to(device) for entry in (one.weight, *one.scales)]
    if form.name == "mxfp8":
        tensors[1] = unswizzle(tensors[1].view(torch.uint8), one.shape[0], one.shape[1] // 32)
    sizes = form.sizes(*one.shape)
    return tuple(tensor.reshape(size).to(dtype) for tensor, (dtype, size) in zip(tensors, sizes, strict=True))


def _reserved(form: Format, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.empty(size, dtype=dtype, device="meta") for dtype, size in form.sizes(*shape))


def _written(form: Format, shape: tuple[int, ...], tensors: tuple[Tensor, ...]) -> list[tuple[str, Tensor]]:
    """Tensors in memory -> names and tensors in a file, the widest elements first."""
    named = list(zip(form.parts.values(), tensors, strict=True))
    if form.name == "mxfp8":
        named[1] = (named[1][0], swizzle(named[1][1]))
    if form.name == "nf4":
        named.append(("weight.quant_map", torch.tensor(NF4_LEVELS)))
    return sorted(named, key=lambda item: -item[1].dtype.itemsize)


def _markers(form: Format, shape: tuple[int, ...]) -> list[tuple[str, Tensor]]:
    """The JSON markers that describe a layer's quantisation for ComfyUI and bitsandbytes, as bytes."""
    if form.name == "nf4":
        said = {"quant_type": "nf4", "blocksize": GROUP, "dtype": "bfloat16", "shape": list(shape)}
        return [("weight.quant_state.bitsandbytes__nf4", _bytes(said))]
    return [("comfy_quant", _bytes({"format": form.comfy or f"leanlens_{form.name}"}))]


def _bytes(said: dict[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
