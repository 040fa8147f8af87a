"""Packed linear layers: what they hold, what they compute, what is written of them and read again."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from leanlens.weights.assemble import convert
from leanlens.weights.layouts import identify
from leanlens.weights.load import open_transformer
from leanlens.weights.packed import FORMATS, PackedLinear, is_packed_layer, open_packed, pack
from leanlens.weights.quantized import NF4_LEVELS
from leanlens.weights.verify import verify
from tests.weights import foreign

# Bytes for each weight, and the error that normally distributed weights have, relative to their size.
EXPECTED = {
    "fp8": (1.0, 0.04),
    "mxfp8": (1.032, 0.04),
    "int8": (1.05, 0.012),
    "nf4": (0.5626, 0.11),
    "int4": (0.5626, 0.1),
}


@pytest.fixture
def model():
    return foreign.transformer()


@pytest.fixture
def source(tmp_path):
    foreign.write_comfy_transformer(tmp_path / "lens.safetensors")
    return tmp_path / "lens.safetensors"


def packed_layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, PackedLinear)}


def run(model):
    torch.manual_seed(0)
    latents, features = torch.randn(1, 16, 128), [torch.randn(1, 5, 64) for _ in range(4)]
    with torch.no_grad():
        return model(latents, features, None, torch.tensor([0.5]), [(1, 4, 4)])


@pytest.mark.parametrize("quant", FORMATS)
def test_packed_weights_are_small_near_and_only_where_they_may_be(model, quant):
    plain = {name: value.detach().clone() for name, value in model.state_dict().items()}
    before = run(model)
    layers = packed_layers(pack(model, quant))
    assert len(layers) >= 2 * 8
    assert all(is_packed_layer(name) for name in layers)
    assert type(model.get_submodule("transformer_blocks.0.img_mod.1")) is torch.nn.Linear
    bytes_each, error = EXPECTED[quant]
    for name, layer in layers.items():
        held = sum(buffer.nbytes for buffer in layer.buffers())
        weight = plain[f"{name}.weight"]
        assert held <= bytes_each * weight.numel() + 8
        assert (layer.decoded(torch.float32) - weight).norm() / weight.norm() < error
    assert 0 < (run(model) - before).norm() / before.norm() < 2 * error


@pytest.mark.parametrize("quant", FORMATS)
def test_a_converted_file_keeps_its_codes(source, tmp_path, quant):
    """Encoded once: decoded at opening or at use, the network is the same to the last bit."""
    to, out = ("comfy", tmp_path / "out.safetensors") if FORMATS[quant].comfy else ("diffusers", tmp_path / "out")
    convert(source, out, to, torch.bfloat16, quant=quant)
    layout = identify(out)
    assert (layout.quantisation, layout.refusal) == (quant, "")
    assert layout.parameters == identify(source).parameters
    assert [found.level for found in verify(out)] == ["ok"]
    packed, decoded = open_packed(out, dtype=torch.float32), open_transformer(out, torch.float32)
    assert len(packed_layers(packed)) >= 16
    assert torch.equal(run(packed), run(decoded))
    again = open_packed(source, quant, torch.float32)  # the same codes as at first hand
    name, layer = next(iter(packed_layers(again).items()))
    assert torch.equal(layer.codes, packed.get_submodule(name).codes)


def test_files_may_hold_every_matrix_of_the_blocks_packed(source, tmp_path):
    """Modulation too, in small files; what is read is within the rounding of each row's scale."""
    convert(source, tmp_path / "out", dtype=torch.bfloat16, quant="int8", modulation=True, shard_bytes=400_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 420_000
    layout, plain = identify(tmp_path / "out"), open_transformer(source, torch.float32)
    assert layout.config["quantization_config"] == {"quant_method": "leanlens_int8"}
    assert layout.parameters == identify(source).parameters
    assert [found.level for found in verify(tmp_path / "out")] == ["ok"]
    read = open_transformer(tmp_path / "out", torch.float32)
    assert not packed_layers(read)
    for name, value in read.state_dict().items():
        wanted, within = plain.state_dict()[name], 0.0
        if name.startswith("transformer_blocks.") and value.ndim == 2:
            assert layout.entries[name].dtype == "I8"
            within = wanted.abs().amax(-1, keepdim=True) / 127 * 0.501
        else:
            wanted = wanted.to(torch.bfloat16).float()
        assert ((value - wanted).abs() <= within).all(), name


def test_packed_modulation_is_decoded_at_opening_and_keeps_its_codes_when_written(source, tmp_path):
    convert(source, tmp_path / "out", dtype=torch.bfloat16, quant="int8", modulation=True)
    packed = open_packed(tmp_path / "out", dtype=torch.float32)
    assert all(is_packed_layer(name) for name in packed_layers(packed))
    assert type(packed.get_submodule("transformer_blocks.0.img_mod.1")) is torch.nn.Linear
    assert torch.equal(run(packed), run(open_transformer(tmp_path / "out", torch.float32)))
    convert(tmp_path / "out", tmp_path / "again", quant="int8", modulation=True)
    convert(tmp_path / "out", tmp_path / "plain", quant="int8")
    (first,) = (tmp_path / "out").glob("*.safetensors")
    assert first.read_bytes() == (tmp_path / "again" / first.name).read_bytes()
    entries = identify(tmp_path / "plain").entries
    kinds = [entries[f"transformer_blocks.1.{layer}.weight"].dtype for layer in ("txt_mod.1", "attn.txt_qkv")]
    assert kinds == ["BF16", "I8"]


@pytest.mark.parametrize(
    ("scale", "said"),
    [(None, "lacks the scales transformer_blocks.1.img_mod.1.weight_scale"), (7, "has 7 scales for 768 rows")],
)
def test_codes_without_their_scales_are_no_weights(source, tmp_path, scale, said):
    convert(source, tmp_path / "out", dtype=torch.bfloat16, quant="int8", modulation=True)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    state = load_file(file)
    name = "transformer_blocks.1.img_mod.1.weight_scale"
    del state[name]
    save_file(state if scale is None else {**state, name: torch.ones(scale, 1)}, file)
    with pytest.raises(ValueError, match=said):
        open_transformer(tmp_path / "out")
    assert [found.level for found in verify(tmp_path / "out")] == ["error"]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="fetch it again"):
        open_transformer(tmp_path / "out")


