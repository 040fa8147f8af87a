import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from leanlens.evaluate.draw import draw_items, image_key
from leanlens.evaluate.image_models.lens import LensModel
from leanlens.evaluate.suite import ImageFailed, Item
from leanlens.pipeline.draw import draw
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import ImageRequest, LoraChoice


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


def lora_file(path):
    torch.manual_seed(0)
    name = "transformer.transformer_blocks.0.attn.to_out.0"
    save_file({f"{name}.lora_A.weight": torch.randn(4, 128), f"{name}.lora_B.weight": torch.randn(128, 4)}, path)
    return str(path)


def test_a_lora_acts_by_its_scale_and_stands_in_the_identity(toy, tmp_path):
    path = lora_file(tmp_path / "my.safetensors")
    item = Item("a", "duck", size=(64, 64))
    made = [
        LensModel(toy, steps=1, loras=loras)
        for loras in ((), [LoraChoice(path=path, scale=1.0)], [LoraChoice(path=path, scale=3.0)])
    ]
    images = [np.asarray(one.draw(item, 0).image) for one in made]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])
    identity = made[1].identity()
    assert identity["loras"][0]["scale"] == 1.0
    assert len({image_key(one.identity(), item, 0) for one in made}) == 3
    assert path not in str(identity)
    toy.use_loras(())


def test_settings_are_checked_when_it_is_opened(toy):
    assert LensModel(toy, steps=1, size=(64, 32)).draw(Item("a", "duck", size=(128, 128)), 0).image.size == (64, 32)
    assert LensModel(toy, steps=1, negative="grey").request(Item("a", "duck"), 0).negative_prompt == "grey"
    with pytest.raises(ValueError, match="width"):
        LensModel(toy, steps=1, size=(63, 64))


def test_flop_are_those_that_torch_counts(toy):
    """Of the toy: what the formulas leave out, such as the template's tokens, is less than a tenth there."""
    from torch.utils.flop_counter import FlopCounterMode

    from leanlens.evaluate.image_models.diffusers_pipeline import _attention_on_the_processor
    from leanlens.evaluate.image_models.lens_flop import COUNTED_PROMPT

    model = LensModel(toy, steps=3, guidance=2.0, size=(128, 128))
    toy.feature_cache.clear()
    with FlopCounterMode(display=False, custom_mapping=_attention_on_the_processor()) as counter:
        model.draw(Item("a", COUNTED_PROMPT), 0)
    assert model.costs()["flop"] == pytest.approx(counter.get_total_flops(), rel=0.1)
    longer = [LensModel(toy, steps=steps, guidance=2.0, size=(128, 128)).costs()["flop"] for steps in (3, 4, 5)]
    assert longer[2] - longer[1] == longer[1] - longer[0] > 0
