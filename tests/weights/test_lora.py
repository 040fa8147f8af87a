"""Every style of LoRA file is built here by hand, read, applied, and compared with weights merged by hand."""

import copy
import json
import logging
import math
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from leanlens.models.transformer import LensTransformer2DModel
from leanlens.weights.layouts import identify
from leanlens.weights.lora import (
    apply_lora,
    as_lora,
    extract_lora,
    lora_scales,
    read_lora,
    remove_loras,
    set_lora_scales,
    write_lora,
)
from leanlens.weights.lora_keys import by_pattern
from leanlens.weights.verify import verify

TOY = {"num_layers": 2, "num_attention_heads": 2, "enc_hidden_dim": 32, "selected_layer_index": (0, 1)}
RANK = 4
BLOCK = [
    "attn.img_qkv", "attn.txt_qkv", "attn.to_out.0", "attn.to_add_out", "img_mlp.w1", "img_mlp.w2", "img_mlp.w3",
    "txt_mlp.w1", "txt_mlp.w2", "txt_mlp.w3", "img_mod.1", "txt_mod.1",
]  # fmt: skip
GLOBAL = [
    "img_in", "txt_in", "proj_out", "norm_out.linear",
    "time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2",
]  # fmt: skip
MODULES = [f"transformer_blocks.{block}.{name}" for block in (0, 1) for name in BLOCK] + GLOBAL


@pytest.fixture(scope="module")
def plain() -> LensTransformer2DModel:
    torch.manual_seed(0)
    return LensTransformer2DModel(**TOY).eval().requires_grad_(False)


@pytest.fixture
def model(plain) -> LensTransformer2DModel:
    return copy.deepcopy(plain)


@pytest.fixture(scope="module")
def pairs(plain) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> (A, B), for every linear layer of the network."""
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name in MODULES:
        out_features, in_features = plain.get_submodule(name).weight.shape
        a = torch.randn(RANK, in_features, generator=generator) / in_features**0.5
        made[name] = a, torch.randn(out_features, RANK, generator=generator) * 0.3
    return made


def draw(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, 24, 128, generator=generator),
            encoder_hidden_states=[torch.randn(1, 5, 32, generator=generator) for _ in range(2)],
            timestep=torch.tensor([0.6]),
            img_shapes=[(1, 4, 6)],
        )


def merged(plain, pairs, scale) -> LensTransformer2DModel:
    """A copy whose weights are W + scale * B @ A; `scale` is a number or a function of the module's name."""
    model = copy.deepcopy(plain)
    for name, (a, b) in pairs.items():
        model.get_submodule(name).weight += (scale(name) if callable(scale) else scale) * (b @ a)
    return model


def assert_same(model, expected, plain):
    found, wanted, before = draw(model), draw(expected), draw(plain)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (found - before).abs().mean() > 0.02 * before.abs().mean()  # it acted


# Styles: module, A, B -> the tensors a trainer writes, and the header beside them. ALPHA of each is written below it.


def dotted(prefix, down, up):
    return lambda name, a, b: {f"{prefix}{name}.{down}": a, f"{prefix}{name}.{up}": b}


