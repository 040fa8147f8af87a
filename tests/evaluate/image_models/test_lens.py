import numpy as np
import pytest

from leanlens.evaluate.draw import draw_items, image_key
from leanlens.evaluate.image_models.lens import LensModel
from leanlens.evaluate.suite import ImageFailed, Item
from leanlens.pipeline.draw import draw
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import ImageRequest


class Loud:
    """A reasoner that says the prompt louder, and for each seed otherwise."""

    source = "loud 1"

    def __call__(self, asks):
        return [
            Reasoned(original=ask.prompt, prompt=f"{ask.prompt.upper()}! {ask.seed}", source=self.source)
            for ask in asks
        ]


def test_prompts_are_drawn_as_every_interface_draws_them(toy, tmp_path):
    item = Item("a", "duck", size=(64, 64))
    written = LensModel(toy, "written", Loud(), steps=1)
    (_, (image,)) = draw_items(written, [Item("b", "frog", size=(64, 64)), item], 1, 3, tmp_path)
    request = ImageRequest.checked(
        prompt="DUCK! 4", width=64, height=64, num_inference_steps=1, guidance_scale=written.guidance, seed=4
    )
    np.testing.assert_array_equal(draw(toy, request).image, image.open())
    assert image.reasoned["original"] == "duck"
    assert image.seconds > 0
    keys = [LensModel(toy, steps=1), written, LensModel(toy, steps=2), LensModel(toy, steps=1, guidance=3.0)]
    assert len({image_key(one.identity(), item, 4) for one in keys}) == 4


def test_an_item_without_a_size_gets_the_models_own(toy):
    side = toy.pipeline.vae.config.sample_size
    assert LensModel(toy, steps=1).request(Item("a", "duck"), 0).width == side


def test_what_cannot_be_drawn_says_why(toy):
    with pytest.raises(ImageFailed, match="width"):
        LensModel(toy, steps=1).draw(Item("a", "duck", size=(63, 64)), 0)


def test_costs_are_those_of_all_parts(toy):
    costs = LensModel(toy).costs()
    whole = sum(one.numel() for part in (toy.pipeline.transformer, toy.pipeline.vae, toy.pipeline.text_encoder)
                for one in part.parameters())  # fmt: skip
    assert costs["parameters"] == whole
    assert costs["weight_bytes"] == 4 * whole