def test_comfyui_s_own_mxfp8_file_stays_packed(tmp_path):
    foreign.write_comfy_mxfp8(tmp_path / "lens.safetensors")
    packed = open_packed(tmp_path / "lens.safetensors", dtype=torch.float32)
    assert next(iter(packed_layers(packed).values())).codes.dtype == torch.float8_e4m3fn
    assert torch.equal(run(packed), run(open_transformer(tmp_path / "lens.safetensors", torch.float32)))


def test_the_names_and_dtypes_that_comfyui_looks_for(source, tmp_path):
    wanted = {
        "fp8": ("float8_e4m3fn", torch.float8_e4m3fn, torch.float32, ()),
        "int8": ("int8_tensorwise", torch.int8, torch.float32, (384, 1)),
        "mxfp8": ("mxfp8", torch.float8_e4m3fn, torch.uint8, (384, 4)),
    }
    for quant, (name, dtype, scale_dtype, scale_shape) in wanted.items():
        convert(source, tmp_path / f"{quant}.safetensors", "comfy", quant=quant)
        with safe_open(tmp_path / f"{quant}.safetensors", framework="pt") as file:
            layer = "transformer_blocks.1.attn.img_qkv"
            weight, scale = file.get_tensor(f"{layer}.weight"), file.get_tensor(f"{layer}.weight_scale")
            assert json.loads(bytes(file.get_tensor(f"{layer}.comfy_quant").numpy())) == {"format": name}
            assert file.get_tensor("transformer_blocks.1.img_mod.1.weight").dtype == torch.float32
        assert (weight.dtype, scale.dtype, tuple(scale.shape)) == (dtype, scale_dtype, scale_shape)


def test_nf4_as_bitsandbytes_writes_it(tmp_path):
    """Levels and order of its files: the high half of a byte first, one scale for 64 values in a row."""
    state = foreign.transformer().state_dict()
    name = "transformer_blocks.0.attn.img_qkv.weight"
    rows, columns = state[name].shape
    codes = torch.arange(rows * columns) * 7 % 16
    largest = torch.arange(rows * columns // 64) / 100 + 0.01
    state[name] = (codes[0::2] << 4 | codes[1::2]).to(torch.uint8).reshape(-1, 1)
    state |= {f"{name}.absmax": largest, f"{name}.quant_map": torch.tensor(NF4_LEVELS)}
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [rows, columns]}
    state[f"{name}.quant_state.bitsandbytes__nf4"] = foreign.marker(json.dumps(said))
    save_file(state, tmp_path / "nf4.safetensors")
    values = torch.tensor(NF4_LEVELS)[codes] * largest.repeat_interleave(64)
    read = open_transformer(tmp_path / "nf4.safetensors", torch.float32)
    assert torch.equal(read.state_dict()[name], values.reshape(rows, columns))


def test_a_packed_model_keeps_its_codes_when_it_is_cast_or_moved(model):
    layer = next(iter(packed_layers(pack(model, "fp8")).values()))
    codes = layer.codes.clone()
    model.to(torch.bfloat16).to("cpu")
    assert layer.codes.dtype == torch.float8_e4m3fn
    assert layer.scale.dtype == torch.float32
    assert torch.equal(layer.codes.float(), codes.float())
    assert layer.bias.dtype == layer.weight.dtype == torch.bfloat16
    assert model.to("meta") is model
    assert layer.codes.is_meta


def test_loras_go_on_packed_layers(model):
    from peft import LoraConfig

    from leanlens.weights.lora import remove_loras

    pack(model, "int8")
    before = run(model)
    model.add_adapter(LoraConfig(r=4, target_modules=["img_qkv", "w2"], init_lora_weights=False))
    assert not torch.equal(run(model), before)
    remove_loras(model)
    assert torch.equal(run(model), before)


def test_what_is_not_accepted(source, tmp_path, model):
    with pytest.raises(ValueError, match="invalid quant 'int3': expected one of none, fp8"):
        pack(model, "int3")
    with pytest.raises(ValueError, match="invalid quant 'nf4' with to 'comfy'"):
        convert(source, tmp_path / "a.safetensors", "comfy", quant="nf4")
    foreign.write_bfl_vae(tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="quant 'int8' is only for a transformer"):
        convert(tmp_path / "vae.safetensors", tmp_path / "b", quant="int8")
    convert(source, tmp_path / "int8.safetensors", "comfy", quant="int8")
    with safe_open(tmp_path / "int8.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    marker = foreign.marker('{"format": "int8_tensorwise", "convrot": true}')
    state = {name: marker.clone() if name.endswith("comfy_quant") else tensor for name, tensor in state.items()}
    save_file(state, tmp_path / "turned.safetensors")
    with pytest.raises(ValueError, match="rotated"):
        open_transformer(tmp_path / "turned.safetensors")