def flat(prefix, alpha=None):
    def write(name, a, b):
        stem = prefix + name.replace(".", "_")
        tensors = {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
        return tensors if alpha is None else tensors | {f"{stem}.alpha": torch.tensor(alpha)}

    return write


AB = ("lora_A.weight", "lora_B.weight")
STYLES = {
    "comfy": (dotted("diffusion_model.", *AB), {}, 1.0),
    "comfy in a checkpoint": (dotted("model.diffusion_model.", *AB), {}, 1.0),
    "default adapter": (
        dotted("diffusion_model.", "lora_A.default.weight", "lora_B.default.weight"),
        {"step": "100", "rank": "4", "alpha": "2"},
        0.5,
    ),
    "down and up": (dotted("diffusion_model.", "lora_down.weight", "lora_up.weight"), {"ss_network_alpha": "8"}, 2.0),
    "diffusers": (dotted("transformer.", *AB), {}, 1.0),
    "diffusers with alpha": (
        dotted("transformer.", *AB),
        {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8}), "alpha": "100"},
        2.0,
    ),
    "legacy": (dotted("transformer.", "lora_down.weight", "lora_up.weight"), {}, 1.0),
    "bare": (dotted("", *AB), {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 2})}, 0.5),
    "rank stabilised": (
        dotted("", *AB),
        {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 2, "use_rslora": True})},
        1.0,
    ),
    "peft": (dotted("base_model.model.", *AB), {"lora_alpha": "2"}, 0.5),
    "old diffusers": (dotted("transformer.", "lora.down.weight", "lora.up.weight"), {}, 1.0),
    "oldest diffusers": (
        dotted("transformer.", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"), {}, 1.0,
    ),
    "kohya": (flat("lora_unet_", alpha=1.0), {"ss_network_alpha": "100"}, 0.25),
    "kohya without alphas": (flat("lora_unet_"), {"ss_network_alpha": "Dynamic"}, 1.0),
    "two underscores": (flat("lora_unet__", alpha=4.0), {}, 1.0),
    "lora_transformer": (flat("lora_transformer_", alpha=2.0), {}, 0.5),
    "lycoris": (flat("lycoris_", alpha=2.0), {}, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_every_style_acts_as_merged_weights(style, plain, model, pairs, tmp_path):
    write, header, scale = STYLES[style]
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors |= write(name, a, b)
    save_file(tensors, tmp_path / "lora.safetensors", metadata=header)
    lora = read_lora(tmp_path / "lora.safetensors")
    assert set(lora.layers) == set(MODULES)
    apply_lora(model, lora, "style", 0.7)
    assert_same(model, merged(plain, pairs, 0.7 * scale), plain)


# What may stand before a layer's name, in any order, and the names of adapters behind it.
PREFIXES = [
    "unet.", "module.", "_orig_mod.", "model.", "transformer._orig_mod.", "_orig_mod.transformer.", "module.unet.",
    "model.module._orig_mod.", "base_model.model.transformer._orig_mod.", "module.base_model.model.model.",
    "diffusion_model._orig_mod.", "unet.module.model.diffusion_model.",
]  # fmt: skip
FLAT_PREFIXES = ["lora_unet__orig_mod_", "lora_unet_", "lora_unet__", "lora_transformer_", "lycoris_"]
ENDS = ["lora_A{}.weight", "lora_A.default{}.weight", "lora_A.default_0{}.weight", "lora_A.my_adapter{}.weight",
        "lora_down.my-adapter{}.weight", "lora_A.default{}", "lora_A{}"]  # fmt: skip


@pytest.mark.parametrize("prefix", [*PREFIXES, *FLAT_PREFIXES, "in the middle"])
def test_every_prefix_gives_the_same_bytes(prefix, pairs, tmp_path):
    tensors = {}
    for index, (name, (a, b)) in enumerate(pairs.items()):
        down = ENDS[index % len(ENDS)].format("")
        up = down.replace("lora_A", "lora_B").replace("lora_down", "lora_up")
        stem = prefix + (name.replace(".", "_") if prefix in FLAT_PREFIXES else name)
        if prefix == "in the middle":
            stem = name.replace("transformer_blocks.0.", "transformer_blocks.0._orig_mod.")
            stem = stem.replace("transformer_blocks.1.attn.", "transformer_blocks.1._checkpoint_wrapped_module.attn.")
        tensors |= {f"{stem}.{down}": a, f"{stem}.{up}": b}
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors")
    assert set(lora.layers) == set(pairs)
    for name, (a, b) in pairs.items():
        assert torch.equal(lora.layers[name].a, a)
        assert torch.equal(lora.layers[name].b, b)
        assert lora.layers[name].alpha == RANK


def test_the_names_of_layers_are_those_of_the_network(plain):
    from leanlens.weights.lora_keys import SPLIT, _official_names

    split = {f"transformer_blocks.0.attn.{part}" for parts in SPLIT.values() for part in parts}
    linear = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(_official_names().values()) - split == {name for name in linear if "blocks.1." not in name}


def test_a_state_dict_is_read_as_its_file_is(pairs, tmp_path):
    file = read_lora(save_comfy(tmp_path / "lora.safetensors", pairs, alpha=3.0))
    held = as_lora(load_file(tmp_path / "lora.safetensors"))
    assert held.layers.keys() == file.layers.keys()
    for name, layer in file.layers.items():
        assert torch.equal(held.layers[name].a, layer.a)
        assert torch.equal(held.layers[name].b, layer.b)
        assert held.layers[name].alpha == layer.alpha == 3.0
    with pytest.raises(ValueError, match="has a str at 'a'; expected a tensor"):
        as_lora({"a": "b"})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_8_bits_are_read_as_bfloat16_exactly(dtype, tmp_path):
    stored = {A: torch.randn(4, 128).to(dtype), B: torch.randn(128, 4).to(dtype), f"{STEM}.alpha": torch.tensor(8)}
    save_file(stored, tmp_path / "lora.safetensors")
    (layer,) = read_lora(tmp_path / "lora.safetensors").layers.values()
    assert (layer.a.dtype, layer.alpha) == (torch.bfloat16, 8.0)
    assert torch.equal(layer.a.float(), stored[A].float())
    assert torch.equal(layer.b.float(), stored[B].float())


def save_comfy(path, pairs, alpha=4.0, only=""):
    tensors = {}
    for name, (a, b) in pairs.items():
        if only in name:
            stem = f"diffusion_model.{name}"
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b, f"{stem}.alpha": torch.tensor(alpha)}
    save_file(tensors, path)
    return path


def test_a_peft_folder(plain, model, pairs, tmp_path):
    save_file(
        {
            f"base_model.model.{name}.lora_{part}.weight": t
            for name, p in pairs.items()
            for part, t in zip("AB", p, strict=True)
        },
        tmp_path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "alpha_pattern": {r"attn\.img_qkv": 8, "^proj_out": 1}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    apply_lora(model, read_lora(tmp_path), "folder")
    scales = lambda name: 2.0 if name.endswith("img_qkv") else 0.25 if name == "proj_out" else 1.0  # noqa: E731
    assert_same(model, merged(plain, pairs, scales), plain)


@pytest.mark.parametrize("write", ["save_lora_adapter", "peft"])
def test_what_the_libraries_themselves_write(write, plain, model, pairs, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=6, target_modules=["attn.img_qkv", "to_out.0"], init_lora_weights=False)
    torch.manual_seed(5)
    if write == "peft":
        trained = get_peft_model(copy.deepcopy(plain), config)
        trained.save_pretrained(tmp_path)
    else:
        trained = copy.deepcopy(plain)
        trained.add_adapter(config, adapter_name="mine")
        trained.save_lora_adapter(tmp_path, adapter_name="mine")
    apply_lora(model, read_lora(tmp_path), "library")
    assert_same(model, trained, plain)


def test_different_ranks_and_alphas_in_one_file(plain, model, tmp_path):
    generator = torch.Generator().manual_seed(3)
    tensors, pairs = {}, {}
    for rank, name in enumerate(MODULES, start=1):
        out_features, in_features = plain.get_submodule(name).weight.shape
        a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
        b = torch.randn(out_features, rank, generator=generator) * 0.2
        stem = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(2.0)}
        pairs[name] = a, b * 2.0 / rank
    save_file(tensors, tmp_path / "lora.safetensors")
    apply_lora(model, read_lora(tmp_path / "lora.safetensors"))
    assert_same(model, merged(plain, pairs, 1.0), plain)


@pytest.mark.parametrize("alphas", [(4.0, 4.0, 4.0), (1.0, 2.0, 4.0)])
@pytest.mark.parametrize("missing", [None, "k"])
@pytest.mark.parametrize("prefix", ["transformer.", "lora_unet_"])
def test_split_query_key_value_are_fused(alphas, missing, prefix, plain, model, tmp_path):
    generator = torch.Generator().manual_seed(4)
    tensors, pairs = {}, {}
    for whole, names in {"img_qkv": "to_{}", "txt_qkv": "add_{}_proj"}.items():
        delta = []
        for part, alpha in zip("qkv", alphas, strict=True):
            a = torch.randn(RANK, 128, generator=generator) / 11
            b = torch.randn(128, RANK, generator=generator)
            if part == missing:
                delta.append(torch.zeros(128, 128))
                continue
            delta.append(alpha / RANK * b @ a)
            stem = f"transformer_blocks.1.attn.{names.format(part)}"
            stem = prefix + (stem if prefix.endswith(".") else stem.replace(".", "_"))
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b, f"{stem}.alpha": torch.tensor(alpha)}
        pairs[f"transformer_blocks.1.attn.{whole}"] = torch.eye(128), torch.cat(delta)
    save_file(tensors, tmp_path / "lora.safetensors")
    apply_lora(model, read_lora(tmp_path / "lora.safetensors"))
    assert_same(model, merged(plain, pairs, 1.0), plain)


