"""From stock parts to a folder, to components, to another layout: the same numbers come out everywhere."""

import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.weights.assemble import assemble, components, convert, parts_beside
from leanlens.weights.layouts import identify
from leanlens.weights.load import open_text_encoder, open_transformer
from leanlens.weights.verify import require_sound, verify
from tests.weights import foreign

IDS = torch.tensor([[3, 8, 9, 10, 11, 12, 4]])


@pytest.fixture
def comfy(tmp_path):
    """A `models` tree as ComfyUI has it."""
    models = tmp_path / "ComfyUI" / "models"
    for name in ("diffusion_models", "text_encoders", "vae"):
        (models / name / "lens").mkdir(parents=True)
    values = {
        "mxfp8": foreign.write_comfy_mxfp8(models / "diffusion_models" / "lens_mxfp8.safetensors"),
        "transformer": foreign.write_comfy_transformer(models / "diffusion_models" / "lens" / "lens_bf16.safetensors"),
        "text_encoder": foreign.write_comfy_nvfp4_encoder(models / "text_encoders" / "gpt_oss_20b_nvfp4.safetensors"),
        "vae": foreign.write_bfl_vae(models / "vae" / "lens" / "flux2-vae.safetensors"),
    }
    return models, values


@pytest.fixture
def stock(tmp_path):
    """Stock parts: a single transformer file, the MXFP4 folder of GPT-OSS, the autoencoder's folder."""
    foreign.write_comfy_transformer(tmp_path / "lens.safetensors")
    foreign.write_mxfp4_encoder(tmp_path / "gpt-oss-20b")
    foreign.vae().save_pretrained(tmp_path / "flux2-vae")
    return {
        "transformer": tmp_path / "lens.safetensors",
        "text_encoder": tmp_path / "gpt-oss-20b",
        "vae": tmp_path / "flux2-vae",
    }


def expect_same(model):
    """Equal weights; equal answers up to the rounding of kernels that depend on where in memory a weight lies."""
    expected = foreign.transformer()
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(foreign.velocity(model), foreign.velocity(expected))


def test_assembled_folder_is_the_official_one(tmp_path, stock):
    out = assemble(tmp_path / "Lens", **stock)
    index = json.loads((out / "model_index.json").read_text())
    del index["_diffusers_version"]
    assert index == {
        "_class_name": "LensPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
        "text_encoder": ["transformers", "LensGptOssEncoder"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "LensTransformer2DModel"],
    }
    config = json.loads((out / "transformer" / "config.json").read_text())
    del config["_diffusers_version"]
    assert config == {
        "_class_name": "LensTransformer2DModel",
        "patch_size": 2,
        "in_channels": 128,
        "out_channels": 32,
        "num_layers": 2,
        "attention_head_dim": 64,
        "num_attention_heads": 2,
        "inner_dim": 128,
        "enc_hidden_dim": 64,
        "axes_dims_rope": [8, 28, 28],
        "gate_mlp": True,
        "rms_norm": True,
        "multi_layer_encoder_feature": True,
        "selected_layer_index": [5, 11, 17, 23],
    }
    scheduler = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["shift"], scheduler["use_dynamic_shifting"], scheduler["time_shift_type"]) == (
        3.0,
        True,
        "exponential",
    )
    encoder = json.loads((out / "text_encoder" / "config.json").read_text())
    assert encoder["architectures"] == ["LensGptOssEncoder"]
    assert encoder["quantization_config"]["quant_method"] == "mxfp4"
    assert identify(out).missing == ()
    assert "error" not in {finding.level for finding in verify(out)}


def test_untouched_files_are_linked(tmp_path, stock):
    out = assemble(tmp_path / "Lens", **stock)
    shard = "model-00001-of-00002.safetensors"
    pairs = (
        (stock["transformer"], out / "transformer" / "diffusion_pytorch_model.safetensors"),
        (stock["text_encoder"] / shard, out / "text_encoder" / shard),
        (stock["vae"] / "diffusion_pytorch_model.safetensors", out / "vae" / "diffusion_pytorch_model.safetensors"),
    )
    for source, target in pairs:
        assert os.path.samefile(source, target)


