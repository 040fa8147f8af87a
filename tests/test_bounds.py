"""Configurations that ask for too much, or for code, are refused by the name of the file and the key."""

import json
import time
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

import leanlens
from leanlens.bounds import check_against_weights, check_config, check_index
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.weights.layouts import identify
from leanlens.weights.verify import verify
from tests.weights import foreign

NANO = Path(leanlens.__file__).parent / "nano"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bounds") / "Lens"
    foreign.write_pipeline(path)
    return path


ABSURD = {
    "transformer/config.json": {
        "num_layers": (10**6, 0, -1, 2.0, True, "2", [2], {}),
        "num_attention_heads": (10**9, -2),
        "attention_head_dim": (10**9,),
        "enc_hidden_dim": (10**9, 64.5),
        "in_channels": (10**9,),
        "patch_size": (10**4,),
        "axes_dims_rope": ([2] * 10**5, [], [8, 28, 2.5], 64),
        "selected_layer_index": (list(range(10**5)), [-1]),
    },
    "text_encoder/config.json": {
        "num_hidden_layers": (10**6,),
        "vocab_size": (10**9,),
        "hidden_size": (10**7, -64),
        "intermediate_size": (10**9,),
        "num_local_experts": (10**6,),
        "layer_types": (["full_attention"] * 10**5,),
        "_attn_implementation": ("owner/kernel", "flash_attention_2", ["a"]),
        "attn_implementation": ("owner/kernel@main:flash",),
        "experts_implementation": ("owner/kernel",),
        "auto_map": ({"AutoModel": "modeling.Evil"},),
        "trust_remote_code": (True,),
        "quantization_config": ({"quant_method": "owner/code"}, {"quant_method": ["a"]}, {}, 3),
    },
    "vae/config.json": {
        "block_out_channels": ([32] * 1000, [10**9], []),
        "layers_per_block": (10**6,),
        "latent_channels": (10**9,),
        "sample_size": (10**9, 1.5),
        "down_block_types": (["DownEncoderBlock2D"] * 10**4,),
    },
    "scheduler/scheduler_config.json": {
        "num_train_timesteps": (10**10, 0, -1, 1000.0),
        "shift": (0, 1e300, "3"),
        "base_image_seq_len": (10**12,),
    },
    "tokenizer/tokenizer_config.json": {"auto_map": ({"AutoTokenizer": ["tok.Evil", None]},)},
    "model_index.json": {
        "transformer": (["os", "system"], ["diffusers", "UNet2DModel"], ["diffusers"], [1, 2],
                        ["evil", "LensTransformer2DModel"]),
        "text_encoder": (["transformers", "pipeline"], ["subprocess", "Popen"], ["transformers", "AutoModel.from_x"]),
        "tokenizer": (["transformers", "AutoProcessor"],),
        "scheduler": (["diffusers", "DDPMScheduler"],),
        "vae": (["diffusers", "AutoencoderKL"],),
        "safety_checker": (["my_module", "Checker"],),
        "trust_remote_code": (True,),
    },
}  # fmt: skip
CASES = [(file, key, value) for file, keys in ABSURD.items() for key, values in keys.items() for value in values]


@pytest.mark.parametrize(("file", "key", "value"), CASES, ids=lambda value: str(value)[:30])
def test_a_folder_that_asks_for_too_much_is_refused_at_once(file, key, value, folder, monkeypatch):
    path = folder / file
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), key: value}))
    try:
        began = time.process_time()
        (finding,) = [found for found in verify(folder, quick=True) if found.level == "error"]
        with pytest.raises(ValueError, match=f"json: {key} is ") as caught:
            identify(folder)
        with pytest.raises(ValueError, match=f"invalid .*{file}: {key} is "):
            LensPipeline.from_pretrained(folder)
        assert time.process_time() - began < 3
    finally:
        path.write_text(before)
    for message in (finding.message, str(caught.value)):
        assert str(path) in message
        assert len(message) < len(str(path)) + 300


def test_what_is_published_is_accepted():
    for path in NANO.rglob("*config*.json"):
        assert check_config(json.loads(path.read_text()), path)
    index = json.loads((NANO / "model_index.json").read_text())
    assert check_index(index, "it") is index
    official = {
        "_class_name": "LensPipeline",
        "text_encoder": ["transformers", "LensGptOssEncoder"],
        "tokenizer": [None, None],
    }
    assert check_index(official, "it") is official
    for key, value in (
        ("patch_size", [2, 2]),
        ("sliding_window", None),
        ("_attn_implementation", "sdpa"),
        ("auto_map", None),
    ):
        assert check_config({key: value}, "it") == {key: value}


def test_nested_configurations_are_looked_into():
    with pytest.raises(ValueError, match="invalid it: hidden_size is 1000000000; expected an integer"):
        check_config({"text_config": {"inner": {"hidden_size": 10**9}}}, "it")
    with pytest.raises(ValueError, match="invalid it: expected a JSON object"):
        check_config([1], "it")


def test_the_network_itself_refuses_absurd_sizes():
    began = time.process_time()
    with pytest.raises(ValueError, match="invalid transformer configuration: num_layers is 1000000"):
        LensTransformer2DModel(num_layers=10**6)
    with pytest.raises(ValueError, match="attention_head_dim is 200000"):
        LensTransformer2DModel(axes_dims_rope=(2,) * 10**5, attention_head_dim=2 * 10**5)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("kind", "part", "key", "value"),
    [
        (LensTransformer2DModel, "transformer", "num_layers", 10**6),
        (LensGptOssEncoder, "text_encoder", "num_hidden_layers", 10**6),
        (LensGptOssEncoder, "text_encoder", "_attn_implementation", "owner/kernel"),
        (LensGptOssEncoder, "text_encoder", "auto_map", {"AutoModel": "evil.Model"}),
    ],
)
def test_a_class_that_is_opened_by_itself_refuses_too(kind, part, key, value, folder):
    path = folder / part / "config.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), key: value}))
    try:
        for place, options in ((folder, {"subfolder": part}), (folder / part, {})):
            with pytest.raises(ValueError, match=f"config.json: {key} is "):
                kind.from_pretrained(place, **options)
        path.write_text("[" * 100_000)
        with pytest.raises(ValueError, match=r"config\.json is nested too deeply"):
            kind.from_pretrained(folder / part)
    finally:
        path.write_text(before)


def test_a_language_model_that_is_larger_than_its_files_is_refused(tmp_path):
    small = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    torch.manual_seed(0)
    BertModel(small).save_pretrained(tmp_path)
    assert identify(tmp_path).component == "language_model"
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"num_hidden_layers": 400}, "num_hidden_layers is 400; its weights have 2"),
        ({"vocab_size": 4_000_000}, "vocab_size 4000000 need 128,000,000 weights; its files have "),
        ({"intermediate_size": 500_000}, "intermediate_size 500000 and vocab_size 50 need"),
    ):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            identify(tmp_path)
    path.write_text(json.dumps(config))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/model"}')
    with pytest.raises(ValueError, match=r"contains an adapter_config\.json next to its config\.json; remove it"):
        identify(tmp_path)
    check_against_weights({}, 10, None, "it")


@pytest.mark.parametrize("name", ABSURD)
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', "[1]", '{"a": 1, "a": 2}', "\x00", ""])
def test_broken_json_in_any_part_is_one_sentence(name, text, folder):
    path = folder / name
    before = path.read_text()
    path.write_text(text)
    try:
        with pytest.raises(ValueError, match=name) as caught:
            LensPipeline.from_pretrained(folder)
    finally:
        path.write_text(before)
    assert "\n" not in str(caught.value)
