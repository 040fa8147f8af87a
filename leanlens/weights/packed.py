"""Linear layers whose weight stays quantised, and is decoded each time it is used.

Comes in: a denoiser, or the files of one. Goes out: the same network with the weights of its attention and gated MLPs
packed (`FORMATS`). Modulation, embedders, norms and output stay as they are: stored coarsely they show in pictures as a
periodic grid. Only the product with the decoded weight is computed, in the dtype of the activations, so a packed model
runs wherever the plain one does, moves and offloads like it, and takes LoRAs like it. Files may hold modulation packed
too, for their size's sake (`modulation`): it is decoded when they are opened.

A file that is packed already keeps its codes, so drawing from it is the same whether its weights are decoded when it is
opened or when they are used, to the last bit.

Knows nothing of pipelines.

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

# Of a block, what is packed; `transformer_blocks.0.attn.img_qkv` and so on.
PACKED_LAYERS = (
    *("attn.img_qkv", "attn.txt_qkv", "attn.to_out.0", "attn.to_add_out"),
    *(f"{stream}_mlp.{part}" for stream in ("img", "txt") for part in ("w1", "w2", "w3")),
)
MODULATION_LAYERS = ("img_mod.1", "txt_mod.1")  # the other matrices of a block


@dataclass(frozen=True)
class Format:
    """A way to store one weight.

    Attributes:
        group: values that share a scale, of which a weight must hold a whole number in each row (`by_row`) or at all;
            1 where any shape will do.
        parts: tensor in memory -> what follows the layer's name in a file.
        encode: values (N, K) -> the tensors, in the order of `parts`.
        decode: the tensors, shape and dtype -> values.
        sizes: (N, K) -> dtype and shape of each tensor.
        comfy: what ComfyUI calls it; None where it does not read it.
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
        """Whether a weight of this shape can be stored so."""
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
    """A linear layer that holds its weight in a `Format`.

    Args:
        form: the format.
        shape: N and K.
        tensors: as `form.encode` gives them; None reserves them on the meta device.
        bias: (N,) or None.
    """

    def __init__(
        self, form: Format, shape: tuple[int, ...], tensors: tuple[Tensor, ...] | None = None, bias: Any = None
    ):
        nn.Module.__init__(self)  # that of nn.Linear would make a weight
        self.out_features, self.in_features = shape
        self.form = form
        if tensors is None:
            tensors = tuple(torch.empty(size, dtype=dtype, device="meta") for dtype, size in form.sizes(*shape))
        for name, tensor in zip(form.parts, tensors, strict=True):
            self.register_buffer(name, tensor)
        self.bias = bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The decoded weight (N, K), in the dtype of the bias, or float32 where there is none."""
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
        """Moves like any module; codes and scales keep their dtype whatever the rest of the model is cast to."""
        kept = {name: self._buffers.pop(name) for name in self.form.parts}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            assert tensor is not None
            moved = fn(tensor)
            self._buffers[name] = moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        return self


def format_named(quant: str) -> Format:
    """The format of that name.

    Raises:
        ValueError: an unknown one.
    """
    if quant not in FORMATS:
        raise ValueError(f"quant {quant!r} is not accepted; use one of none, {', '.join(FORMATS)}")
    return FORMATS[quant]


def is_packed_layer(name: str, modulation: bool = False) -> bool:
    """Whether the layer of this name is one of those that are packed; with `modulation`, as files may hold them."""
    layers = PACKED_LAYERS + (MODULATION_LAYERS if modulation else ())
    return name.startswith("transformer_blocks.") and name.split(".", 2)[-1] in layers


def pack(model: nn.Module, quant: str) -> nn.Module:
    """Pack the layers of a denoiser in place, one after the other, and give it back.

    A layer whose shape the format does not take stays as it is; the released sizes fit every format.

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
        quant: a name of `FORMATS`; None keeps the format of the files. Codes that are of this format already are taken
            as they are, any other weight is encoded as it is read.

    Raises:
        ValueError: not a Lens transformer, files that hold nothing packed where `quant` is None, an unknown format.
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
    """The format that the files of a denoiser are packed in; None where they are not, or in one that is not kept."""
    return layout.quantisation if layout.quantisation in FORMATS else None


def packed_slots(
    stored: Mapping[str, Stored], quant: str, dtype: torch.dtype | None, modulation: bool = False
) -> list[Slot]:
    """What a file in this format holds, in the order of `packed_tensors`: plain tensors, layer by layer, markers.

    Args:
        modulation: pack every matrix of the blocks, modulation included.
    """
    form = format_named(quant)
    layers = _layers(form, stored, modulation)
    packed = {f"{layer}.weight" for layer, _ in layers}
    plain = [Slot(name, one.dtype(dtype), one.shape) for name, one in stored.items() if name not in packed]
    plain.sort(key=lambda slot: -slot.dtype.itemsize)  # so that each tensor is aligned to its own elements
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
    """What a config.json says under `quantization_config`: NF4 as bitsandbytes and diffusers read it, else our name."""
    if quant != "nf4":
        return {"quant_method": f"leanlens_{quant}"}
    skipped = ["time_text_embed", "img_in", "txt_in", "norm_out", "proj_out"]
    skipped = skipped if modulation else ["img_mod", "txt_mod", *skipped]
    return {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": False, "bnb_4bit_compute_dtype": "bfloat16", "llm_int8_skip_modules": skipped,
    }  # fmt: skip


def _layers(form: Format, stored: Mapping[str, Stored], modulation: bool) -> list[tuple[str, Stored]]:
    """The layers that are written packed, by name."""
    named = [(name.removesuffix(".weight"), one) for name, one in stored.items() if name.endswith(".weight")]
    return [(name, one) for name, one in named if is_packed_layer(name, modulation) and form.fits(one.shape)]


def _packed(form: Format, one: Stored, device: str | torch.device) -> tuple[Tensor, ...]:
    """The tensors of a stored weight in this format: its own codes, or encoded from its values."""
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
    """The bytes of JSON that say what a layer is, as ComfyUI and bitsandbytes look for them."""
    if form.name == "nf4":
        said = {"quant_type": "nf4", "blocksize": GROUP, "dtype": "bfloat16", "shape": list(shape)}
        return [("weight.quant_state.bitsandbytes__nf4", _bytes(said))]
    return [("comfy_quant", _bytes({"format": form.comfy or f"leanlens_{form.name}"}))]


def _bytes(said: dict[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
