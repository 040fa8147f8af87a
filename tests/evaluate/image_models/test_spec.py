"""What --model says, taken apart without tearing paths that exist."""

import json

import pytest

from leanlens.evaluate.image_models.spec import KEYS, kind_of_index, parse_model, parse_models, parse_size
from leanlens.pipeline.request import LoraChoice


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_with_a_lora_and_settings(here):
    (here / "my.safetensors").touch()
    spec = parse_model("mine=nano+my.safetensors:0.8,steps=10,cfg=2.5,negative=blurry, ugly,size=512x256")
    assert (spec.name, spec.source, spec.kind) == ("mine", "nano", "lens")
    assert spec.loras == (LoraChoice(path="my.safetensors", scale=0.8),)
    assert spec.options == {"steps": 10, "cfg": 2.5, "negative": "blurry, ugly", "size": (512, 256)}


def test_several_loras_and_their_default_name(here):
    for name in ("a.safetensors", "b.safetensors"):
        (here / name).touch()
    spec = parse_model("nano+a.safetensors+b.safetensors:-0.5")
    assert [lora.scale for lora in spec.loras] == [1.0, -0.5]
    assert spec.name == "nano+a+b:-0.5"


@pytest.mark.parametrize(
    "path",
    ["a b", "a+b", "a,steps=3", "a=b", "C:\\models\\lens", "x=y+z,w=1", "a:0.5", "deep+er/in=side,cfg=1", "ends "],
)
def test_a_path_that_exists_is_never_torn_apart(here, path):
    (here / path).mkdir(parents=True)
    assert parse_model(path).source == path
    assert parse_model(f"{path},steps=4").options == {"steps": 4}
    named = parse_model(f"mine={path},steps=4")
    assert (named.name, named.source) == ("mine", path)


@pytest.mark.parametrize(
    "path", ["C:\\loras\\x.safetensors", "a+b.safetensors", "a,b:2.safetensors", "k=v.safetensors"]
)
@pytest.mark.parametrize(("suffix", "scale"), [("", 1.0), (":0.8", 0.8), (":-1", -1.0), (":1e-1", 0.1)])
def test_a_loras_path_that_exists_is_never_torn_apart(here, path, suffix, scale):
    (here / path).touch()
    spec = parse_model(f"nano+{path}{suffix},cfg=3")
    assert spec.loras == (LoraChoice(path=path, scale=scale),)
    assert (spec.source, spec.options) == ("nano", {"cfg": 3.0})


def test_the_longest_path_that_exists_is_taken(here):
    (here / "a").mkdir()
    assert parse_model("a,steps=3").options == {"steps": 3}
    (here / "a,steps=3").mkdir()
    assert parse_model("a,steps=3").source == "a,steps=3"


def test_an_endpoint(here):
    spec = parse_model("theirs=https://host:8000/v1#black-forest+labs/flux=2,key=THEIR_KEY,workers=3,rpm=30,seeds=off")
    assert (spec.name, spec.kind) == ("theirs", "endpoint")
    assert spec.source == "https://host:8000/v1#black-forest+labs/flux=2"
    assert spec.options == {"key": "THEIR_KEY", "workers": 3, "rpm": 30.0, "seeds": False}
    assert parse_model("http://host/v1#org/flux").name == "flux"


def test_the_kind_of_a_folder_and_of_a_repository(here):
    for folder, named in (("lens", "LensPipeline"), ("flux", "FluxPipeline")):
        (here / folder).mkdir()
        (here / folder / "model_index.json").write_text(json.dumps({"_class_name": named}))
    assert parse_model("lens").kind == "lens"
    assert parse_model("./flux").kind == "diffusers"
    assert parse_model("owner/name").kind is None
    assert parse_model("owner/name,quant=int8,variant=fp16").options == {"quant": "int8", "variant": "fp16"}
    assert kind_of_index(here / "missing.json") == "lens"
    (here / "broken.json").write_text("[]")
    with pytest.raises(ValueError, match="names no _class_name"):
        kind_of_index(here / "broken.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"invalid model '': expected \[NAME=\]SOURCE"),
        ("nano,step=4", "there is no key 'step'; the nearest is 'steps'"),
        ("nano,zzz=4", "there is no key 'zzz'; there are steps, cfg"),
        ("nano,steps=4,steps=5", "steps is given twice"),
        ("nano,steps", "'steps' is no KEY=VALUE"),
        ("nano,steps=0", "invalid steps '0'"),
        ("nano,steps=1001", "invalid num_inference_steps 1001"),
        ("nano,cfg=much", "invalid cfg 'much'"),
        ("nano,cfg=nan", "invalid guidance_scale nan"),
        ("nano,size=12", "invalid size '12'"),
        ("nano,compile=yes", "invalid compile 'yes': expected on or off"),
        ("nano,device=", "invalid device '': expected a value"),
        ("nano,workers=2", "invalid key 'workers' for nano, a leanlens model: expected steps, cfg"),
        ("nano,true_cfg=2", "invalid key 'true_cfg' for nano"),
        ("nano+missing.safetensors:0.8", r"there is no LoRA 'missing.safetensors:0.8'"),
        ("nowhere", "unknown model 'nowhere': expected a local file or folder, a preset"),
        ("C:\\gone", "unknown model"),
        ("http://host/v1", "expected the model there after the address: http://host/v1#MODEL"),
        ("http://host/v1#m,rpm=0", "invalid rpm '0': expected a positive number"),
        ("http://host/v1#m,steps=3", "invalid key 'steps' for m, an images endpoint: expected size, key"),
    ],
)
def test_what_is_wrong_is_named(here, text, message):
    with pytest.raises(ValueError, match=message):
        parse_model(text)


def test_a_scale_that_is_no_number(here):
    (here / "a.safetensors").touch()
    with pytest.raises(ValueError, match="'strong' is no scale; expected a number from -100 to 100"):
        parse_model("nano+a.safetensors:strong")
    with pytest.raises(ValueError, match="'nan' is no scale"):
        parse_model("nano+a.safetensors:nan")


def test_names_are_unique_and_short(here):
    for folder in ("one/model", "two/model"):
        (here / folder).mkdir(parents=True)
    names = [spec.name for spec in parse_models(["nano", "nano,steps=10", "nano,steps=10,cfg=1.5", "toy"])]
    assert names == ["nano", "nano steps=10", "nano steps=10 cfg=1.5", "toy"]
    assert [spec.name for spec in parse_models(["nano,size=256x512,compile=on", "nano,compile=off"])] == [
        "nano size=256x512 compile=on",
        "nano compile=off",
    ]
    with pytest.raises(ValueError, match="two models have the name 'model'; give each its own: --model 'first=one/mo"):
        parse_models(["one/model", "two/model"])
    with pytest.raises(ValueError, match=r"two models have the name 'a'.*--model 'second=toy'"):
        parse_models(["a=nano", "a=toy"])
    assert [spec.name for spec in parse_models(["a=nano", "nano"])] == ["a", "nano"]


def test_sizes():
    assert parse_size("1024") == (1024, 1024)
    assert parse_size("1024×768") == (1024, 768)


def test_every_key_belongs_to_a_kind():
    assert all(kinds and set(kinds) <= {"lens", "diffusers", "endpoint"} for kinds in KEYS.values())