@pytest.mark.parametrize("both", [False, True])
def test_lokr_of_low_rank(both, plain, model, tmp_path):
    generator = torch.Generator().manual_seed(6)
    tensors, pairs = {}, {}
    for name in MODULES:
        out_features, in_features = plain.get_submodule(name).weight.shape
        columns = 1 if in_features % 8 else 8
        rows = 1 if out_features % 4 else 4
        w1 = torch.randn(rows, columns, generator=generator)
        w2_a = torch.randn(out_features // rows, 2, generator=generator)
        w2_b = torch.randn(2, in_features // columns, generator=generator) / in_features**0.5
        stem = "lycoris_" + name.replace(".", "_")
        tensors |= {f"{stem}.lokr_w2_a": w2_a, f"{stem}.lokr_w2_b": w2_b, f"{stem}.alpha": torch.tensor(0.5)}
        if both:
            w1_a, w1_b = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
            w1 = w1_a @ w1_b
        tensors |= {f"{stem}.lokr_w1_a": w1_a, f"{stem}.lokr_w1_b": w1_b} if both else {f"{stem}.lokr_w1": w1}
        pairs[name] = torch.eye(in_features), torch.kron(w1, w2_a @ w2_b)
    save_file(tensors, tmp_path / "lokr.safetensors")
    apply_lora(model, read_lora(tmp_path / "lokr.safetensors"))
    assert_same(model, merged(plain, pairs, 0.5 / 2), plain)


def test_lokr_that_peft_writes(plain, model, tmp_path):
    from peft import LoKrConfig, get_peft_model

    torch.manual_seed(7)
    config = LoKrConfig(
        r=4, alpha=6, decompose_factor=8, target_modules=["attn.img_qkv", "img_mlp.w2"], init_weights=False
    )
    trained = get_peft_model(copy.deepcopy(plain), config)
    for name, parameter in trained.named_parameters():
        if "lokr" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    trained.save_pretrained(tmp_path)
    apply_lora(model, read_lora(tmp_path), "library")
    assert_same(model, trained, plain)


def test_several_at_once_with_scales(plain, model, pairs, tmp_path):
    attention = read_lora(save_comfy(tmp_path / "attention.safetensors", pairs, only="attn"))
    mlp = read_lora(save_comfy(tmp_path / "mlp.safetensors", pairs, alpha=2.0, only="img_mlp"))
    everything = read_lora(save_comfy(tmp_path / "everything.safetensors", pairs))
    apply_lora(model, attention, "attention", 0.5)
    apply_lora(model, mlp, "mlp", 2.0)
    apply_lora(model, everything, "everything", -0.3)
    assert lora_scales(model) == pytest.approx({"attention": 0.5, "mlp": 2.0, "everything": -0.3})

    def scale(name):
        return -0.3 + 0.5 * ("attn" in name) + 1.0 * ("img_mlp" in name)

    assert_same(model, merged(plain, pairs, scale), plain)

    set_lora_scales(model, {"everything": 1.0})
    assert lora_scales(model) == {"everything": 1.0}
    assert_same(model, merged(plain, pairs, 1.0), plain)
    set_lora_scales(model, {})
    assert lora_scales(model) == {}
    torch.testing.assert_close(draw(model), draw(plain), rtol=0, atol=0)
    set_lora_scales(model, {"everything": 0.5})
    assert_same(model, merged(plain, pairs, 0.5), plain)
    remove_loras(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(draw(model), draw(plain), rtol=0, atol=0)
    remove_loras(model)


def test_a_second_adapter_raises_no_false_alarm(model, pairs, tmp_path, caplog):
    library = logging.getLogger("diffusers")
    library.addHandler(caplog.handler)
    try:
        apply_lora(model, read_lora(save_comfy(tmp_path / "lora.safetensors", pairs, only="attn")), "first")
        apply_lora(model, read_lora(save_comfy(tmp_path / "lora.safetensors", pairs, only="mlp")), "lora")
    finally:
        library.removeHandler(caplog.handler)
    assert not caplog.records


def test_scale_zero_equals_none(plain, model, pairs, tmp_path):
    apply_lora(model, read_lora(save_comfy(tmp_path / "lora.safetensors", pairs)), "nothing", 0.0)
    torch.testing.assert_close(draw(model), draw(plain), rtol=0, atol=0)


def test_bfloat16_weights_stay_bfloat16(plain, pairs, tmp_path):
    model = copy.deepcopy(plain).to(torch.bfloat16)
    apply_lora(model, read_lora(save_comfy(tmp_path / "lora.safetensors", pairs)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("style", ["comfy", "peft", "kohya"])
def test_round_trip(style, plain, model, pairs, tmp_path):
    lora = read_lora(save_comfy(tmp_path / "lora.safetensors", pairs, alpha=3.0))
    write_lora(tmp_path / "again.safetensors", lora, style, {"ss_steps": "700", "modelspec.title": "mine"})
    again = read_lora(tmp_path / "again.safetensors")
    assert set(again.layers) == set(lora.layers)
    for name, layer in lora.layers.items():
        assert torch.equal(again.layers[name].a, layer.a)
        assert torch.equal(again.layers[name].b, layer.b)
        assert again.layers[name].alpha == 3.0
    header = again.metadata
    assert (header["format"], header["ss_network_dim"], header["ss_network_alpha"]) == ("pt", "4", "3")
    assert (header["ss_steps"], header["modelspec.title"]) == ("700", "mine")
    assert header["modelspec.architecture"] == "Lens/lora"
    apply_lora(model, again)
    assert_same(model, merged(plain, pairs, 0.75), plain)


def test_the_names_other_programs_look_for(pairs, tmp_path):
    lora = read_lora(save_comfy(tmp_path / "lora.safetensors", pairs, only="blocks.1.attn.to_out"))
    expected = {
        "comfy": "diffusion_model.transformer_blocks.1.attn.to_out.0.{lora_A.weight,lora_B.weight,alpha}",
        "peft": "transformer.transformer_blocks.1.attn.to_out.0.{lora_A.weight,lora_B.weight}",
        "kohya": "lora_unet_transformer_blocks_1_attn_to_out_0.{lora_down.weight,lora_up.weight,alpha}",
    }
    for style, names in expected.items():
        write_lora(tmp_path / "out.safetensors", lora, style)
        stem, _, ends = names[:-1].partition("{")
        assert set(load_file(tmp_path / "out.safetensors")) == {stem + end for end in ends.split(",")}


def test_diffusers_reads_the_peft_style(plain, model, pairs, tmp_path):
    lora = read_lora(save_comfy(tmp_path / "lora.safetensors", pairs, alpha=3.0))
    write_lora(tmp_path / "out.safetensors", lora, "peft")
    model.load_lora_adapter(str(tmp_path), weight_name="out.safetensors", prefix="transformer", adapter_name="x")
    assert_same(model, merged(plain, pairs, 0.75), plain)


def test_extract_what_training_left(plain, model, pairs, tmp_path):
    apply_lora(model, read_lora(save_comfy(tmp_path / "lora.safetensors", pairs, alpha=3.0)), "mine", 0.2)
    lora = extract_lora(model, "mine")
    assert set(lora.layers) == set(MODULES)
    write_lora(tmp_path / "out.safetensors", lora)
    fresh = copy.deepcopy(plain)
    apply_lora(fresh, read_lora(tmp_path / "out.safetensors"))
    assert_same(fresh, merged(plain, pairs, 0.75), plain)
    with pytest.raises(ValueError, match="'other' is not loaded; loaded are mine"):
        extract_lora(model, "other")


def test_keys_of_other_models_are_named_in_a_warning(pairs, tmp_path, caplog):
    save_comfy(tmp_path / "lora.safetensors", pairs)
    tensors = load_file(tmp_path / "lora.safetensors") | {"lora_te1_layer_0.lora_down.weight": torch.zeros(4, 8)}
    save_file(tensors, tmp_path / "lora.safetensors")
    assert set(read_lora(tmp_path / "lora.safetensors").layers) == set(MODULES)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "ignoring 1 keys that match no Lens layer: lora_te1_layer_0.lora_down.weight" in message


STEM = "diffusion_model.transformer_blocks.0.attn.to_add_out"
A, B = f"{STEM}.lora_A.weight", f"{STEM}.lora_B.weight"
GOOD = {A: torch.zeros(4, 128), B: torch.zeros(128, 4)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.zeros(4, 8)}, "no LoRA of a Lens layer.*double_blocks"),
        ({A: torch.zeros(4, 128)}, "holds only A of transformer_blocks.0.attn.to_add_out"),
        ({f"{STEM}.alpha": torch.tensor(1.0)}, "holds only alpha"),
        (GOOD | {B: torch.zeros(128, 5)}, r"\(4, 128\) and lora_B \(128, 5\) of .* are not"),
        (GOOD | {A: torch.zeros(4, 128, 1, 1)}, "are not"),
        (GOOD | {A.removeprefix("diffusion_model."): torch.zeros(4, 128)}, "has A of .* twice"),
        (
            GOOD | {A.replace("to_add_out", n): GOOD[A] for n in ("to_q", "img_qkv")}
            | {B.replace("to_add_out", n): GOOD[B] for n in ("to_q", "img_qkv")},
            "has both .*img_qkv and its parts",
        ),
        (GOOD | {f"{STEM}.dora_scale": torch.zeros(128, 1)}, "contains DoRA"),
        (GOOD | {f"{STEM}.lora_magnitude_vector.default": torch.zeros(128)}, "contains DoRA"),
        ({f"{STEM}.lokr_w1": torch.zeros(4, 4), f"{STEM}.lokr_w2": torch.zeros(4, 4)}, "LoKr with a full"),
        ({f"{STEM}.lokr_w1": torch.zeros(4, 4), f"{STEM}.lokr_w2_a": torch.zeros(4, 4)}, "a LoKr layer has lokr_w1"),
        (
            {f"{STEM}.lokr_{part}": torch.zeros(4, n) for part, n in {"w1": 4, "w2_a": 3, "w2_b": 4}.items()},
            "do not fit each other",
        ),
        (GOOD | {f"{STEM}.alpha": torch.zeros(2)}, r"alpha of .*to_add_out has shape \(2,\)"),
        ({f"{STEM}.hada_w1_a": torch.zeros(4, 4)}, "contains LoHa"),
        ({f"{STEM}.oft_blocks": torch.zeros(4, 4)}, "contains OFT"),
        ({f"{STEM}.diff": torch.zeros(128, 128)}, "a full weight difference"),
        (GOOD | {f"{STEM}.lora_B.bias": torch.zeros(128)}, "LoRA with biases"),
    ],
)  # fmt: skip
def test_wrong_files_are_named(tensors, message, tmp_path):
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=message):
        read_lora(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({A: torch.zeros(0, 128), B: torch.zeros(128, 0)}, "to_add_out has a rank or a side of 0"),
        ({A: torch.zeros(4, 0), B: torch.zeros(128, 4)}, "to_add_out has a rank or a side of 0"),
        ({A: torch.zeros(4, 128), B: torch.zeros(0, 4)}, "to_add_out has a rank or a side of 0"),
        ({A: torch.zeros(4, 128, dtype=torch.int8), B: torch.zeros(128, 4)}, "A of .*to_add_out has dtype I8"),
        ({A: torch.zeros(4, 128), B: torch.zeros(128, 4, dtype=torch.bool)}, "B of .*to_add_out has dtype BOOL"),
        ({A: torch.zeros(4, 128), B: torch.zeros(128, 4, dtype=torch.complex64)}, "B of .*to_add_out has dtype C64"),
        ({A: torch.tensor(1.0), B: torch.zeros(128, 4)}, "are not"),
        *(
            (GOOD | {f"{STEM}.alpha": torch.tensor(value)}, "alpha of .*to_add_out is '.*'; expected a number above 0")
            for value in (math.nan, math.inf, -1.0, 0.0, 0)
        ),
        (GOOD | {f"{STEM}.alpha": torch.tensor(True)}, "alpha of .* is BOOL; expected a number"),
        (GOOD | {f"{STEM}.alpha": torch.zeros(0)}, "alpha of .*to_add_out has shape"),
        (
            {f"{STEM}.lokr_w1": torch.zeros(1, 60000), f"{STEM}.lokr_w2_a": torch.zeros(1, 1),
             f"{STEM}.lokr_w2_b": torch.zeros(1, 1)},
            r"would take 14\.4 GB after multiplying out its factors; the limit is 2\.1 GB",
        ),
        (
            {f"{STEM}.lokr_w1_a": torch.zeros(60000, 1), f"{STEM}.lokr_w1_b": torch.zeros(1, 60000),
             f"{STEM}.lokr_w2_a": torch.zeros(1, 1), f"{STEM}.lokr_w2_b": torch.zeros(1, 1)},
            r"would take 28\.8 GB after",
        ),
        (
            {f"{STEM}.lokr_w1_a": torch.zeros(4, 0), f"{STEM}.lokr_w1_b": torch.zeros(0, 4),
             f"{STEM}.lokr_w2_a": torch.zeros(4, 1), f"{STEM}.lokr_w2_b": torch.zeros(1, 4)},
            "has a rank or a side of 0",
        ),
        ({A.replace("blocks.0.", f"blocks.{'9' * 5}."): GOOD[A]}, "no LoRA of a Lens layer"),
        ({A.replace("blocks.0.", f"blocks.{'9' * 900}."): GOOD[A]}, "no LoRA of a Lens layer"),
        ({A.replace("blocks.0.", "blocks.\u0663."): GOOD[A]}, "no LoRA of a Lens layer"),
        ({"transformer_blocks_0_attn_img_qkv.lora_A.weight.": GOOD[A]}, "no LoRA of a Lens layer"),
    ],
)  # fmt: skip
def test_hostile_tensors_are_refused_by_the_header_alone(tensors, message, tmp_path, monkeypatch):
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    if "alpha" not in message or "shape" in message or "BOOL" in message:
        monkeypatch.setattr("leanlens.weights.lora.read_tensor", None)
    with pytest.raises(ValueError, match=message) as caught:
        read_lora(tmp_path / "lora.safetensors")
    assert str(tmp_path / "lora.safetensors") in str(caught.value)
    if "alpha" not in message or "shape" in message or "BOOL" in message:
        assert identify(tmp_path / "lora.safetensors").refusal
    assert [found.level for found in verify(tmp_path / "lora.safetensors")] == ["error"]


