"""The form that every API fills in."""

import pytest

from leanlens.pipeline.request import MAX_PROMPT_CHARACTERS, ImageRequest

GOOD = {"prompt": "a", "width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 1.0, "seed": 0}


def test_survives_json():
    request = ImageRequest.checked(**GOOD, loras=[{"path": "x.safetensors", "scale": 0.5}], negative_prompt="dark")
    assert ImageRequest.checked(**request.model_dump(mode="json")) == request


def test_today_becomes_a_date():
    assert ImageRequest.checked(**GOOD, template_date="today").template_date != "today"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "x" * 100_000}, f"prompt has 100,000 characters; at most {MAX_PROMPT_CHARACTERS:,} are accepted"),
        ({"width": 100}, "width 100: expected a positive multiple of 16"),
        (
            {"num_inference_steps": 0},
            "invalid num_inference_steps 0: expected an integer from 1 to 1000",
        ),
        ({"guidance_scale": -1}, "invalid guidance_scale -1.0"),
        ({"seed": -5}, "invalid seed -5"),
        ({"strength": 0.5}, "mask and strength need an image"),
        ({"image": "a.png"}, "strength is missing"),
        ({"steps": 3}, "steps is not a known setting; known are prompt"),
        ({"loras": [{"path": "x", "weight": 1}]}, "loras.0.weight is not a known setting; known are path, scale"),
        ({"template_date": "x"}, "YYYY-MM-DD"),
        ({"loras": [{"path": "x", "scale": 1e9}]}, "invalid loras.0.scale 1000000000.0"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is checked below
        ImageRequest.checked(**{**GOOD, **fields})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_name_is_named_instead_of_the_one_that_is_missing():
    with pytest.raises(ValueError, match=r"^widht is not a known setting; known are prompt, "):
        ImageRequest.checked(prompt="a cat", widht=256)


def test_minus_one_is_a_random_seed():
    from leanlens.pipeline.request import ImageRequest, resolve_seed

    seeds = {ImageRequest.checked(**{**GOOD, "seed": -1}).seed for _ in range(4)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert [resolve_seed(seed) for seed in (0, 7, 2**63 - 1)] == [0, 7, 2**63 - 1]
    assert resolve_seed(None) != resolve_seed(None)
