"""Every layout is named rightly, damaged files are named too, and what can be opened opens to the right values."""

import json
import math
import pickle
import shutil
import struct
import sys

import pytest
import torch
from safetensors.torch import save_file

from leanlens.weights.headers import read_header
from leanlens.weights.layouts import identify
from leanlens.weights.load import (
    open_text_encoder,
    open_tokenizer,
    open_transformer,
    open_vae,
    read_tensors,
)
from leanlens.weights.shards import read_tensor
from leanlens.weights.verify import verify
from tests.weights import foreign

IDS = torch.tensor([[3, 8, 9, 10, 11, 12, 4]])


def expect_state(model, values, dtype):
    state = model.state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, values[name].to(dtype if tensor.is_floating_point() else tensor.dtype)), name
    assert not any(buffer.is_meta for buffer in model.buffers())


# Naming


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_comfy_transformer_file(tmp_path, prefix):
    foreign.write_comfy_transformer(tmp_path / "lens_bf16.safetensors", prefix)
    layout = identify(tmp_path / "lens_bf16.safetensors")
    assert (layout.kind, layout.component, layout.quantisation) == ("transformer-file", "transformer", None)
    assert layout.title == "Lens transformer, fp32, file"
    assert layout.parameters == sum(tensor.numel() for tensor in foreign.transformer().parameters())
    assert layout.facts == {"num_layers": 2, "width": 128, "in_channels": 128, "text_layers": 4, "text_width": 64}


def test_comfy_mxfp8_transformer(tmp_path):
    foreign.write_comfy_mxfp8(tmp_path / "lens_mxfp8.safetensors")
    layout = identify(tmp_path / "lens_mxfp8.safetensors")
    assert (layout.component, layout.quantisation, layout.naming) == ("transformer", "mxfp8", "comfy")
    assert layout.title == "Lens transformer, MXFP8, file in ComfyUI's layout"
    assert layout.parameters == sum(tensor.numel() for tensor in foreign.transformer().parameters())


def test_comfy_nvfp4_encoder(tmp_path):
    foreign.write_comfy_nvfp4_encoder(tmp_path / "gpt_oss_20b_nvfp4.safetensors")
    layout = identify(tmp_path / "gpt_oss_20b_nvfp4.safetensors")
    assert (layout.component, layout.quantisation, layout.naming) == ("text_encoder", "nvfp4", "comfy")
    assert layout.facts["tokenizer"]
    assert not layout.facts["head"]
    assert layout.facts["num_layers"] == 4
    assert layout.parameters == sum(tensor.numel() for tensor in foreign.encoder().model.parameters())


@pytest.mark.parametrize("shards", [True, False])
def test_stock_mxfp4_encoder(tmp_path, shards):
    foreign.write_mxfp4_encoder(tmp_path / "gpt-oss-20b", shards)
    layout = identify(tmp_path / "gpt-oss-20b")
    assert (layout.kind, layout.quantisation) == ("text-encoder-folder", "mxfp4")
    assert layout.parameters == sum(tensor.numel() for tensor in foreign.encoder().parameters())
    assert identify(tmp_path / "gpt-oss-20b" / "config.json").kind == "text-encoder-folder"


def test_dequantised_encoder(tmp_path):
    foreign.encoder().save_pretrained(tmp_path)
    layout = identify(tmp_path)
    assert (layout.kind, layout.quantisation, layout.title) == (
        "text-encoder-folder",
        None,
        "GPT-OSS text encoder, fp32, folder",
    )
    assert identify(tmp_path / "model.safetensors").kind == "text-encoder-file"


def test_component_folders(tmp_path):
    foreign.transformer().save_pretrained(tmp_path / "transformer", max_shard_size="1MB")
    foreign.vae().save_pretrained(tmp_path / "vae")
    sharded = identify(tmp_path / "transformer")
    assert sharded.kind == "transformer-folder"
    assert len([file for file in sharded.files if file.suffix == ".safetensors"]) > 1
    assert identify(tmp_path / "vae").title == "FLUX.2 autoencoder, fp32, folder"


def test_vae_names_of_black_forest_labs(tmp_path):
    foreign.write_bfl_vae(tmp_path / "flux2-vae.safetensors")
    layout = identify(tmp_path / "flux2-vae.safetensors")
    assert (layout.kind, layout.naming) == ("vae-file", "bfl")
    assert layout.facts == {"latent_channels": 32, "packed_channels": 128}