HOSTILE_CONFIGS = {
    "a list for alpha": ({"lora_alpha": [1]}, r"lora_alpha is '\[1\]'; expected a number above 0 and below 1000000"),
    "a boolean for alpha": ({"lora_alpha": True}, "lora_alpha is 'True'"),
    "a string for alpha": ({"lora_alpha": "8"}, "lora_alpha is '8'"),
    "no alpha": ({"lora_alpha": {}}, "lora_alpha is '{}'"),
    "an alpha of 0": ({"lora_alpha": 0}, "lora_alpha is '0'"),
    "a negative alpha": ({"lora_alpha": -8}, "lora_alpha is '-8'"),
    "an endless alpha": ({"lora_alpha": 10**90}, "lora_alpha is '1000"),
    "patterns in a list": ({"lora_alpha": 8, "alpha_pattern": ["a"]}, "alpha_pattern is not an object"),
    "a list behind a pattern": ({"lora_alpha": 8, "alpha_pattern": {"to_add_out": []}}, r"lora_alpha is '\[\]'"),
    "a pattern without end": ({"lora_alpha": 8, "alpha_pattern": {"(a+)+$": 1}}, r"alpha_pattern '\(a\+\)\+\$'"),
    "a pattern of classes": ({"lora_alpha": 8, "alpha_pattern": {"[a-z]*": 1}}, "expected a layer name"),
    "an empty pattern": ({"lora_alpha": 8, "alpha_pattern": {"": 1}}, "invalid alpha_pattern"),
    "a pattern for everything": ({"lora_alpha": 8, "alpha_pattern": {".*": 1}}, "invalid alpha_pattern"),
    "many wildcards": ({"lora_alpha": 8, "alpha_pattern": {f".*a{n}": 1 for n in range(300)}}, "has 300 patterns"),
    "a stabiliser": ({"lora_alpha": 8, "use_rslora": [1]}, r"use_rslora is '\[1\]'; expected true or false"),
    "a type in a list": ({"peft_type": ["LORA"]}, "adapter, which is not supported"),
    "another type": ({"peft_type": "IA3"}, "is a IA3 adapter, which is not supported"),
}


