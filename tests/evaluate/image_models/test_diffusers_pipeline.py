"""Pipelines of other models, of diffusers' own classes at toy size, are opened by folder and draw."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from leanlens.evaluate.image_models import diffusers_pipeline
from leanlens.evaluate.image_models.diffusers_pipeline import DiffusersModel
from leanlens.evaluate.image_models.spec import ModelSpec, parse_model
from leanlens.evaluate.suite import ImageFailed, Item
from leanlens.pipeline.request import LoraChoice
from tests.evaluate.image_models import tiny_pipelines

CUBE = Item("0", "a red cube on a wooden table", size=(64, 64))
SLOW = ("Flux2Pipeline", "Flux2KleinPipeline", "QwenImagePipeline", "SanaPipeline", "PixArtSigmaPipeline",
        "PRXPipeline", "StableDiffusionXLPipeline")  # fmt: skip


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory):
    return tiny_pipelines.save(tiny_pipelines.flux, tmp_path_factory.mktemp("pipelines") / "tiny-flux")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Bars off, and warnings of other libraries at import no errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def opened(folder, options="steps=2", **arguments):
    return DiffusersModel(parse_model(f"{folder},device=cpu,dtype=float32,{options}"), **arguments)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.long if kind in SLOW else ()) for kind in tiny_pipelines.KINDS]
)
def test_a_pipeline_of_each_class_draws_the_same_image_again(kind, tmp_path):
    """And another seed, and another prompt, draw others; the call without this library draws the same bytes."""
    folder = tiny_pipelines.save(tiny_pipelines.KINDS[kind], tmp_path / kind)
    model = opened(folder)
    drawn = model.draw(CUBE, 5)
    assert drawn.image.size == (64, 64)
    assert drawn.image.mode == "RGB"
    assert drawn.seconds > 0
    again = opened(folder)
    assert again.identity() == model.identity()
    assert again.draw(CUBE, 5).image.tobytes() == drawn.image.tobytes()
    assert again.draw(CUBE, 6).image.tobytes() != drawn.image.tobytes()
    assert model.identity()["class"] == kind
    costs = model.costs()
    assert costs["weight_bytes"] >= 4 * costs["parameters"] > 0
    settings = {name: value for name, value in model.identity()["settings"].items() if name != "size"}
    plain = model._pipeline(
        prompt=CUBE.prompt, width=64, height=64, generator=torch.Generator("cpu").manual_seed(5), **settings
    ).images[0]
    assert plain.tobytes() == drawn.image.tobytes()


def test_identity_tells_weights_configurations_and_settings_apart(flux_folder, tmp_path):
    first = opened(flux_folder).identity()
    assert first["settings"]["guidance_scale"] == 3.5
    assert first["settings"]["max_sequence_length"] == 512
    assert first["settings_source"] == "model card of FLUX.1-dev"
    assert first["source"] == "tiny-flux"
    assert str(flux_folder) not in json.dumps(first)
    assert {"diffusers", "transformers", "torch", "dtype", "fingerprint"} <= set(first)
    other = tmp_path / "tiny-flux"
    shutil.copytree(flux_folder, other)
    assert opened(other).identity() == first
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift": 3.0}))
    changed = opened(other).identity()
    assert changed["configs"] != first["configs"]
    assert changed["fingerprint"] == first["fingerprint"]
    weights = other / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-8:] = bytes(8)
    weights.write_bytes(data)
    assert opened(other).identity()["fingerprint"] != first["fingerprint"]
    assert opened(flux_folder, "steps=3").identity() != first


def test_settings_reach_the_call(flux_folder, monkeypatch):
    model = opened(flux_folder, "steps=3,cfg=2,true_cfg=4,negative=grey,tokens=64,size=32x64")
    fake = Fake(Result(0.5, shape=(1, 64, 32, 3)))
    monkeypatch.setattr(model, "_pipeline", fake)
    assert model.draw(CUBE, 1).image.size == (32, 64)
    arguments = {name: value for name, value in fake.arguments.items() if name != "generator"}
    assert arguments == {
        "prompt": CUBE.prompt, "num_inference_steps": 3, "guidance_scale": 2.0, "true_cfg_scale": 4.0,
        "negative_prompt": "grey", "max_sequence_length": 64, "width": 32, "height": 64, "output_type": "np",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("negative=grey", "negative without effect; give true_cfg above 1"),
        ("offload=some", "invalid offload 'some' for a diffusers pipeline: expected one of none, model, sequential"),
        ("offload=model", "offload 'model' needs a GPU"),
        ("variant=fp16", "cannot be opened as a diffusers pipeline: .*variant=fp16"),
    ],
)
def test_settings_that_do_not_fit_are_errors(flux_folder, options, message):
    with pytest.raises(ValueError, match=message):
        opened(flux_folder, f"steps=1,{options}")


def test_a_prompt_that_is_cut_is_told(flux_folder, caplog):
    model = opened(flux_folder, "steps=1,tokens=64")
    with caplog.at_level(logging.WARNING, "leanlens"):
        drawn = model.draw(Item("7", "long " * 40, size=(64, 64)), 0)
    assert drawn.notes["truncated"]["tokens"] > 160
    assert drawn.notes["truncated"]["read"] in (64, 77)
    assert "prompt 7 has" in caplog.text
    assert model.draw(CUBE, 0).notes == {}
    assert type(model._pipeline.tokenizer).__name__ == "CLIPTokenizer"
    assert type(model._pipeline.tokenizer).__module__.startswith("transformers")


class Result:
    def __init__(self, value, shape=(1, 64, 64, 3), nsfw=None):
        self.images, self.nsfw_content_detected = np.full(shape, value, dtype=np.float32), nsfw


class Fake:
    """A pipeline whose calls end in one way."""

    def __init__(self, result):
        self.components, self.result = {}, result

    def __call__(self, **arguments):
        self.arguments = arguments
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Result(np.nan), "not numbers"),
        (Result(0.0), "black all over"),
        (Result(0.0, nsfw=[True]), "refused: the pipeline's safety checker"),
        (Result(0.5, shape=(1, 48, 64, 3)), "64 x 48 pixels; asked for were 64 x 64"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "out of memory: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: Default"),
    ],
)
def test_an_image_that_no_judge_may_see_has_failed(flux_folder, monkeypatch, result, reason):
    model = opened(flux_folder)

    monkeypatch.setattr(model, "_pipeline", Fake(result))
    with pytest.raises(ImageFailed, match=reason):
        model.draw(CUBE, 0)


def test_an_error_of_another_kind_is_no_failed_image(flux_folder, monkeypatch):
    model = opened(flux_folder)

    monkeypatch.setattr(model, "_pipeline", Fake(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1"):
        model.draw(CUBE, 0)


def test_flop_are_counted_for_one_image_whatever_was_drawn(flux_folder):
    """Two steps cost one step twice, and what is around them once."""
    costs = [opened(flux_folder, f"steps={steps},size=64", count_flop=True).costs()["flop"] for steps in (1, 2, 3)]
    assert costs[2] - costs[1] == costs[1] - costs[0] > 0
    assert opened(flux_folder).costs()["flop"] is None


def test_attention_on_the_processor_is_counted():
    from torch.utils.flop_counter import FlopCounterMode

    mapping = diffusers_pipeline._attention_on_the_processor()
    query = torch.randn(1, 2, 8, 16)
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * 2 * 2 * 8 * 8 * 16


def test_a_lora_acts_by_its_scale(flux_folder, tmp_path):
    from safetensors.torch import save_file

    name = "transformer.single_transformer_blocks.0.attn.to_q"
    torch.manual_seed(1)
    matrices = {f"{name}.lora_A.weight": torch.randn(4, 16), f"{name}.lora_B.weight": torch.randn(16, 4)}
    save_file(matrices, tmp_path / "my.safetensors")
    images = [
        opened(f"{flux_folder}{lora}").draw(CUBE, 0).image.tobytes()
        for lora in ("", f"+{tmp_path}/my.safetensors:0", f"+{tmp_path}/my.safetensors:4")
    ]
    assert images[0] == images[1] != images[2]
    identity = opened(f"{flux_folder}+{tmp_path}/my.safetensors:4").identity()
    assert identity["loras"][0]["scale"] == 4
    assert len(identity["loras"][0]["sha256"]) == 64


@pytest.mark.parametrize("library", ["os", "my_module", "diffusers.pipelines"])
def test_code_from_elsewhere_is_refused(flux_folder, tmp_path, library):
    folder = tmp_path / "model"
    shutil.copytree(flux_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": [library, "system"]}))
    with pytest.raises(ValueError, match=r"vae is of .*expected classes of diffusers and transformers alone"):
        opened(folder)


def test_pickled_weights_are_never_read(flux_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(flux_folder, folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="cannot be opened as a diffusers pipeline"):
        opened(folder)


def test_a_pipeline_that_draws_no_image_from_a_prompt_is_refused(flux_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(flux_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "NoSuchPipeline"}))
    with pytest.raises(ValueError, match="cannot be opened as a diffusers pipeline"):
        opened(folder)
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="names no _class_name"):
        DiffusersModel(ModelSpec("x", str(folder)), device="cpu")


def test_a_repository_is_located_by_the_hub(flux_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "leanlens.evaluate.image_models.diffusers_pipeline.locate_pipeline",
        lambda *arguments: asked.append(arguments) or flux_folder,
    )
    model = DiffusersModel(parse_model("owner/flux,revision=main,steps=1,device=cpu,dtype=float32"))
    assert asked == [("owner/flux", "main", None)]
    assert model.identity()["source"] == "flux"


def test_a_lora_needs_safetensors(flux_folder, tmp_path):
    (tmp_path / "a.bin").touch()
    spec = ModelSpec("x", str(flux_folder), (LoraChoice(path=str(tmp_path / "a.bin"), scale=1.0),))
    with pytest.raises(ValueError, match=r"expected a file that ends in \.safetensors"):
        DiffusersModel(spec, device="cpu", dtype="float32")


def test_close_frees_the_pipeline(flux_folder):
    model = opened(flux_folder)
    model.close()
    assert model._pipeline is None