def test_official_pipeline_folder_and_what_it_lacks(tmp_path):
    foreign.write_pipeline(tmp_path / "Lens")
    layout = identify(tmp_path / "Lens")
    assert (layout.kind, layout.missing, layout.refusal) == ("pipeline", (), "")
    assert set(layout.parts) == {"transformer", "text_encoder", "vae", "tokenizer"}
    assert layout.quantisation == "mxfp4"
    for file in (tmp_path / "Lens" / "vae").iterdir():
        file.unlink()
    assert identify(tmp_path / "Lens").missing == ("vae",)
    shutil.rmtree(tmp_path / "Lens" / "text_encoder")
    assert identify(tmp_path / "Lens").missing == ("vae", "text_encoder")
    index = json.loads((tmp_path / "Lens" / "model_index.json").read_text())
    index |= {"vae": [None, None], "text_encoder": [None, None]}  # saved without it, which only text parts can be
    (tmp_path / "Lens" / "model_index.json").write_text(json.dumps(index))
    assert identify(tmp_path / "Lens").missing == ("vae",)
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text(json.dumps(index))
    assert "FluxPipeline" in identify(tmp_path / "other").refusal


@pytest.mark.parametrize(
    ("names", "style"),
    [
        (("txt_in.lora_A.weight", "txt_in.lora_B.weight"), "bare names"),
        (("diffusion_model.txt_in.lora_A.default.weight",), "diffusion_model."),
        (("lora_unet_txt_in.lora_down.weight", "lora_unet_txt_in.alpha"), "lora_unet_"),
        (("transformer.txt_in.lora.down.weight", "transformer.txt_in.lora.up.weight"), "transformer."),
        (("base_model.model.txt_in.lokr_w1", "base_model.model.txt_in.lokr_w2"), "base_model.model."),
        (("txt_in.hada_w1_a", "txt_in.hada_w1_b"), "bare names"),
    ],
)
def test_lora_styles(tmp_path, names, style):
    save_file({name: torch.zeros(4, 8) for name in names}, tmp_path / "lora.safetensors")
    layout = identify(tmp_path / "lora.safetensors")
    assert (layout.kind, layout.facts["style"]) == ("lora", style)


def save_pairs(path, layers, width, rank=4):
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora_A.weight"] = torch.zeros(rank, width)
        tensors[f"{layer}.lora_B.weight"] = torch.zeros(3 * width if "qkv" in layer else width, rank)
    save_file(tensors, path)
    return identify(path)


def test_only_a_lora_that_fits_lens_is_recommended(tmp_path):
    lens = ["transformer.transformer_blocks.0.attn.img_qkv", "transformer.transformer_blocks.7.attn.to_out.0"]
    for width, named in ((1536, "with turbo, rl and base"), (320, "with nano")):
        layout = save_pairs(tmp_path / "lens.safetensors", lens, width)
        assert layout.advice == f"give it to `leanlens generate --lora` {named}"
        assert (layout.refusal, layout.facts["ranks"], layout.facts["width"]) == ("", [4], width)
    others = {
        "sd": (["lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"], 320),
        "sd of diffusers": (["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"], 1536),
        "flux": (["transformer.single_transformer_blocks.0.attn.to_q"], 3072),
        "kohya's flux": (["lora_unet_double_blocks_0_img_attn_qkv"], 3072),
        "text encoder": (["lora_te1_text_model_encoder_layers_0_self_attn_q_proj"], 768),
    }
    for layers, width in others.values():
        layout = save_pairs(tmp_path / "other.safetensors", layers, width)
        assert layout.kind == "lora"
        assert layout.refusal.startswith("has no LoRA of a Lens layer; its first keys are")
        assert "--lora" not in layout.advice
        (finding,) = verify(layout.path)
        assert finding.level == "error"
    shared = ["transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.add_q_proj"]
    layout = save_pairs(tmp_path / "sibling.safetensors", shared, 3072)  # FLUX and Qwen-Image name these layers alike
    assert "3072 wide, so it fits no published Lens (1536 (turbo, rl and base), 320 (nano))" in layout.advice
    assert "--lora" not in layout.advice