@pytest.mark.parametrize("case", HOSTILE_CONFIGS)
@pytest.mark.parametrize("place", ["folder", "header"])
def test_hostile_configurations_are_refused(case, place, tmp_path):
    config, message = HOSTILE_CONFIGS[case]
    if place == "folder":
        save_file(GOOD, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    else:
        header = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})}
        save_file(GOOD, tmp_path / "pytorch_lora_weights.safetensors", metadata=header)
    began = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        read_lora(tmp_path)
    assert time.process_time() - began < 2
    assert len(str(caught.value)) < 400
    assert "safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"alpha": "nan"}, "header field alpha is 'nan'; expected a number above 0"),
        ({"ss_network_alpha": "inf"}, "header field ss_network_alpha is 'inf'"),
        ({"lora_alpha": "-4"}, "header field lora_alpha is '-4.0'"),
        ({"lora_adapter_metadata": "[" * 100_000}, "lora_adapter_metadata is not a JSON object: it is nested"),
        ({"lora_adapter_metadata": '{"lora_alpha": NaN}'}, "NaN is not a JSON number"),
        ({"lora_adapter_metadata": '{"lora_alpha": 1e999}'}, "the number 1e999 is too large"),
        ({"lora_adapter_metadata": '{"lora_alpha": 1, "lora_alpha": 2}'}, "duplicate key 'lora_alpha'"),
    ],
)
def test_hostile_header_fields_are_refused(header, message, tmp_path):
    save_file(GOOD, tmp_path / "lora.safetensors", metadata=header)
    with pytest.raises(ValueError, match=message):
        read_lora(tmp_path / "lora.safetensors")


