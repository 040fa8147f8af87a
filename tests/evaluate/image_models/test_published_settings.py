"""The settings that models were published with."""

from types import SimpleNamespace

import pytest

from leanlens.evaluate.image_models.published_settings import published_settings


def pipeline(kind, config=None, **transformer):
    made = type(kind, (), {})()
    made.config = config or {}
    made.transformer = SimpleNamespace(config=SimpleNamespace(**transformer))
    return made


@pytest.mark.parametrize(
    ("opened", "name", "settings"),
    [
        (pipeline("FluxPipeline", guidance_embeds=True), "FLUX.1-dev", {"steps": 50, "cfg": 3.5, "tokens": 512}),
        (pipeline("FluxPipeline", guidance_embeds=False), "mine", {"steps": 4, "cfg": 0.0, "tokens": 256}),
        (pipeline("Flux2Pipeline"), "FLUX.2-dev", {"steps": 50, "cfg": 4.0}),
        (pipeline("Flux2KleinPipeline", {"is_distilled": True}), "klein", {"steps": 4, "cfg": 1.0}),
        (pipeline("Flux2KleinPipeline", {"is_distilled": False}), "klein", {"steps": 50, "cfg": 4.0}),
        (pipeline("StableDiffusion3Pipeline", num_layers=38), "sd3.5-large", {"steps": 28, "cfg": 3.5}),
        (pipeline("StableDiffusion3Pipeline", num_layers=38), "3.5-Large-Turbo", {"steps": 4, "cfg": 0.0}),
        (pipeline("StableDiffusion3Pipeline", dual_attention_layers=(0,)), "medium", {"steps": 40, "cfg": 4.5}),
        (pipeline("StableDiffusion3Pipeline", num_layers=24), "sd3-medium", {}),
        (pipeline("ZImagePipeline"), "Z-Image-Turbo", {"steps": 9, "cfg": 0.0}),
        (pipeline("ZImagePipeline"), "Z-Image", {"steps": 50, "cfg": 4.0}),
        (pipeline("QwenImagePipeline"), "Qwen-Image", {"steps": 50, "true_cfg": 4.0, "negative": " "}),
        (pipeline("PRXPipeline"), "prx-512-t2i-sft-distilled", {"steps": 8, "cfg": 1.0}),
        (pipeline("PRXPipeline"), "prx-512-t2i-sft", {"steps": 28, "cfg": 5.0}),
        (pipeline("PixArtSigmaPipeline"), "pixart", {}),
    ],
)
def test_the_settings_of_a_model(opened, name, settings):
    found, source = published_settings(opened, name)
    assert found == settings
    assert source.startswith(("model card of", "diffusers' page of", "defaults of"))


def test_a_row_is_not_changed_by_its_reader():
    published_settings(pipeline("Flux2Pipeline"), "x")[0]["steps"] = 1
    assert published_settings(pipeline("Flux2Pipeline"), "x")[0]["steps"] == 50