def test_assembled_folder_opens_with_the_libraries(tmp_path, stock):
    out = assemble(tmp_path / "Lens", **stock)
    transformer = LensTransformer2DModel.from_pretrained(out, subfolder="transformer")
    expect_same(transformer)
    encoder = LensGptOssEncoder.from_pretrained(out / "text_encoder", dtype=torch.bfloat16)
    ours = open_text_encoder(out / "text_encoder", torch.bfloat16)
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(encoder(IDS), ours(IDS), strict=True))


def test_components_of_every_origin_give_the_same_numbers(tmp_path, stock):
    """Parts -> folder -> components -> forward passes, against the tensors the parts were made of."""
    out = assemble(tmp_path / "Lens", **stock)
    values = foreign.write_mxfp4_encoder(tmp_path / "again")
    reference = foreign.encoder()
    reference.load_state_dict({name: tensor.float() for name, tensor in values.items()})
    for parts in (components(out, dtype=torch.float32), components(stock["transformer"], dtype=torch.float32, **stock)):
        assert set(parts) == {"scheduler", "vae", "text_encoder", "tokenizer", "transformer"}
        assert parts["scheduler"].config.shift == 3.0
        assert parts["tokenizer"]("a red cube")["input_ids"] == [8, 9, 10]
        expect_same(parts["transformer"])
        latents = torch.randn(1, 32, 4, 4)
        with torch.no_grad():
            features, expected = parts["text_encoder"](IDS), reference(IDS)
            torch.testing.assert_close(parts["vae"].decode(latents).sample, foreign.vae().decode(latents).sample)
        for ours, theirs in zip(features, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_components_beside_a_comfy_file(comfy):
    models, values = comfy
    file = models / "diffusion_models" / "lens_mxfp8.safetensors"
    assert parts_beside(file) == {
        "text_encoder": models / "text_encoders" / "gpt_oss_20b_nvfp4.safetensors",
        "vae": models / "vae" / "lens" / "flux2-vae.safetensors",
    }
    assert parts_beside(models / "diffusion_models" / "lens" / "lens_bf16.safetensors") == parts_beside(file)
    parts = components(file, dtype=torch.float32)
    reference = foreign.transformer()
    reference.load_state_dict({name: tensor.float() for name, tensor in values["mxfp8"].items()})
    torch.testing.assert_close(foreign.velocity(parts["transformer"]), foreign.velocity(reference))
    assert parts["tokenizer"]("a red cube")["input_ids"] == [8, 9, 10]


def test_a_missing_part_is_named_with_the_way_to_give_it(tmp_path, comfy, stock):
    models, _ = comfy
    with pytest.raises(ValueError, match=r"has no text_encoder: give text_encoder= \(--text-encoder\)"):
        components(stock["transformer"])
    with pytest.raises(ValueError, match=r"has no vae: give vae="):
        components(stock["transformer"], text_encoder=stock["text_encoder"])
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors.index.json"):
        (tmp_path / "bare" / name).write_bytes((stock["text_encoder"] / name).read_bytes())
    for file in stock["text_encoder"].glob("*.safetensors"):
        os.link(file, tmp_path / "bare" / file.name)
    with pytest.raises(ValueError, match=r"has no tokenizer: give tokenizer="):
        components(stock["transformer"], text_encoder=tmp_path / "bare", vae=stock["vae"])
    with pytest.raises(ValueError, match=r"give the transformer, and this as --vae"):
        components(stock["vae"])
    again = models / "vae" / "Flux2-other.safetensors"
    again.write_bytes((models / "vae" / "lens" / "flux2-vae.safetensors").read_bytes())
    with pytest.raises(ValueError, match="2 files that could be the vae"):
        components(models / "diffusion_models" / "lens_mxfp8.safetensors")
    assert components(models / "diffusion_models" / "lens_mxfp8.safetensors", vae=again)["vae"] is not None


def test_parts_that_do_not_fit_are_named(tmp_path, stock):
    LensTransformer2DModel(num_layers=1, num_attention_heads=1, enc_hidden_dim=32).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"gives features of width 64; the transformer .* takes 32"):
        assemble(tmp_path / "Lens", tmp_path / "narrow", stock["text_encoder"], stock["vae"])
    assert not (tmp_path / "Lens").exists()


