"""What clients of AUTOMATIC1111 send, and what they get."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

SMALL = {"width": 64, "height": 64, "steps": 3, "seed": 5}
TEXT, PICTURE = "/sdapi/v1/txt2img", "/sdapi/v1/img2img"


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def info(answer) -> dict:
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json()["info"], str)
    return json.loads(answer.json()["info"])


def test_txt2img_answers_as_clients_parse_it(server):
    client = server()
    answer = client.post(TEXT, json={"prompt": "a, fox", "negative_prompt": "rain", "batch_size": 2, **SMALL})
    told = info(answer)
    assert (told["seed"], told["all_seeds"], told["index_of_first_image"]) == (5, [5, 6], 0)
    assert (told["cfg_scale"], told["steps"], told["width"]) == (5.0, 3, 64)
    pictures = [opened(image) for image in answer.json()["images"]]
    assert [picture.info["parameters"] for picture in pictures] == told["infotexts"]
    lines = told["infotexts"][0].split("\n")
    assert lines[:2] == ["a, fox", "Negative prompt: rain"]
    assert lines[2].startswith("Steps: 3, Sampler: Euler, Schedule type: Lens, CFG scale: 5.0, Seed: 5, Size: 64x64")
    assert answer.json()["parameters"]["prompt"] == "a, fox"
    assert float(answer.headers["x-process-time"]) > 0


def test_the_same_picture_at_every_api(server):
    client = server()
    here = client.post(TEXT, json={"prompt": "a", **SMALL}).json()["images"][0]
    body = {"prompt": "a", "size": "64x64", "seed": 5, "num_inference_steps": 3}
    assert here == client.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"]


def test_minus_one_is_a_random_seed_at_every_api(server):
    client = server()
    told = info(client.post(TEXT, json={"prompt": "a", **SMALL, "seed": -1, "batch_size": 2}))
    assert told["all_seeds"] == [told["seed"], told["seed"] + 1]
    assert 0 <= told["seed"] < 2**32
    body = {"prompt": "a", "size": "64x64", "num_inference_steps": 1, "seed": -1}
    pictures = [client.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"] for _ in range(2)]
    assert pictures[0] != pictures[1]
    refused = client.post("/v1/images/generations", json={**body, "seed": -2})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seed")


def test_what_is_left_out_is_the_models_own_and_not_theirs(server):
    told = info(server().post(TEXT, json={"prompt": "a"}))
    assert (told["steps"], told["cfg_scale"], told["width"], told["height"]) == (4, 5.0, 128, 128)


def test_prompt_syntax_is_honoured_or_said_to_be_literal(server, tmp_path):
    from tests.serve.test_worker import lora_file

    lora_file(tmp_path / "loras")
    client = server(lora_folders=(tmp_path / "loras",))
    plain = client.post(TEXT, json={"prompt": "a fox", **SMALL})
    bright = client.post(TEXT, json={"prompt": "a fox <lora:bright:0.8>", **SMALL})
    assert info(plain)["comments"] == ""
    assert plain.json()["images"] != bright.json()["images"]
    assert info(bright)["prompt"] == "a fox"
    assert 'Lora hashes: "bright: ' in info(bright)["infotexts"][0]
    literal = info(client.post(TEXT, json={"prompt": "a (red:1.2) fox BREAK <hypernet:x:1>", **SMALL}))
    assert literal["prompt"] == "a (red:1.2) fox BREAK <hypernet:x:1>"
    assert "(red:1.2) are taken literally" in literal["comments"]
    assert "BREAK and AND such as BREAK are taken literally" in literal["comments"]
    unknown = client.post(TEXT, json={"prompt": "<lora:../x:1>", **SMALL})
    assert (unknown.status_code, unknown.json()["error"]) == (422, "HTTPException")
    assert client.get("/sdapi/v1/loras").json() == [
        {"name": "bright", "alias": "bright", "path": "bright", "metadata": {}}
    ]


def test_img2img_mask_inversion_and_shapes(server, png):
    client = server()
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    source = "data:image/png;base64," + base64.b64encode(png()).decode()
    body = {"prompt": "a", "init_images": [source], "steps": 3, "seed": 1, "denoising_strength": 1.0,
            "mask": base64.b64encode(buffer.getvalue()).decode(), "inpaint_full_res": True}  # fmt: skip
    for inverted, kept in ((0, slice(32, 64)), (1, slice(0, 32))):
        answer = client.post(PICTURE, json={**body, "inpainting_mask_invert": inverted})
        assert "inpaint_full_res is ignored" in info(answer)["comments"]
        pixels = np.asarray(opened(answer.json()["images"][0]), dtype=int)
        assert (np.abs(pixels[:, kept] - [255, 0, 0]) <= 1).all()
    plain = client.post(PICTURE, json={"prompt": "a", "init_images": [source], "steps": 3})
    assert (info(plain)["denoising_strength"], plain.json()["parameters"].get("init_images")) == (0.6, None)
    wide = {"prompt": "a", "init_images": [source], "steps": 2, "width": 96, "height": 32}
    stretched, cropped = (client.post(PICTURE, json={**wide, "resize_mode": mode, "seed": 1}) for mode in (0, 1))
    assert opened(stretched.json()["images"][0]).size == opened(cropped.json()["images"][0]).size == (96, 32)


def test_lists_and_options_as_clients_read_them(server):
    client = server()

    def get(name: str):
        answer = client.get(f"/sdapi/v1/{name}")
        assert answer.status_code == 200, name
        return answer.json()

    options = get("options")
    assert options["sd_model_checkpoint"] == "toy"
    assert client.post("/sdapi/v1/options", json=options).json() is None
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"}).status_code == 404
    assert get("sd-models")[0]["title"] == "toy"
    assert get("samplers")[0]["name"] == "Euler"
    assert {"name", "label", "aliases"} <= set(get("schedulers")[0])
    assert get("upscalers")[0]["name"] == "None"
    assert get("latent-upscale-modes")
    assert get("scripts") == {"txt2img": [], "img2img": []}
    assert get("embeddings") == {"loaded": {}, "skipped": {}}
    assert {"ram", "cuda"} == set(get("memory"))
    for name in ("sd-vae", "sd-modules", "loras", "script-info", "cmd-flags", "prompt-styles", "hypernetworks"):
        get(name)
    for name in ("refresh-checkpoints", "refresh-loras", "skip"):
        assert client.post(f"/sdapi/v1/{name}").json() is None
    assert client.post("/sdapi/v1/interrupt").json() == {}
    idle = get("progress")
    assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0.0, 0, None)


def test_png_info_gives_back_what_drew_a_picture(server):
    client = server()
    fields = {"prompt": 'a "red", fox', "negative_prompt": "rain\nhail", **SMALL}
    image = client.post(TEXT, json=fields).json()["images"][0]
    told = client.post("/sdapi/v1/png-info", json={"image": f"data:image/png;base64,{image}"}).json()
    assert told["info"] == told["items"]["parameters"]
    found = told["parameters"]
    assert (found["Prompt"], found["Negative prompt"]) == ('a "red", fox', "rain\nhail")
    assert (found["Steps"], found["Seed"], found["Size-1"], found["Size-2"]) == ("3", "5", "64", "64")
    assert json.loads(told["items"]["leanlens"])["request"]["seed"] == 5
    bare = io.BytesIO()
    Image.new("RGB", (8, 8)).save(bare, "PNG")
    told = client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(bare.getvalue()).decode()}).json()
    assert told == {"info": "", "items": {}, "parameters": {}}


def test_progress_with_a_look_and_an_interrupt(server):
    client, answers = server(), []
    body = {"prompt": "a", "width": 128, "height": 128, "steps": 100, "batch_size": 2}
    drawing = threading.Thread(target=lambda: answers.append(client.post(TEXT, json=body)))
    drawing.start()
    deadline, seen = time.monotonic() + 60, {}
    while time.monotonic() < deadline and not seen.get("current_image"):
        seen = client.get("/sdapi/v1/progress").json()
        time.sleep(0.02)
    assert 0 < seen["progress"] < 1
    assert (seen["state"]["job_count"], seen["state"]["sampling_steps"]) == (2, 100)
    assert opened(seen["current_image"]).size == (16, 16)
    assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
    client.post("/sdapi/v1/interrupt")
    drawing.join(60)
    told = info(answers[0])
    assert [opened(image).size for image in answers[0].json()["images"]] == [(128, 128)] * 2
    assert all("Stopped after: " in text for text in told["infotexts"])
    stopped = json.loads(opened(answers[0].json()["images"][0]).info["leanlens"])["stopped_after"]
    assert 2 <= stopped < 100
    assert client.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
    assert client.post(TEXT, json={"prompt": "b", **SMALL}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (TEXT, {"prompt": "a", "width": 100}, 422),
        (TEXT, {"prompt": "a", "width": 0, "height": 64}, 422),
        (TEXT, {"prompt": "a", "script_name": "x/y plot"}, 422),
        (TEXT, {"prompt": "a", "enable_hr": True, "hr_upscaler": "4x-UltraSharp"}, 422),
        (TEXT, {"prompt": "a", "enable_hr": True, "hr_scale": 1000}, 422),
        (TEXT, {"prompt": "a", "alwayson_scripts": {"controlnet": {"args": []}}}, 422),
        (TEXT, {"prompt": "a", "override_settings": {"sd_model_checkpoint": "x"}}, 404),
        (TEXT, {"prompt": "a", "batch_size": 500}, 422),
        (TEXT, {"prompt": "<lora:x:much>"}, 422),
        (TEXT, {"prompt": ["a"]}, 422),
        (PICTURE, {"prompt": "a"}, 404),
        (PICTURE, {"prompt": "a", "init_images": ["%%%"]}, 422),
        (PICTURE, {"prompt": "a", "init_images": ["aGVsbG8="]}, 422),
    ],
)
def test_errors_have_the_originals_shape(server, path, body, status):
    answer = server().post(path, json=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert isinstance(answer.json()["detail"], str)


def test_what_json_and_utf8_cannot_hold_does_no_harm(server):
    content = (
        rb'{"prompt": "a", "steps": 1, "width": 16, "height": 16,'
        rb'"override_settings": {"odd": [NaN, 1e999, "\ud800"]}}'
    )
    answer = server().post(TEXT, content=content, headers={"content-type": "application/json"})
    assert answer.json()["parameters"]["override_settings"]["odd"] == [None, None, "?"]