def test_another_language_model_is_named_and_not_taken_for_gpt_oss(tmp_path):
    save_file({"model.embed_tokens.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    layout = identify(tmp_path)
    assert (layout.kind, layout.title) == ("language-model", "language model of type qwen3")
    with pytest.raises(ValueError, match=r"is a language model of type qwen3; expected a GPT-OSS text encoder"):
        open_text_encoder(tmp_path)


def test_tokenizers(tmp_path):
    foreign.write_tokenizer(tmp_path / "tokenizer")
    assert identify(tmp_path / "tokenizer").kind == "tokenizer"
    assert identify(tmp_path / "tokenizer" / "tokenizer.json").kind == "tokenizer"


def test_full_size_files_answer_from_their_headers(tmp_path):
    """The released sizes, in files that hold no data: names, counts and the inferred config are the official ones."""
    from leanlens.models.transformer import LensTransformer2DModel
    from leanlens.weights.load import model_config

    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in LensTransformer2DModel().state_dict().items()}
    write_sparse(tmp_path / "lens_bf16.safetensors", shapes, "BF16", 2)
    layout = identify(tmp_path / "lens_bf16.safetensors")
    assert (layout.tensors, layout.parameters) == (1264, 4_104_225_152)
    assert layout.title == "Lens transformer, bf16, file"
    config = model_config(layout)
    assert (config["num_layers"], config["num_attention_heads"], config["inner_dim"]) == (48, 24, 1536)
    assert config["enc_hidden_dim"] == 2880


def write_sparse(path, shapes, dtype, itemsize):
    header, offset = {}, 0
    for name, shape in shapes.items():
        stop = offset + itemsize * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, stop]}
        offset = stop
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + offset)


# Refusals


def write_refused(tmp_path):
    (tmp_path / "encoder.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "lens.ckpt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "hidden.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04\x95")
    packed = {"img_in.weight": torch.zeros(8, 4, dtype=torch.uint8), "img_in.scale": torch.zeros(8, 1)}
    save_file({**packed, "img_in.zero_point": torch.zeros(8, 1)}, tmp_path / "sdnq.safetensors")
    (tmp_path / "sdnq").mkdir()
    save_file({"img_in.weight": torch.zeros(8, 4)}, tmp_path / "sdnq" / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "LensTransformer2DModel", "quantization_config": {"quant_method": "sdnq"}}
    (tmp_path / "sdnq" / "config.json").write_text(json.dumps(config))
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "gpt-oss-20b-Q4.gguf").write_bytes(b"GGUF")


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("encoder.gguf", "gguf", "is a GGUF file"),
        ("ggufs", "gguf", "is a GGUF file"),
        ("lens.ckpt", "pickle", "is a pickle"),
        ("hidden.safetensors", "pickle", "is a pickle"),
        ("pytorch_model.bin", "pickle", "is a pickle"),
        ("sdnq.safetensors", "sdnq", "is quantised by SDNQ"),
        ("sdnq", "sdnq", "is quantised by SDNQ"),
    ],
)
@pytest.mark.parametrize("opener", [open_transformer, open_text_encoder, open_vae])
def test_what_is_not_read_is_named_and_refused(tmp_path, name, kind, sentence, opener):
    write_refused(tmp_path)
    assert identify(tmp_path / name).kind == kind
    with pytest.raises(ValueError, match=f"{sentence}.*; use"):
        opener(tmp_path / name)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4)}, "is not part of Lens"),
        ({"block.0.attn.sinks": torch.zeros(4)}, "original names"),
        ({"decoder.conv_in.weight": torch.zeros(4, 16, 3, 3)}, "without batch-norm statistics"),
        (
            {
                "img_in.weight": torch.zeros(64, 8, dtype=torch.int8),
                "proj_out.weight": torch.zeros(4, 4),
                "txt_norm.0.weight": torch.zeros(4),
            },
            "has an unknown quantisation",
        ),
    ],
)
def test_other_weights_are_refused(tmp_path, tensors, sentence):
    save_file(tensors, tmp_path / "other.safetensors")
    assert sentence in identify(tmp_path / "other.safetensors").refusal
    with pytest.raises(ValueError, match=sentence):
        open_transformer(tmp_path / "other.safetensors")


def test_the_wrong_component_is_named(tmp_path):
    foreign.write_bfl_vae(tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=r"is a FLUX\.2 autoencoder, .*; expected a Lens transformer"):
        open_transformer(tmp_path / "vae.safetensors")


def test_a_part_in_the_place_of_another_is_named(tmp_path):
    foreign.write_pipeline(tmp_path / "Lens")
    for file in (tmp_path / "Lens" / "text_encoder").glob("*.safetensors*"):
        file.unlink()  # what is left looks like a tokenizer
    with pytest.raises(ValueError, match=r"text_encoder is a tokenizer; expected a GPT-OSS text encoder"):
        identify(tmp_path / "Lens")


