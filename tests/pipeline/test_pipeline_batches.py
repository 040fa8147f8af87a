"""Several pictures and masks at once, and the signatures that say so."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image

from leanlens import LensImg2ImgPipeline, LensInpaintPipeline, LensPipeline

STEPS = {"num_inference_steps": 2, "guidance_scale": 2.0}


def picture(seed: int, size=(96, 64)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def mask(left: int) -> Image.Image:
    drawn = Image.new("L", (96, 64), 0)
    drawn.paste(255, (left, 0, left + 32, 64))
    return drawn


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def quiet(kind, toy):
    pipeline = kind(**toy.components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def img2img(toy) -> LensImg2ImgPipeline:
    return quiet(LensImg2ImgPipeline, toy)


@pytest.fixture
def inpaint(toy) -> LensInpaintPipeline:
    return quiet(LensInpaintPipeline, toy)


def levels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


PICTURES = [picture(1), picture(2)]
ARRAY = np.stack([np.asarray(one) for one in PICTURES])


@pytest.mark.parametrize(
    "images",
    [
        PICTURES,
        tuple(PICTURES),
        ARRAY,
        ARRAY.astype(np.float32) / 255,
        torch.from_numpy(ARRAY).permute(0, 3, 1, 2),
        [torch.from_numpy(one).permute(2, 0, 1) for one in ARRAY],
        [ARRAY[:1], PICTURES[1]],
    ],
    ids=["list", "tuple", "array", "floats", "tensor", "tensors", "mixed"],
)
def test_a_batch_equals_one_by_one(img2img, images):
    prompts = ["a cat", "a red lamp"]
    together = levels(img2img(prompts, images, 0.5, generator=generators(2), **STEPS).images)
    for index, generator in enumerate(generators(2)):
        alone = levels(img2img(prompts[index], PICTURES[index], 0.5, generator=generator, **STEPS).images)
        assert np.abs(together[index] - alone[0]).max() <= 1


def test_one_prompt_for_several_pictures_and_several_for_one(img2img):
    spread = levels(img2img("a cat", PICTURES, 0.5, generator=generators(2), **STEPS).images)
    written = levels(img2img(["a cat"] * 2, PICTURES, 0.5, generator=generators(2), **STEPS).images)
    assert np.abs(spread - written).max() <= 1
    prompts = ["a cat", "a red lamp"]
    one = levels(img2img(prompts, PICTURES[0], 0.5, generator=generators(2), **STEPS).images)
    two = levels(img2img(prompts, PICTURES[:1] * 2, 0.5, generator=generators(2), **STEPS).images)
    assert np.abs(one - two).max() <= 1


def test_several_for_each_prompt_lie_next_to_each_other(img2img, inpaint):
    options = {"generator": generators(4), "num_images_per_prompt": 2, **STEPS}
    drawn = levels(img2img(["a cat", "a lamp"], PICTURES, 0.01, **options).images)
    for index, image in enumerate(drawn):  # so little strength leaves each near the picture it came from
        near = [np.abs(image - np.asarray(one).astype(int)).mean() for one in PICTURES]
        clean = levels(img2img("a cat", PICTURES[index // 2], 0.01, generator=generators(4)[index], **STEPS).images)
        assert len(near) == 2
        assert np.abs(image - clean[0]).mean() < 3
    options["generator"] = generators(4)
    filled = levels(inpaint("a", PICTURES, [mask(0), mask(64)], **options).images)
    for index, image in enumerate(filled):
        before, kept = np.asarray(PICTURES[index // 2]).astype(int), slice(32, 96) if index < 2 else slice(0, 64)
        assert np.abs(image[:, kept] - before[:, kept]).max() <= 1
    assert not np.array_equal(filled[0], filled[1])


STACK = np.stack([np.asarray(mask(0)), np.asarray(mask(64))])


@pytest.mark.parametrize(
    "masks",
    [
        [mask(0), mask(64)],
        STACK,
        STACK[..., None],
        STACK > 0,
        torch.from_numpy(STACK),
        torch.from_numpy(STACK > 0)[:, None],
        torch.from_numpy(STACK / 255.0)[:, None],
        [STACK[0], torch.from_numpy(STACK[1:])],
    ],
    ids=["list", "array", "channels", "bools", "tensor", "flags", "floats", "mixed"],
)
def test_each_picture_has_its_mask(inpaint, masks):
    drawn = levels(inpaint("a boat", PICTURES, masks, generator=generators(2), **STEPS).images)
    expected = levels(inpaint("a boat", PICTURES, [mask(0), mask(64)], generator=generators(2), **STEPS).images)
    assert np.array_equal(drawn, expected)
    for image, before, kept in zip(drawn, PICTURES, (slice(32, 96), slice(0, 64)), strict=True):
        assert np.abs(image[:, kept] - np.asarray(before).astype(int)[:, kept]).max() <= 1


def test_one_picture_with_several_masks(inpaint):
    drawn = levels(inpaint("a", PICTURES[0], [mask(0), mask(64)], generator=generators(2), **STEPS).images)
    before = np.asarray(PICTURES[0]).astype(int)
    assert np.abs(drawn[0][:, 32:] - before[:, 32:]).max() <= 1
    assert np.abs(drawn[1][:, :64] - before[:, :64]).max() <= 1


def test_pictures_of_different_sizes_need_a_size(img2img):
    images = [picture(1), picture(2, (64, 96))]
    with pytest.raises(ValueError, match="image holds pictures of 96x64 and 64x96 pixels; give height and width"):
        img2img("a", images, **STEPS)
    drawn = img2img("a", images, height=64, width=64, **STEPS).images
    assert [image.size for image in drawn] == [(64, 64)] * 2


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (PICTURES, {"prompt": ["a"] * 3}, "image holds 2 pictures for 3 prompts"),
        ([], {}, "image is empty"),
        (PICTURES, {"mask_image": [mask(0)] * 3}, "mask_image holds 3 masks for 2 pictures"),
        (PICTURES, {"mask_image": [mask(0), Image.new("L", (8, 8), 255)]}, "the mask is 8x8 but the picture is 96x64"),
        ([PICTURES[0], "x.png"], {}, "image is a str"),
        (PICTURES, {"mask_image": None}, "mask_image is missing"),
    ],
)
def test_what_does_not_go_together_is_named(inpaint, image, options, message):
    arguments = {"prompt": "a", "mask_image": mask(0), **STEPS, **options}
    with pytest.raises(ValueError, match=message):
        inpaint(image=image, **arguments)


def test_signatures_show_what_is_taken():
    every = inspect.signature(LensPipeline.__call__).parameters
    for kind, more in ((LensImg2ImgPipeline, {"image", "strength"}), (LensInpaintPipeline, {"mask_image"})):
        taken = inspect.signature(kind.__call__).parameters
        assert set(every) - {"source"} <= set(taken)
        assert more <= set(taken)
        assert not any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in taken.values())
        assert {name: taken[name].default for name in every if name != "source"} == {
            name: one.default for name, one in every.items() if name != "source"
        }