def test_assemble_leaves_nothing_behind_when_it_fails(tmp_path, stock, monkeypatch):
    import leanlens.weights.assemble as module

    monkeypatch.setattr(module, "_write_tokenizer", lambda *args: (_ for _ in ()).throw(OSError("disk is full")))
    before = sorted(file.name for file in tmp_path.iterdir())
    with pytest.raises(OSError, match="disk is full"):
        assemble(tmp_path / "Lens", **stock)
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_assemble_from_comfy_files(tmp_path, comfy):
    models, values = comfy
    out = assemble(
        tmp_path / "Lens",
        models / "diffusion_models" / "lens_mxfp8.safetensors",
        models / "text_encoders" / "gpt_oss_20b_nvfp4.safetensors",
        models / "vae" / "lens" / "flux2-vae.safetensors",
    )
    assert "error" not in {finding.level for finding in verify(out)}
    state = load_file(out / "text_encoder" / "model.safetensors")
    for name, tensor in values["text_encoder"].items():
        if name in state:
            assert torch.equal(state[name], tensor.to(torch.bfloat16)), name
    config = json.loads((out / "text_encoder" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    vae = load_file(out / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(vae[name], tensor) for name, tensor in values["vae"].items())


def test_dtype_of_an_assembled_folder(tmp_path, stock):
    out = assemble(tmp_path / "Lens", **stock, dtype=torch.bfloat16)
    assert identify(out / "transformer").dtypes == {"BF16": 68}
    assert identify(out / "text_encoder").quantisation == "mxfp4"


def test_convert_transformer_there_and_back(tmp_path):
    foreign.transformer().save_pretrained(tmp_path / "folder", max_shard_size="1MB")
    convert(tmp_path / "folder", tmp_path / "one.safetensors", to="comfy")
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    state = load_file(tmp_path / "one.safetensors")
    expected = foreign.transformer().state_dict()
    assert list(state.keys() - expected.keys()) == []
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    convert(tmp_path / "one.safetensors", tmp_path / "back")
    back = LensTransformer2DModel.from_pretrained(tmp_path / "back")
    expect_same(back)


def test_convert_mxfp8_to_bf16(tmp_path):
    values = foreign.write_comfy_mxfp8(tmp_path / "mxfp8.safetensors")
    convert(tmp_path / "mxfp8.safetensors", tmp_path / "bf16.safetensors", to="comfy")
    layout = identify(tmp_path / "bf16.safetensors")
    assert (layout.quantisation, set(layout.dtypes)) == (None, {"BF16"})
    state = load_file(tmp_path / "bf16.safetensors")
    assert all(torch.equal(state[name], tensor.to(torch.bfloat16)) for name, tensor in values.items())


@pytest.mark.parametrize("origin", ["nvfp4", "mxfp4"])
def test_convert_encoder_to_a_folder(tmp_path, origin):
    if origin == "nvfp4":
        values = foreign.write_comfy_nvfp4_encoder(tmp_path / "source.safetensors")
        convert(tmp_path / "source.safetensors", tmp_path / "out")
    else:
        values = foreign.write_mxfp4_encoder(tmp_path / "source")
        convert(tmp_path / "source", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    model = LensGptOssEncoder.from_pretrained(tmp_path / "out", dtype=torch.bfloat16, lens_keep_head=origin == "mxfp4")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, values[name].to(torch.bfloat16)), name


def test_shards_are_split_and_indexed(tmp_path):
    foreign.write_comfy_transformer(tmp_path / "one.safetensors")
    convert(tmp_path / "one.safetensors", tmp_path / "folder", shard_bytes=2_000_000)
    files = sorted((tmp_path / "folder").glob("*.safetensors"))
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 2_100_000
    model = LensTransformer2DModel.from_pretrained(tmp_path / "folder")
    expect_same(model)
    expect_same(open_transformer(tmp_path / "folder", torch.float32))


def test_convert_refuses_what_it_cannot_make(tmp_path, stock):
    with pytest.raises(ValueError, match=r"one' does not end in \.safetensors"):
        convert(stock["transformer"], tmp_path / "one", to="comfy")
    assert not (tmp_path / "one").exists()
    with pytest.raises(ValueError, match="invalid to 'onnx'"):
        convert(stock["transformer"], tmp_path / "out", to="onnx")
    with pytest.raises(ValueError, match="only for a transformer"):
        convert(stock["vae"], tmp_path / "out", to="comfy")
    for to, out in (("diffusers", stock["vae"]), ("comfy", stock["transformer"])):
        with pytest.raises(ValueError, match="exists already"):
            convert(stock["transformer"], out, to=to)


# verify


def errors_of(path):
    """The errors alone: a toy tokenizer is not the published one, which is a warning."""
    return [str(finding) for finding in verify(path) if finding.level == "error"]


def test_verify_finds_values_that_are_not_finite(tmp_path):
    state = foreign.transformer().state_dict()
    state["proj_out.bias"][3] = float("nan")
    save_file(state, tmp_path / "t.safetensors")
    assert [finding.level for finding in verify(tmp_path / "t.safetensors", quick=True)] == ["ok"]
    (finding,) = verify(tmp_path / "t.safetensors")
    assert finding.level == "error"
    assert "proj_out.bias has 1 values that are not finite" in finding.message


def test_verify_finds_wrong_names_and_damage(tmp_path):
    state = foreign.transformer().state_dict()
    del state["proj_out.bias"]
    save_file(state, tmp_path / "t.safetensors")
    assert "missing 1 tensor (proj_out.bias)" in str(verify(tmp_path / "t.safetensors", quick=True)[0])
    (tmp_path / "empty.safetensors").touch()
    assert verify(tmp_path / "empty.safetensors")[0].level == "error"
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert "is a GGUF file" in verify(tmp_path / "x.gguf")[0].message


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("transformer/config.json", "transformer/config.json is missing; fetch it again"),
        ("vae/config.json", "vae/config.json is missing"),
        ("text_encoder", "text_encoder is missing"),
        ("scheduler", "scheduler is missing"),
    ],
)
def test_what_a_pipeline_lacks_is_an_error(tmp_path, gone, sentence):
    foreign.write_pipeline(tmp_path / "Lens")
    require_sound(identify(tmp_path / "Lens"))
    path = tmp_path / "Lens" / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    layout = identify(tmp_path / "Lens")
    with pytest.raises(ValueError, match=f"^{tmp_path}/Lens/{sentence}"):
        require_sound(layout)
    if path.suffix:
        with pytest.raises(ValueError, match=sentence):
            require_sound(layout.parts[path.parent.name])
    (error,) = errors_of(tmp_path / "Lens")
    assert error.startswith(f"error: {tmp_path}/Lens/{sentence}")