# Damage


def test_damaged_files_are_named(tmp_path):
    good = tmp_path / "good.safetensors"
    foreign.write_comfy_transformer(good)
    raw = good.read_bytes()
    cases = {
        "empty": (b"", "is empty: 0 bytes"),
        "cut": (raw[:-10], "is cut short"),
        "header": (raw[:200], "is cut short"),
        "text": (b"not found, nothing here", "is not a safetensors file"),
        "junk": (raw + b"abc", "is damaged: 3 bytes follow its last tensor"),
        "page": (b"\n<!DOCTYPE html><html>sign in</html>", "is a web page that was saved instead of the file"),
        "html": (b"<HTML>", "is a web page"),
        "pointer": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "is a Git LFS pointer.*; fetch the real",
        ),
        "tiny": (b"abc", "is not a safetensors file"),
        "json": (struct.pack("<Q", 4) + b"{{{{", "is not a safetensors file: its header is unreadable"),
    }
    for name, (content, sentence) in cases.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{file}.*{sentence}"):
            identify(file)
        (finding,) = verify(file)
        assert finding.level == "error"
        assert str(finding).count(str(file)) == 1


def test_every_pickle_under_the_name_of_safetensors_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    for protocol in (2, 3, 4, 5):
        file.write_bytes(pickle.dumps({"weight": [0.0] * 100}, protocol))
        assert identify(file).kind == "pickle"
        with pytest.raises(ValueError, match=r"is a pickle.*; use"):  # as the only file of a folder, too
            identify(tmp_path)
    torch.save({"weight": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    assert identify(file).kind == "pickle"


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path):
    file = tmp_path / "lora.safetensors"
    header = json.dumps({"lora_A.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(struct.pack("<Q", 0x0280) + header.ljust(0x0280) + bytes(4))
    assert file.read_bytes()[:2] == b"\x80\x02"
    assert identify(file).kind == "lora"


def test_damaged_folders_are_named(tmp_path):
    foreign.transformer().save_pretrained(tmp_path / "t", max_shard_size="1MB")
    shard = sorted((tmp_path / "t").glob("*.safetensors"))[1]
    shard.rename(tmp_path / "away")
    with pytest.raises(ValueError, match=rf"lacks 1 of \d+ shards: {shard.name}"):
        identify(tmp_path / "t")
    (tmp_path / "away").rename(shard)
    (tmp_path / "t" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        identify(tmp_path / "t")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="has no weights"):
        identify(tmp_path / "nothing")
    with pytest.raises(ValueError, match="does not exist"):
        identify(tmp_path / "missing")


@pytest.mark.parametrize(
    ("file", "key", "value", "sentence"),
    [
        ("transformer/config.json", "num_layers", "many", "num_layers is 'many'; expected an integer from 1"),
        ("transformer/config.json", "in_channels", 64, "in_channels 64 must equal"),
        ("vae/config.json", "act_fn", [], "has an invalid config.json for a FLUX.2 autoencoder"),
        ("text_encoder/config.json", "layer_types", 3, "layer_types is 3; expected a list of at most 512 names"),
        ("tokenizer/tokenizer_config.json", "eos_token", {}, "has no readable tokenizer"),
        ("tokenizer/tokenizer.json", "added_tokens", 3, "has no readable tokenizer"),
        ("text_encoder/model.safetensors.index.json", "weight_map", {"a": [1]}, "something else than file names"),
        ("text_encoder/model.safetensors.index.json", "weight_map", {"a": "../b"}, "something else than file names"),
        ("text_encoder/model.safetensors.index.json", "weight_map", [], "has no weight_map"),
        ("text_encoder/config.json", "quantization_config", [1], "quantization_config is [1]; expected an object"),
    ],
)
def test_wrong_values_in_json_files_are_one_sentence(tmp_path, file, key, value, sentence):
    foreign.write_pipeline(tmp_path / "Lens")
    path = tmp_path / "Lens" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    (finding,) = verify(tmp_path / "Lens", quick=True)
    assert sentence in finding.message
    assert "\n" not in finding.message


def test_names_and_shapes_are_strict(tmp_path):
    state = foreign.transformer().state_dict()
    state["transformer_blocks.0.extra"] = torch.zeros(3)
    state["proj_out.bias"] = torch.zeros(7)
    for name in ("img_in.bias", "txt_in.bias", "txt_in.weight", "norm_out.linear.bias"):
        del state[name]
    save_file(state, tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match="does not fit LensTransformer2DModel") as caught:
        open_transformer(tmp_path / "t.safetensors")
    message = str(caught.value)
    assert "missing 4 tensors (" in message
    assert "unexpected 1 tensor (transformer_blocks.0.extra)" in message
    assert "1 wrong shapes, first proj_out.bias [7] instead of [128]" in message


def test_scales_that_are_gone_are_named(tmp_path):
    foreign.write_mxfp4_encoder(tmp_path / "e", shards=False)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "e" / "model.safetensors")
    del state["model.layers.0.mlp.experts.down_proj_scales"]
    save_file(state, tmp_path / "e" / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks the scales model\.layers\.0\.mlp\.experts\.down_proj_scales"):
        open_text_encoder(tmp_path / "e")


# Opening


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformer_from_one_file(tmp_path, prefix, dtype):
    values = foreign.write_comfy_transformer(tmp_path / "t.safetensors", prefix)
    model = open_transformer(tmp_path / "t.safetensors", dtype)
    expect_state(model, values, dtype)
    assert not model.training
    assert model.config.num_attention_heads == 2
    if dtype == torch.float32:
        torch.testing.assert_close(foreign.velocity(model), foreign.velocity(foreign.transformer()))


def test_transformer_from_mxfp8(tmp_path):
    values = foreign.write_comfy_mxfp8(tmp_path / "t.safetensors")
    expect_state(open_transformer(tmp_path / "t.safetensors", torch.float32), values, torch.float32)


def test_transformer_from_fp8(tmp_path):
    values = {}
    stored = {}
    for name, tensor in foreign.transformer().state_dict().items():
        if tensor.ndim == 2:
            stored[name] = tensor.to(torch.float8_e4m3fn)
            stored[f"{name}_scale"] = torch.tensor(0.5)
            values[name] = stored[name].float() * 0.5
        else:
            stored[name] = values[name] = tensor
    save_file(stored, tmp_path / "t.safetensors")
    assert identify(tmp_path / "t.safetensors").quantisation == "fp8"
    expect_state(open_transformer(tmp_path / "t.safetensors", torch.float32), values, torch.float32)


def test_transformer_from_shards(tmp_path):
    foreign.transformer().save_pretrained(tmp_path, max_shard_size="1MB")
    expect_state(open_transformer(tmp_path, torch.float32), foreign.transformer().state_dict(), torch.float32)


def test_encoder_from_comfy_nvfp4(tmp_path):
    path = tmp_path / "gpt_oss_20b_nvfp4.safetensors"
    values = foreign.write_comfy_nvfp4_encoder(path)
    model = open_text_encoder(path, torch.float32)
    expect_state(model, values, torch.float32)
    assert not model.has_head
    with pytest.raises(ValueError, match=r"missing 1 tensor \(lm_head.weight\)"):
        open_text_encoder(path, torch.float32, keep_head=True)
    rotary = foreign.encoder().model.rotary_emb
    assert torch.equal(model.model.rotary_emb.inv_freq, rotary.inv_freq)
    assert model.model.rotary_emb.attention_scaling == rotary.attention_scaling


def test_encoder_from_stock_mxfp4_is_what_transformers_dequantises(tmp_path):
    from transformers import AutoModelForCausalLM

    values = foreign.write_mxfp4_encoder(tmp_path / "e")
    model = open_text_encoder(tmp_path / "e", torch.bfloat16)
    expect_state(model, values, torch.bfloat16)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "e", dtype=torch.bfloat16, experts_implementation="eager")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stock.state_dict()[name]), name
    with torch.no_grad():
        states = stock(IDS, output_hidden_states=True).hidden_states
        features = model(IDS)
    for ours, theirs in zip(features[:3], states[1:4], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_encoder_keeps_its_head_on_request(tmp_path):
    values = foreign.write_mxfp4_encoder(tmp_path / "e")
    (tmp_path / "e" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1]}))
    model = open_text_encoder(tmp_path / "e", torch.bfloat16, keep_head=True)
    expect_state(model, values, torch.bfloat16)
    assert model.has_head
    assert model.generation_config.eos_token_id == [2, 1]
    answer = model.generate(IDS, max_new_tokens=2, do_sample=False)
    assert answer.shape[1] > IDS.shape[1]


