"""What Open WebUI, LibreChat and SillyTavern send, field by field, and what they read of the answers."""

import base64
import io
import json

import pytest
from PIL import Image

from tests.contract.test_openai import opened
from tests.contract.test_openai_fields import toy
from tests.contract.test_sdapi import info

__all__ = ["toy"]

DRAW, EDIT = "/v1/images/generations", "/v1/images/edits"
TEXT, OPTIONS = "/sdapi/v1/txt2img", "/sdapi/v1/options"
FEW = {"steps": 2}  # none of them names steps at /v1; the toy's own number takes longer


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "JPEG")
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------- Open WebUI


def test_open_webui_chooses_a_model_by_writing_all_options_back(toy):
    title = toy.get("/sdapi/v1/sd-models").json()[0]["title"]
    options = toy.get(OPTIONS, headers={"authorization": ""}).json()
    assert toy.post(OPTIONS, json={**options, "sd_model_checkpoint": title}).status_code == 200
    assert toy.get(OPTIONS).json() == {**options, "sd_model_checkpoint": title}


@pytest.mark.parametrize(("size", "drawn"), [((100, 60), (96, 64)), ((64, 64), (64, 64)), ((150, 100), (144, 96))])
def test_open_webui_draws_any_size_that_a_user_types(toy, size, drawn):
    body = {"prompt": "a", "batch_size": 1, "width": size[0], "height": size[1], "steps": 2, "negative_prompt": "b",
            "sampler_name": "DPM++ 2M", "scheduler": "Karras", "cfg_scale": 3.0}  # fmt: skip
    answer = toy.post(TEXT, json=body, headers={"authorization": "Basic Og=="})
    assert opened(answer.json()["images"][0]).size == drawn
    assert ("is drawn as" in info(answer)["comments"]) == (size != drawn)
    assert "scheduler Karras is ignored" in info(answer)["comments"]


@pytest.mark.parametrize("model", ["dall-e-2", "gpt-image-1", "toy"])
@pytest.mark.parametrize("size", ["64x64", "auto"])
def test_open_webui_reads_base64_where_it_asks_for_it_or_names_a_gpt(toy, model, size):
    body = {"model": model, "prompt": "a", "n": 1, "size": size, **FEW}
    if not model.startswith("gpt-image"):
        body["response_format"] = "b64_json"
    datum = toy.post(f"{DRAW}?api-version=2025-04-01", json=body).json()["data"][0]
    assert "url" not in datum  # it would fetch it, and refuses addresses of the own network
    opened(datum["b64_json"])


@pytest.mark.parametrize("part", ["image", "image[]"])
@pytest.mark.parametrize("fields", [{"n": "1", "size": "64x48"}, {"background": "auto"}, {"model": ""}])
def test_open_webui_edits_with_a_form_of_texts(toy, part, fields):
    data = {"model": "gpt-image-1", "prompt": "a", "response_format": "b64_json", **fields, **FEW}
    answer = toy.post(EDIT, data=data, files=[(part, ("5f0c.jpg", jpeg(), "image/jpeg"))])
    assert opened(answer.json()["data"][0]["b64_json"]).size == (64, 48)


# ------------------------------------------------------------------------------------------- LibreChat


def test_librechat_reads_the_seed_and_the_infotext_of_its_picture(toy):
    body = {"prompt": "a", "negative_prompt": "b", "cfg_scale": 4.5, "steps": 2, "width": 64, "height": 64}
    answer = toy.post(TEXT, json=body)
    told = info(answer)
    assert (told["width"], told["height"], type(told["seed"])) == (64, 64, int)
    assert told["infotexts"][0].split("\n")[-1].startswith("Steps: 2, ")
    assert not answer.json()["images"][0].startswith("data:")


def test_librechat_names_dall_e_3_and_takes_the_file_behind_its_link(toy):
    body = {"model": "dall-e-3", "quality": "standard", "style": "vivid", "size": "64x64", "prompt": "a", "n": 1, **FEW}
    url = toy.post(DRAW, json=body, headers={"api-key": "x"}).json()["data"][0]["url"]
    assert url.endswith(".png")
    assert Image.open(io.BytesIO(toy.get(url).content)).size == (64, 64)


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_librechats_agents_get_the_format_that_they_say(toy, kind):
    body = {"model": "gpt-image-1", "prompt": "a", "n": 1, "background": "auto", "output_format": kind,
            "output_compression": 100, "quality": "auto", "size": "auto", **FEW}  # fmt: skip
    assert opened(toy.post(DRAW, json=body).json()["data"][0]["b64_json"]).format == kind.upper()
    form = {"model": "gpt-image-1", "prompt": "a", "quality": "auto", "size": "auto", **FEW}
    one = ("image[]", ("cat.jpg", jpeg(), "image/jpeg"))
    assert toy.post(EDIT, data=form, files=[one]).json()["data"][0]["b64_json"]
    second = ("image[]", ("dog.jpg", jpeg(), "image/jpeg"))
    refused = toy.post(EDIT, data=form, files=[one, second])
    assert refused.status_code == 400
    assert "'dog.jpg' cannot be used" in refused.json()["error"]["message"]


# ------------------------------------------------------------------------------------------- SillyTavern

TAVERN = {
    "url": "http://127.0.0.1:7860", "auth": "ann:a-secret", "prompt": "a", "negative_prompt": "b",
    "sampler_name": "Euler", "scheduler": "automatic", "steps": 2, "cfg_scale": 7, "width": 32, "height": 32,
    "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 2, "denoising_strength": 0.7,
    "hr_second_pass_steps": 0, "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True,
    "do_not_save_grid": False, "do_not_save_samples": False,
}  # fmt: skip