PATTERNS = [
    "img_qkv", "attn.img_qkv", r"attn\.img_qkv", "^transformer_blocks.0.attn.img_qkv", ".*attn.img_qkv", "mg_qkv",
    "attn", r"^transformer_blocks\.1\.attn\.to_out\.0$", "transformer_blocks.0.*", "transformer_blocks.*.attn.*",
    "^attn.img_qkv",
    ".*to_.*", "^.*mlp.w1", "proj_out", "^proj_out", "blocks.0.img_mod.1", ".*.*w2", "transformer_blocks.*w2.*w2",
]  # fmt: skip


def test_patterns_mean_what_they_mean_to_peft():
    from peft.utils.other import get_pattern_key

    for pattern in PATTERNS:
        for name in MODULES:
            expected = 2.0 if get_pattern_key([pattern], name) == pattern else 1.0
            assert by_pattern("it", {pattern: 2.0}, name, 1.0) == expected, (pattern, name)
    for name in MODULES:  # the first that fits decides
        rules = dict(zip(PATTERNS, range(2, 100), strict=False))
        key = get_pattern_key(list(rules), name)
        assert by_pattern("it", rules, name, 1) == rules.get(key, 1)


def test_ten_thousand_patterns_are_quick():
    rules = {f"blocks.{number}.attn.img_qkv": 2.0 for number in range(9_700)}
    rules |= {".*" + "a.*" * 300 + str(number): 2.0 for number in range(250)}
    began = time.process_time()
    for block in range(48):
        for name in BLOCK:
            by_pattern("it", rules, f"transformer_blocks.{block}.{name}", 1.0)
    assert time.process_time() - began < 10
    with pytest.raises(ValueError, match="is not an object of at most 10000 patterns"):
        by_pattern("it", {str(number): 1 for number in range(10_001)}, "img_in", 1.0)


