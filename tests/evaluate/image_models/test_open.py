"""Models of every kind are opened by what --model says."""

import json

import pytest

from leanlens.evaluate.image_models import open as opening
from leanlens.evaluate.image_models.diffusers_pipeline import DiffusersModel
from leanlens.evaluate.image_models.images_endpoint import ImagesEndpoint
from leanlens.evaluate.image_models.lens import LensModel
from leanlens.evaluate.image_models.open import open_image_model, resolve_kind
from leanlens.evaluate.image_models.spec import parse_model
from leanlens.evaluate.suite import Item
from leanlens.plan.options import LoadOptions
from tests.evaluate.image_models import tiny_pipelines
from tests.mock_endpoint import Reply, mock_endpoint

ON_CPU = LoadOptions(device="cpu", dtype="float32")


def test_a_model_of_this_library_with_its_settings():
    model = open_image_model(parse_model("mine=toy,steps=2,negative=grey,size=64"), ON_CPU, steps=9, cfg=2.5)
    assert isinstance(model, LensModel)
    assert (model.name, model.steps, model.guidance, model.size) == ("mine", 2, 2.5, (64, 64))


def test_a_language_model_rewrites_for_a_model_of_this_library(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caption = "Two cats sleep on a worn green sofa by a tall window in soft morning light."
    with mock_endpoint(lambda body, count: Reply(caption)) as server:
        address = f"{server.url}#writer"
        model = open_image_model(parse_model("toy"), ON_CPU, reason=address, system_prompt="geneval")
        assert isinstance(model, LensModel)
        assert model.request(Item("1", "two cats"), 3).prompt == caption
        assert model.request(Item("1", "two cats"), 3).prompt == caption
        assert len(server.bodies) == 1
    assert model.identity()["reason"].startswith("endpoint writer, prompt geneval (for the benchmark GenEval) sha256:")


def test_a_pipeline_of_diffusers(tmp_path):
    folder = tiny_pipelines.save(tiny_pipelines.flux, tmp_path / "flux")
    model = open_image_model(parse_model(f"{folder},cfg=2"), ON_CPU, steps=3, count_flop=False)
    assert isinstance(model, DiffusersModel)
    assert model.identity()["settings"]["num_inference_steps"] == 3
    assert model.identity()["settings"]["guidance_scale"] == 2
    with pytest.raises(ValueError, match="it has no reasoner; expected off"):
        open_image_model(parse_model(str(folder)), ON_CPU, reason="default")


def test_an_endpoint():
    assert isinstance(open_image_model(parse_model("http://127.0.0.1:9/v1#flux")), ImagesEndpoint)


def test_the_kind_of_a_repository_is_that_of_its_index(tmp_path, monkeypatch):
    asked = []

    def locate(repository, file, **options):
        asked.append((repository, file, options))
        return tmp_path / "model_index.json"

    monkeypatch.setattr(opening, "locate_weights", locate)
    for named, kind in (("FluxPipeline", "diffusers"), ("LensPipeline", "lens")):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": named}))
        assert resolve_kind(parse_model("owner/name,revision=v1")) == kind
    assert asked[0] == ("owner/name", "model_index.json", {"revision": "v1"})
    with pytest.raises(ValueError, match="invalid key 'revision' for name, a leanlens model"):
        open_image_model(parse_model("owner/name,revision=v1"))