def test_verify_reports_every_broken_part_and_a_bad_list_of_sums(tmp_path):
    foreign.write_pipeline(tmp_path / "Lens")
    shard = tmp_path / "Lens" / "text_encoder" / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])
    (tmp_path / "Lens" / "vae" / "config.json").write_text("{")
    state = load_file(tmp_path / "Lens" / "transformer" / "diffusion_pytorch_model.safetensors")
    del state["proj_out.bias"]
    save_file(state, tmp_path / "Lens" / "transformer" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "Lens" / "SHA256SUMS").write_bytes(b"nonsense \xff\n")
    for place in (tmp_path / "Lens", tmp_path / "Lens" / "model_index.json"):
        findings = errors_of(place)
        assert len(findings) == 4
        for found, sentence in zip(
            findings,
            (
                "Lens: SHA256SUMS line 1 is not UTF-8 (byte 0xff)",
                "vae/config.json is not valid JSON",
                f"{shard.name} is cut short",
                "transformer: missing 1 tensor (proj_out.bias)",
            ),
            strict=True,
        ):
            assert sentence in found
            assert found.count(str(tmp_path)) == 1


def test_verify_compares_stated_checksums(tmp_path):
    from leanlens.files import sha256

    foreign.vae().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    (tmp_path / "SHA256SUMS").write_text(
        f"{sha256(file)}  {file.name}\n{'0' * 64} *config.json\n{'0' * 64}  gone.json\n"
    )
    messages = [str(finding) for finding in verify(tmp_path)]
    assert len(messages) == 2
    assert "config.json: its SHA-256 is not the one in SHA256SUMS" in messages[0]
    assert "gone.json: is listed in SHA256SUMS but missing" in messages[1]
    assert [finding.level for finding in verify(file)] == ["ok"]


def test_verify_warns_of_another_file_of_a_published_name(tmp_path):
    foreign.write_comfy_transformer(tmp_path / "lens_turbo_bf16.safetensors")
    (finding,) = verify(tmp_path / "lens_turbo_bf16.safetensors")
    assert (finding.level, "not that of the published file" in finding.message) == ("warning", True)
