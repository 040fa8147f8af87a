"""Starting from a picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from leanlens import LensImg2ImgPipeline, LensInpaintPipeline, LensPipeline
from tests.reasoning import FakeReasoner

SIZE = {"height": 64, "width": 96}


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)).resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def img2img(toy) -> LensImg2ImgPipeline:
    pipeline = LensImg2ImgPipeline(**toy.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def inpaint(toy) -> LensInpaintPipeline:
    pipeline = LensInpaintPipeline(**toy.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_components_are_shared_and_from_pipe_works(toy, img2img):
    assert img2img.transformer is toy.transformer
    assert LensInpaintPipeline.from_pipe(toy).vae is toy.vae
    assert type(LensPipeline.from_pipe(img2img)) is LensPipeline


def test_strength_is_the_share_of_steps_walked(img2img, picture):
    for strength, expected in ((1.0, 10), (0.5, 5), (0.26, 3), (0.01, 1)):
        walked = []

        def note(pipeline, step, timestep, tensors, walked=walked):
            walked.append(float(timestep))

        img2img("a", picture, strength, num_inference_steps=10, guidance_scale=1.0, callback_on_step_end=note)
        assert len(walked) == expected
        assert (walked[0] == 1000) == (strength == 1.0)


def test_low_strength_stays_near_the_picture_and_full_strength_is_text_to_image(toy, img2img, picture):
    options = {"num_inference_steps": 10, "guidance_scale": 1.0, "output_type": "latent"}
    faint = img2img("a", picture, strength=0.1, generator=seeded(), **options).images
    strong = img2img("a", picture, strength=0.9, generator=seeded(), **options).images
    from leanlens.models.vae import encode
    from leanlens.pipeline.image import to_pixels

    clean = encode(toy.vae, to_pixels(picture))
    assert (faint - clean).norm() < (strong - clean).norm()
    full = img2img("a", picture, strength=1.0, generator=seeded(), **options).images
    assert torch.equal(full, toy("a", generator=seeded(), **SIZE, **options).images)


def test_size_follows_the_picture_cut_to_tokens(img2img, picture):
    odd = picture.crop((0, 0, 95, 63))
    assert img2img("a", odd, num_inference_steps=1, guidance_scale=1.0).images[0].size == (80, 48)
    assert img2img("a", odd, num_inference_steps=1, guidance_scale=1.0, height=32, width=64).images[0].size == (64, 32)


def test_inpainting_keeps_what_is_black_and_repaints_what_is_white(inpaint, picture):
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (48, 0, 96, 64))
    drawn = np.asarray(inpaint("a", picture, mask, num_inference_steps=3, guidance_scale=2.0).images[0]).astype(int)
    before = np.asarray(picture).astype(int)
    assert np.abs(drawn[:, :48] - before[:, :48]).max() <= 1
    assert np.abs(drawn[:, 48:] - before[:, 48:]).mean() > 5


def test_inpainting_reaches_the_kept_latents_exactly(toy, inpaint, picture):
    from leanlens.models.vae import encode
    from leanlens.pipeline.image import to_pixels

    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, 32, 64))  # tokens of columns 0 and 1
    latents = inpaint("a", picture, mask, num_inference_steps=3, output_type="latent").images.unflatten(1, (4, 6))
    clean = encode(toy.vae, to_pixels(picture)).unflatten(1, (4, 6))
    assert torch.allclose(latents[:, :, 2:], clean[:, :, 2:], atol=1e-6)
    assert not torch.allclose(latents[:, :, :2], clean[:, :, :2], atol=1e-2)


def test_transparent_and_rotated_pictures(img2img):
    transparent = Image.new("RGBA", (64, 32), (255, 0, 0, 0))
    assert img2img("a", transparent, num_inference_steps=1, guidance_scale=1.0).images[0].size == (64, 32)
    turned = Image.new("RGB", (64, 32))
    turned.getexif()[0x0112] = 6
    assert img2img("a", turned, num_inference_steps=1, guidance_scale=1.0).images[0].size == (32, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": None}, "image is missing"),
        ({"image": "cat.png"}, "image is a str"),
        ({"strength": 0}, "invalid strength 0"),
        ({"strength": 1.5}, "invalid strength 1.5"),
        ({"mask_image": None}, "mask_image is missing"),
        ({"mask_image": Image.new("L", (10, 10), 255)}, "the mask is 10x10 but the picture is 96x64"),
        ({"mask_image": Image.new("L", (96, 64), 0)}, "black everywhere"),
    ],
)
def test_bad_input_is_named(inpaint, picture, options, message):
    with pytest.raises(ValueError, match=message):
        inpaint(
            "a", **{"image": picture, "mask_image": Image.new("L", (96, 64), 255), **options}, num_inference_steps=1
        )


def test_what_a_mask_keeps_is_kept_to_the_last_level(inpaint):
    """Levels are cut off when a picture is made of numbers, and every one of them has to come back as itself."""
    levels = np.resize(np.arange(256, dtype=np.uint8), (64, 96))[..., None].repeat(3, axis=2)
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (48, 0, 96, 64))
    drawn = inpaint("a", Image.fromarray(levels), mask, num_inference_steps=2, guidance_scale=2.0).images[0]
    assert np.array_equal(np.asarray(drawn)[:, :48], levels[:, :48])
    assert len(np.unique(levels[:, :48])) == 256


def test_a_reasoner_leaves_prompts_beside_an_image_alone_and_a_function_does_not(toy):
    picture = Image.new("RGB", (48, 64), "red")
    mask = Image.new("L", (48, 64), 255)
    quick = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent", "enable_reasoner": True}
    for kind, sources in ((LensImg2ImgPipeline, {}), (LensInpaintPipeline, {"mask_image": mask})):
        pipeline = kind(**toy.components)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.reasoner = FakeReasoner()
        output = pipeline("two cats", picture, **sources, **quick)
        assert [(one.prompt, one.left_alone) for one in output.reasoned] == [
            ("two cats", "the image starts from another")
        ]
        assert pipeline.reasoner.asks == []
        pipeline.reasoner = lambda prompts: [f"{prompt}, in the snow" for prompt in prompts]
        assert pipeline("two cats", picture, **sources, **quick).reasoned[0].prompt == "two cats, in the snow"
