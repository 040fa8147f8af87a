"""Sizes, settings, upscalers and hires fix as clients of AUTOMATIC1111 ask for them."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from leanlens.plan.options import LoadOptions
from tests.contract.test_sdapi import PICTURE, SMALL, TEXT, info, opened

FLOAT32 = LoadOptions(dtype="float32")

ONE, SEVERAL, OPTIONS = "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images", "/sdapi/v1/options"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    from starlette.testclient import TestClient

    from leanlens.serve.app import make_app
    from leanlens.serve.settings import ServerSettings

    folder = tmp_path_factory.mktemp("toy")
    settings = ServerSettings.checked(models=("toy",), output=folder, devices=("cpu",), load=FLOAT32)
    with TestClient(make_app(settings), raise_server_exceptions=False) as client:
        yield client


def ramp(width=32, height=16, **text: str) -> tuple[Image.Image, str]:
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    notes = PngImagePlugin.PngInfo()
    for name, value in text.items():
        notes.add_text(name, value)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=notes)
    return picture, base64.b64encode(buffer.getvalue()).decode()


def refused(answer) -> str:
    assert answer.status_code == 422, answer.text
    return answer.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "drawn"), [((100, 70), (96, 64)), ((104, 56), (112, 64)), ((1, 1), (16, 16)), ((64, 64), (64, 64))]
)
def test_sizes_are_rounded_to_whole_tokens_and_said(toy, asked, drawn):
    told = info(toy.post(TEXT, json={**SMALL, "prompt": "a", "width": asked[0], "height": asked[1]}))
    assert (told["width"], told["height"]) == drawn
    said = f"width x height {asked[0]}x{asked[1]} is drawn as {drawn[0]}x{drawn[1]}"
    assert (said in told["comments"]) == (asked != drawn)


def test_usual_sizes_of_these_clients_are_accepted():
    from leanlens.serve.sdapi_bodies import in_whole_tokens

    most = 2080 * 1040
    for asked, wanted in (((1920, 1080), (1920, 1088)), ((600, 400), (608, 400)), ((1000, 1000), (1008, 1008)),
                          ((1471, 1470), (1456, 1456)), ((1080, 1920), (1088, 1920))):  # fmt: skip
        width, height, notes = in_whole_tokens(*asked, most)
        assert (width, height, len(notes)) == (*wanted, 1)
        assert width * height <= most


def test_img2img_rounds_too_and_its_size_is_checked_before_its_picture(toy, png):
    source = base64.b64encode(png(100, 70)).decode()
    told = info(toy.post(PICTURE, json={**SMALL, "width": 100, "height": 70, "init_images": [source]}))
    assert (told["width"], told["height"]) == (96, 64)
    huge = {"prompt": "a", "init_images": ["no picture"], "width": 8192, "height": 8192}
    assert refused(toy.post(PICTURE, json=huge)).startswith("invalid width x height 8192x8192")


def test_errors_name_the_fields_of_these_clients(toy):
    for fields, said in (
        ({"steps": 151}, "invalid steps 151: expected a whole number from 1 to 150"),
        ({"steps": 0}, "invalid steps 0: expected a whole number from 1 to 150"),
        ({"cfg_scale": 101}, "invalid cfg_scale 101.0"),
        ({"batch_size": 0}, "invalid batch_size 0: expected 1 to 10"),
        ({"batch_size": 5, "n_iter": 5}, "invalid batch_size x n_iter 25: expected 1 to 10"),
    ):
        assert refused(toy.post(TEXT, json={**SMALL, "prompt": "a", **fields})).startswith(said)
    _, source = ramp()
    wrong = {"prompt": "a", "init_images": [source], "denoising_strength": 2, "steps": 2}
    assert refused(toy.post(PICTURE, json=wrong)).startswith("invalid denoising_strength 2.0")


def test_whatever_is_not_done_is_said_by_name(toy):
    plain = {"eta": 0, "s_churn": 0, "s_noise": 1, "s_tmax": 0, "s_tmin": 0, "subseed": -1, "subseed_strength": 0,
             "seed_resize_from_w": -1, "tiling": False, "restore_faces": False, "styles": [], "sampler_name": "Euler",
             "scheduler": "Automatic", "override_settings": {"sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1},
             "do_not_save_samples": False, "save_images": False, "script_args": [], "comments": {}}  # fmt: skip
    assert info(toy.post(TEXT, json={**SMALL, "prompt": "a", **plain}))["comments"] == ""
    asked = {"eta": 0.5, "s_churn": 1, "subseed_strength": 0.3, "seed_resize_from_w": 64, "tiling": True,
             "restore_faces": True, "styles": ["x"], "sampler_name": "DDIM", "scheduler": "Karras",
             "refiner_checkpoint": "xl", "clip_skip": 2,
             "override_settings": {"sd_vae": "x.pt", "CLIP_stop_at_last_layers": 2}}  # fmt: skip
    comments = info(toy.post(TEXT, json={**SMALL, "prompt": "a", **asked}))["comments"]
    for name in (*asked, "sd_vae", "CLIP_stop_at_last_layers"):
        assert name in comments, name


@pytest.mark.parametrize(("name", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_the_format_of_samples_is_done_for_one_request_or_all(toy, name, kind):
    once = toy.post(TEXT, json={**SMALL, "prompt": "a", "override_settings": {"samples_format": name}})
    assert opened(once.json()["images"][0]).format == kind
    assert toy.post(OPTIONS, json={"samples_format": name}).status_code == 200
    assert opened(toy.post(TEXT, json={**SMALL, "prompt": "a"}).json()["images"][0]).format == kind
    toy.post(OPTIONS, json={"samples_format": "png"})
    gif = toy.post(TEXT, json={**SMALL, "prompt": "a", "override_settings": {"samples_format": "gif"}})
    assert "invalid samples_format 'gif'" in info(gif)["comments"]


def test_options_are_read_back_or_refused_by_name(toy):
    before = toy.get(OPTIONS).json()
    assert toy.post(OPTIONS, json=before).status_code == 200
    assert toy.post(OPTIONS, json={"send_seed": not before["send_seed"]}).status_code == 200
    assert toy.get(OPTIONS).json() == before | {"send_seed": not before["send_seed"]}
    for name, value in (("sd_vae", "x.pt"), ("CLIP_stop_at_last_layers", 2), ("eta_noise_seed_delta", 1),
                        ("samples_format", "gif"), ("send_seed", "yes"), ("jpeg_quality", 101)):  # fmt: skip
        answer = toy.post(OPTIONS, json={"send_size": False, name: value})
        assert refused(answer).startswith((f"invalid {name} ", f"unknown setting {name}"))
    assert toy.get(OPTIONS).json()["send_size"] is True  # nothing of a refused body is written
    toy.post(OPTIONS, json={"send_seed": before["send_seed"]})


@pytest.mark.parametrize(
    ("name", "method"), [("Lanczos", Image.Resampling.LANCZOS), ("nearest", Image.Resampling.NEAREST)]
)
def test_a_picture_is_enlarged(toy, name, method):
    picture, text = ramp(parameters="a fox\nSteps: 3")
    answer = toy.post(ONE, json={"image": text, "upscaler_1": name, "upscaling_resize": 2.5}).json()
    found = opened(answer["image"])
    assert found.tobytes() == picture.resize((80, 40), method).tobytes()
    assert answer["html_info"] == ""
    sized = {"image": text, "upscaler_1": name, "resize_mode": 1, "upscaling_resize_w": 64, "upscaling_resize_h": 64}
    assert opened(toy.post(ONE, json=sized).json()["image"]).size == (64, 64)
    assert opened(toy.post(ONE, json={**sized, "upscaling_crop": False}).json()["image"]).size == (128, 64)
    assert opened(toy.post(ONE, json={"image": text}).json()["image"]).tobytes() == picture.tobytes()


def test_several_pictures_are_enlarged_and_two_ways_are_mixed(toy):
    picture, text = ramp()
    body = {"upscaler_1": "Nearest", "upscaler_2": "Lanczos", "extras_upscaler_2_visibility": 0.5,
            "gfpgan_visibility": 1, "imageList": [{"data": text, "name": "a.png"}] * 2}  # fmt: skip
    answer = toy.post(SEVERAL, json=body).json()
    near, lanczos = (picture.resize((64, 32), way) for way in (Image.Resampling.NEAREST, Image.Resampling.LANCZOS))
    assert [opened(one).tobytes() for one in answer["images"]] == [Image.blend(near, lanczos, 0.5).tobytes()] * 2
    assert "gfpgan_visibility is ignored" in answer["html_info"]
    assert "upscaler_1 'ESRGAN_4x' is not offered" in refused(
        toy.post(ONE, json={"image": text, "upscaler_1": "ESRGAN_4x"})
    )
    for sizes in (
        {"upscaling_resize": 64},
        {"resize_mode": 1, "upscaling_resize_w": 30000, "upscaling_resize_h": 30000},
    ):
        big = ramp(256, 256)[1]
        assert "at most" in refused(toy.post(ONE, json={"image": big, "upscaler_1": "Lanczos", **sizes}))


def test_every_listed_upscaler_draws_hires_fix(toy):
    names = [one["name"] for one in toy.get("/sdapi/v1/upscalers").json() if one["name"] != "None"]
    modes = [one["name"] for one in toy.get("/sdapi/v1/latent-upscale-modes").json()]
    assert (names, "Latent" in modes, len(modes)) == (["Lanczos", "Nearest"], True, 6)
    drawn = set()
    for name in (*names, *modes):
        body = {**SMALL, "prompt": "a", "width": 32, "height": 32, "enable_hr": True, "hr_scale": 2,
                "hr_upscaler": name, "denoising_strength": 0.4, "hr_second_pass_steps": 4}  # fmt: skip
        answer = toy.post(TEXT, json=body)
        told, picture = info(answer), opened(answer.json()["images"][0])
        assert (picture.size, told["width"], told["steps"], told["denoising_strength"]) == ((64, 64), 64, 4, 0.4), name
        drawn.add(picture.tobytes())
    assert len(drawn) > 5  # nearest and nearest-exact agree at a factor of 2


def test_hires_fix_is_img2img_on_the_first_pass(toy):
    small = {**SMALL, "prompt": "a", "width": 32, "height": 48}
    first = opened(toy.post(TEXT, json=small).json()["images"][0]).convert("RGB")
    large = first.resize((64, 96), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    large.save(buffer, "PNG")
    source = base64.b64encode(buffer.getvalue()).decode()
    by_hand = toy.post(PICTURE, json={**SMALL, "prompt": "a", "width": 64, "height": 96, "init_images": [source],
                                      "denoising_strength": 0.5})  # fmt: skip
    hires = {"enable_hr": True, "hr_upscaler": "Lanczos", "denoising_strength": 0.5}
    fixed = toy.post(TEXT, json={**small, **hires})
    assert opened(fixed.json()["images"][0]).tobytes() == opened(by_hand.json()["images"][0]).tobytes()
    only = toy.post(TEXT, json={**small, **hires, "denoising_strength": 0})
    assert np.array_equal(np.asarray(opened(only.json()["images"][0])), np.asarray(large))
    to_size = toy.post(TEXT, json={**small, **hires, "hr_resize_x": 100, "batch_size": 2})
    assert [opened(one).size for one in to_size.json()["images"]] == [(96, 144)] * 2
    old = toy.post(
        TEXT, json={**small, **hires, "width": 64, "height": 96, "firstphase_width": 32, "firstphase_height": 48}
    )
    assert opened(old.json()["images"][0]).tobytes() == opened(fixed.json()["images"][0]).tobytes()


def test_skip_drops_one_iteration_and_goes_on(server):
    client, answers = server(max_batch=1), []
    body = {"prompt": "a", "seed": 7, "width": 64, "height": 64, "steps": 40, "n_iter": 3}
    drawing = threading.Thread(target=lambda: answers.append(client.post(TEXT, json=body)))
    drawing.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] < 2:
        time.sleep(0.01)
    client.post("/sdapi/v1/skip")
    drawing.join(60)
    told = info(answers[0])
    assert told["all_seeds"] == [8, 9]
    assert "Stopped after" not in "".join(told["infotexts"])


def test_the_model_is_let_go_and_opened_again(toy):
    service = toy.app.state.service
    for route, opened_model in (("unload-checkpoint", None), ("reload-checkpoint", "toy"), ("unload-checkpoint", None)):
        assert toy.post(f"/sdapi/v1/{route}").json() == {}
        assert service.workers[0].model == opened_model
    assert toy.post(TEXT, json={**SMALL, "prompt": "a"}).status_code == 200
    assert toy.post("/sdapi/v1/interrogate", json={"image": "x", "model": "clip"}).status_code == 404
    assert toy.post("/sdapi/v1/refresh-embeddings").status_code == 200


def test_records_of_these_pictures_are_whole(toy):
    body = {**SMALL, "prompt": "a", "width": 32, "height": 32, "enable_hr": True, "hr_upscaler": "Latent (bicubic)"}
    request = json.loads(opened(toy.post(TEXT, json=body).json()["images"][0]).info["leanlens"])["request"]
    assert (request["latent_resize"], request["strength"], request["width"]) == ("bicubic", 0.7, 64)