def test_sillytaverns_lists_have_the_names_that_it_shows(toy):
    for route, name in (("upscalers", "name"), ("latent-upscale-modes", "name"), ("samplers", "name"),
                        ("schedulers", "name"), ("sd-models", "title")):  # fmt: skip
        assert all(isinstance(one[name], str) for one in toy.get(f"/sdapi/v1/{route}").json()), route
    assert toy.get("/sdapi/v1/sd-vae").json() == []
    assert toy.get("/sdapi/v1/sd-modules").json() == []
    assert toy.post(OPTIONS, json={"sd_model_checkpoint": "toy"}).status_code == 200
    idle = toy.get("/sdapi/v1/progress").json()
    assert (idle["progress"], idle["state"]["job_count"]) == (0.0, 0)


def test_sillytavern_draws_as_it_stands_and_its_password_is_not_repeated(toy):
    answer = toy.post(TEXT, json=TAVERN)
    assert info(answer)["comments"].split("\n") == [
        "url is unknown and is ignored",
        "auth is unknown and is ignored",
    ]
    assert "a-secret" not in answer.text
    assert opened(answer.json()["images"][0]).size == (32, 32)


def test_sillytavern_draws_hires_fix_and_hears_what_is_not_done(toy):
    more = {"enable_hr": True, "restore_faces": True, "clip_skip": 2,
            "override_settings": {"CLIP_stop_at_last_layers": 2, "sd_vae": "x.vae"}}  # fmt: skip
    answer = toy.post(TEXT, json=TAVERN | more)
    assert opened(answer.json()["images"][0]).size == (64, 64)
    for part in (
        "restore_faces",
        "clip_skip",
        "override_settings CLIP_stop_at_last_layers",
        "override_settings sd_vae",
    ):
        assert f"{part} is ignored" in info(answer)["comments"]


def test_sillytavern_hears_of_what_is_not_offered_by_its_field(toy):
    for more, field in (({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, "hr_upscaler 'R-ESRGAN 4x+'"),
                        ({"alwayson_scripts": {"ADetailer": {"args": [True]}}}, "always on script ADetailer"),
                        ({"enable_hr": True, "hr_second_pass_steps": 9999}, "hr_second_pass_steps 9999"),
                        ({"enable_hr": True, "hr_prompt": "x" * 100_000}, "hr_prompt has 100,000 characters"),
                        ({"enable_hr": True, "hr_negative_prompt": "x" * 100_000}, "hr_negative_prompt has"),
                        ({"enable_hr": True, "hr_prompt": "a <lora:b:x>"}, "hr_prompt holds"),
                        ({"steps": 9999}, "steps 9999"), ({"cfg_scale": -1}, "cfg_scale")):  # fmt: skip
        answer = toy.post(TEXT, json=TAVERN | more)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"].removeprefix("invalid ").startswith(field)


def test_sillytavern_as_it_speaks_to_stable_diffusion_cpp(toy):
    there = toy.options(DRAW)  # its ping
    assert (there.status_code, there.headers["allow"]) == (204, "POST, OPTIONS")
    assert toy.options("/v1/nowhere").status_code == 404
    assert [one["id"] for one in toy.get("/v1/models").json()["data"]] == ["toy"]
    body = {"model": "toy", "prompt": "a", "negative_prompt": "b", "width": 64, "height": 64, "steps": 2,
            "cfg_scale": 7, "seed": 5, "batch_size": 1, "sampler_name": "euler", "scheduler": "discrete"}  # fmt: skip
    answer = toy.post(TEXT, json=body)
    assert info(answer)["seed"] == 5
    assert opened(answer.json()["images"][0]).size == (64, 64)


def test_the_words_of_a_second_pass_are_filtered_as_those_of_the_first(server):
    client = server(safety="prompt")
    hires = TAVERN | {"enable_hr": True, "hr_prompt": "a nude"}
    for body in (hires, TAVERN | {"prompt": "a nude"}):
        answer = client.post(TEXT, json=body)
        assert (answer.status_code, "safety filter" in answer.json()["detail"]) == (400, True), answer.text


def test_loras_in_the_words_of_a_second_pass_are_said(toy):
    answer = toy.post(TEXT, json=TAVERN | {"enable_hr": True, "hr_prompt": "a cat <lora:x:1>"})
    assert "hr_prompt: its LoRAs are ignored" in info(answer)["comments"]
    assert info(answer)["infotexts"][0].startswith("a cat\n")


def test_a_resize_mode_changes_a_picture_as_its_name_says(toy):
    """Bands of black and white, 48 x 16, drawn from at 32 x 32 with next to no noise."""
    picture = Image.new("L", (48, 16), 255)
    picture.paste(0, (0, 0, 24, 8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    body = {"prompt": "a", "init_images": [base64.b64encode(buffer.getvalue()).decode()], "width": 32, "height": 32,
            "steps": 2, "denoising_strength": 0.5, "seed": 1}  # fmt: skip
    drawn = []
    for mode in range(4):
        answer = toy.post("/sdapi/v1/img2img", json=body | {"resize_mode": mode})
        assert opened(answer.json()["images"][0]).size == (32, 32)
        drawn.append(answer.json()["images"][0])
    assert len(set(drawn)) == 4
    assert json.loads(toy.post("/sdapi/v1/img2img", json=body | {"resize_mode": 3}).json()["info"])["seed"] == 1
    for more in ({"resize_mode": 4}, {"resize_mode": -1}, {"resize_mode": 3, "mask": body["init_images"][0]}):
        refused = toy.post("/sdapi/v1/img2img", json=body | more)
        assert (refused.status_code, refused.json()["detail"].startswith("invalid resize_mode ")) == (422, True)