def test_what_no_feature_needs_is_not_read(tmp_path, monkeypatch):
    foreign.write_mxfp4_encoder(tmp_path / "e")
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    (tmp_path / "e" / "config.json").write_text(json.dumps({**config, "lens_selected_layers": [0, 1]}))
    layout = identify(tmp_path / "e")
    read = []
    load = sys.modules["leanlens.weights.load"]
    original = load.read_tensor
    names = {entry: name for name, entry in layout.entries.items()}
    monkeypatch.setattr(
        load, "read_tensor", lambda entry, *how, **more: read.append(names[entry]) or original(entry, *how, **more)
    )
    model = open_text_encoder(tmp_path / "e", torch.bfloat16)
    assert len(model.model.layers) == 2
    assert not [name for name in read if name.startswith(("lm_head", "model.norm", "model.layers.2", "model.layers.3"))]


def test_old_style_rope_settings_of_stock_configs(tmp_path):
    foreign.write_mxfp4_encoder(tmp_path / "e")
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    (tmp_path / "e" / "config.json").write_text(json.dumps(config))
    rotary = open_text_encoder(tmp_path / "e", torch.bfloat16).model.rotary_emb
    assert torch.equal(rotary.inv_freq, foreign.encoder().model.rotary_emb.inv_freq)
    assert rotary.attention_scaling == pytest.approx(1.34657, abs=1e-5)