def test_a_lora_of_another_model_is_refused_before_a_weight_is_read(model, tmp_path, monkeypatch):
    monkeypatch.setattr("leanlens.weights.lora.read_tensor", None)
    save_file({A: torch.zeros(4, 64), B: torch.zeros(128, 4)}, tmp_path / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"to_add_out as a weight \(128, 64\), but it is \(128, 128\)"):
        read_lora(tmp_path / "narrow.safetensors", model)
    stem = "transformer.transformer_blocks.0.attn.to_q"
    save_file({f"{stem}.lora_A.weight": torch.zeros(4, 128), f"{stem}.lora_B.weight": torch.zeros(384, 4)},
              tmp_path / "split.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match=r"img_qkv as a weight \(1152, 128\), but it is \(384, 128\)"):
        read_lora(tmp_path / "split.safetensors", model)
    lokr = {"lokr_w1": torch.zeros(8, 8), "lokr_w2_a": torch.zeros(32, 2), "lokr_w2_b": torch.zeros(2, 16)}
    save_file({f"{STEM}.{part}": tensor for part, tensor in lokr.items()}, tmp_path / "lokr.safetensors")
    with pytest.raises(ValueError, match=r"to_add_out as a weight \(256, 128\), but it is \(128, 128\)"):
        read_lora(tmp_path / "lokr.safetensors", model)


def test_wrong_paths_and_headers(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_lora(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"neither adapter_model\.safetensors"):
        read_lora(tmp_path)
    (tmp_path / "lora.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is not a \.safetensors file"):
        read_lora(tmp_path / "lora.pt")
    save_file(GOOD, tmp_path / "lora.safetensors", metadata={"alpha": "much"})
    with pytest.raises(ValueError, match="header field alpha is 'much'"):
        read_lora(tmp_path / "lora.safetensors")
    for text in ("{", "[1]"):
        save_file(GOOD, tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": text})
        with pytest.raises(ValueError, match="lora_adapter_metadata is not a JSON object"):
            read_lora(tmp_path / "lora.safetensors")


def test_a_lora_for_another_size_is_refused_before_anything_changes(model, plain, tmp_path):
    save_file(GOOD | {A: torch.zeros(4, 64)}, tmp_path / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"to_add_out as a weight \(128, 64\), but it is \(128, 128\)"):
        apply_lora(model, read_lora(tmp_path / "narrow.safetensors"))
    deep = {key.replace("blocks.0", "blocks.47"): tensor for key, tensor in GOOD.items()}
    save_file(deep, tmp_path / "deep.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.47\.attn\.to_add_out, which this transformer"):
        apply_lora(model, read_lora(tmp_path / "deep.safetensors"))
    assert list(model.state_dict()) == list(plain.state_dict())


def test_wrong_names_scales_and_styles(model, tmp_path):
    save_file(GOOD, tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors")
    apply_lora(model, lora, "mine")
    with pytest.raises(ValueError, match="'mine' is taken"):
        apply_lora(model, lora, "mine")
    with pytest.raises(ValueError, match="without dots"):
        apply_lora(model, lora, "a.b")
    with pytest.raises(ValueError, match="'other' is not loaded; loaded are mine"):
        set_lora_scales(model, {"other": 1.0})
    with pytest.raises(ValueError, match="invalid style 'a1111': expected one of comfy, peft, kohya"):
        write_lora(tmp_path / "out.safetensors", lora, "a1111")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        write_lora(tmp_path / "out.pt", lora)
    with pytest.raises(ValueError, match="'ss_steps' is 700; header fields"):
        write_lora(tmp_path / "out.safetensors", lora, metadata={"ss_steps": 700})


def test_the_written_header_is_strings_only(tmp_path):
    save_file(GOOD, tmp_path / "lora.safetensors")
    write_lora(tmp_path / "out.safetensors", read_lora(tmp_path / "lora.safetensors"))
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert config["r"] == 4
    assert config["target_modules"] == ["transformer_blocks.0.attn.to_add_out"]