def test_vae_from_names_of_black_forest_labs(tmp_path):
    values = foreign.write_bfl_vae(tmp_path / "flux2-vae.safetensors")
    model = open_vae(tmp_path / "flux2-vae.safetensors", torch.float32)
    expect_state(model, values, torch.float32)
    latents = torch.randn(1, 32, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(model.decode(latents).sample, foreign.vae().decode(latents).sample)


def test_vae_without_its_batch_counter(tmp_path):
    state = foreign.vae().state_dict()
    del state["bn.num_batches_tracked"]
    save_file(state, tmp_path / "vae.safetensors")
    assert open_vae(tmp_path / "vae.safetensors", torch.bfloat16).bn.num_batches_tracked == 0


def test_tokenizer_from_every_place(tmp_path):
    foreign.write_tokenizer(tmp_path / "tokenizer")
    foreign.write_comfy_nvfp4_encoder(tmp_path / "gpt_oss.safetensors")
    foreign.write_mxfp4_encoder(tmp_path / "gpt-oss-20b")
    places = ("tokenizer", "tokenizer/tokenizer.json", "gpt_oss.safetensors", "gpt-oss-20b")
    for tokenizer in (open_tokenizer(tmp_path / place) for place in places):
        batch = tokenizer(["a red cube", "cube"], padding=True)
        assert batch["input_ids"] == [[8, 9, 10], [10, 1, 1]]
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 2, 1)
    (tmp_path / "wrong.json").write_text(foreign.tokenizer_json().replace("<|return|>", "<|other|>"))
    with pytest.raises(ValueError, match=r"lacks the special tokens <\|return\|>"):
        open_tokenizer(tmp_path / "wrong.json")


@pytest.mark.parametrize("target", [torch.bfloat16, torch.float16, torch.float64])
def test_a_tensor_is_converted_while_it_is_read(tmp_path, monkeypatch, target):
    monkeypatch.setattr("leanlens.weights.shards.PIECE", 7)  # no divisor of its 60 elements
    weight = torch.randn(3, 4, 5)
    save_file({"weight": weight}, tmp_path / "a.safetensors")
    entry = read_header(tmp_path / "a.safetensors")[0]["weight"]
    assert torch.equal(read_tensor(entry, dtype=target), weight.to(target))
    assert torch.equal(read_tensor(entry, 1, target), weight[1].to(target))
    assert torch.equal(read_tensor(entry, dtype=torch.float32), weight)


def test_read_tensors_in_the_order_asked_for(tmp_path):
    values = foreign.write_comfy_transformer(tmp_path / "t.safetensors")
    layout = identify(tmp_path / "t.safetensors")
    wanted = ["proj_out.bias", "img_in.weight"]
    assert [name for name, _ in read_tensors(layout, names=wanted)] == wanted
    assert torch.equal(dict(read_tensors(layout))["img_in.weight"], values["img_in.weight"])
    with pytest.raises(ValueError, match=r"does not contain 1 tensor \(nothing\)"):
        list(read_tensors(layout, names=["nothing"]))
