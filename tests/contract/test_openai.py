"""What clients of the OpenAI Images API send, and what they get."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from leanlens.plan.options import LoadOptions

FLOAT32 = LoadOptions(dtype="float32")

SMALL = {"size": "64x64", "num_inference_steps": 3, "seed": 5}
DRAW = "/v1/images/generations"


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_base64_is_the_file_of_the_command_line(server, tmp_path):
    from leanlens.pipeline.draw import draw
    from leanlens.pipeline.metadata import save_picture
    from leanlens.pipeline.open import open_model
    from leanlens.pipeline.request import ImageRequest

    answer = server().post(DRAW, json={"prompt": "a fox", **SMALL})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    request = ImageRequest.checked(
        prompt="a fox", width=64, height=64, num_inference_steps=3, guidance_scale=5.0, seed=5
    )
    drawn = draw(open_model("toy", "cpu", "float32"), request)
    wanted = save_picture(drawn.image, tmp_path / "a.png", drawn.record).read_bytes()
    assert base64.b64decode(body["data"][0]["b64_json"]) == wanted
    assert (body["size"], body["output_format"], body["background"]) == ("64x64", "png", "opaque")
    assert body["usage"]["output_tokens"] == 16
    assert body["usage"]["total_tokens"] == 16 + body["usage"]["input_tokens"] > 16


def test_what_is_left_out_is_the_models_own_and_null_is_left_out(server):
    client = server()
    body = {"prompt": "a", "n": None, "size": "auto", "seed": None, "quality": "auto", "user": "x", "style": "vivid"}
    answer = client.post(DRAW, json=body).json()
    assert answer["size"] == "128x128"
    record = json.loads(opened(answer["data"][0]["b64_json"]).info["leanlens"])
    assert (record["request"]["num_inference_steps"], record["request"]["guidance_scale"]) == (4, 5.0)


def test_quality_chooses_steps_unless_steps_are_given(server):
    client = server()
    steps = []
    for fields in ({"quality": "low"}, {"quality": "hd"}, {"quality": "hd", "steps": 3}):
        answer = client.post(DRAW, json={"prompt": "a", "size": "32x32", **fields}).json()
        record = json.loads(opened(answer["data"][0]["b64_json"]).info["leanlens"])
        steps.append(record["request"]["num_inference_steps"])
    assert steps == [2, 8, 3]


def test_links_lead_to_pictures_and_jobs_are_found_again(server):
    client = server()
    answer = client.post(DRAW, json={"prompt": "a", "n": 2, "response_format": "url", **SMALL})
    links = [datum["url"] for datum in answer.json()["data"]]
    pictures = [client.get(link) for link in links]
    assert [picture.headers["content-type"] for picture in pictures] == ["image/png"] * 2
    assert pictures[0].content != pictures[1].content
    job = client.get(f"/v1/jobs/{answer.headers['x-job-id']}").json()
    assert (job["state"], job["n"], [datum["url"] for datum in job["data"]]) == ("done", 2, links)
    assert client.get("/v1/jobs").json()["data"][0]["id"] == job["id"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pictures_say_that_a_model_made_them_unless_the_operator_turns_it_off(server, kind, png, tmp_path):
    fields = {"output_format": kind, **SMALL}

    def drawn(client, **form) -> tuple[bytes, str | None]:
        if form:
            answer = client.post("/v1/images/edits", data={"prompt": "a", **fields}, files=form)
        else:
            answer = client.post(DRAW, json={"prompt": "a", **fields})
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        found = re.search(rb'DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/(\w+)"', data)
        return data, found and found[1].decode()

    client = server()
    assert drawn(client)[1] == "trainedAlgorithmicMedia"
    assert drawn(client, image=("a.png", png()))[1] == "compositeWithTrainedAlgorithmicMedia"
    data, found = drawn(server(marking=False, output=tmp_path / "plain"))
    assert (found, b"DigitalSourceType" in data) == (None, False)


@pytest.mark.parametrize(("kind", "format"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats_carry_the_settings_too(server, kind, format, tmp_path):
    from leanlens.pipeline.metadata import read_record

    fields = {"output_format": kind, "output_compression": 50, **SMALL}
    data = base64.b64decode(server().post(DRAW, json={"prompt": "a", **fields}).json()["data"][0]["b64_json"])
    (tmp_path / f"a.{kind}").write_bytes(data)
    assert Image.open(io.BytesIO(data)).format == format
    assert read_record(tmp_path / f"a.{kind}")["request"]["seed"] == 5


def events(text: str) -> list[dict]:
    frames = [frame.split("\n") for frame in text.strip().split("\n\n")]
    return [
        {"event": lines[0].removeprefix("event: "), **json.loads(lines[1].removeprefix("data: "))} for lines in frames
    ]


def test_streaming_sends_partial_pictures_and_one_completed_for_each(server):
    client = server()
    body = {"prompt": "a", "stream": True, "partial_images": 2, "n": 2, **SMALL, "num_inference_steps": 6}
    answer = client.post(DRAW, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    got = events(answer.text)
    assert all(one["event"] == one["type"] for one in got)
    kinds = [one["type"] for one in got]
    assert (kinds.count("image_generation.partial_image"), kinds.count("image_generation.completed")) == (4, 2)
    partial = next(one for one in got if one["type"].endswith("partial_image"))
    assert partial["partial_image_index"] == 0
    assert opened(partial["b64_json"]).size == (64, 64)
    plain = client.post(DRAW, json={**body, "stream": False}).json()["data"]
    assert {one["b64_json"] for one in got if one["type"].endswith("completed")} == {one["b64_json"] for one in plain}


def test_edits_start_from_the_picture_and_keep_what_the_mask_covers(server, png):
    client = server()
    picture = png(64, 64, "red")
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))  # transparent on the left: repaint there
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    fields = {"prompt": "a", "seed": "1", "num_inference_steps": "3", "n": "1"}
    whole = client.post("/v1/images/edits", data=fields, files={"image": ("../../x.png", picture, "image/png")})
    assert whole.status_code == 200, whole.text
    part = client.post(
        "/v1/images/edits", data=fields, files={"image[]": ("x.png", picture), "mask": ("m.png", buffer.getvalue())}
    )
    pixels = np.asarray(opened(part.json()["data"][0]["b64_json"]).convert("RGB"), dtype=int)
    assert (np.abs(pixels[:, 32:] - [255, 0, 0]) <= 1).all()
    assert (np.abs(pixels[:, :32] - [255, 0, 0]) > 30).any()
    record = json.loads(opened(whole.json()["data"][0]["b64_json"]).info["leanlens"])
    assert (record["request"]["strength"], record["request"]["width"]) == (0.6, 64)
    assert ".." not in record["request"]["image"]


def test_variations_need_no_prompt(server, png):
    answer = server().post(
        "/v1/images/variations", data={"n": "2", "size": "32x32", "steps": "2"}, files={"image": ("x.png", png())}
    )
    assert [opened(datum["b64_json"]).size for datum in answer.json()["data"]] == [(32, 32)] * 2


def test_models(server):
    client = server()
    listed = client.get("/v1/models").json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["toy"])
    assert client.get("/v1/models/toy").json() == listed["data"][0]
    assert client.get("/v1/models/gpt-image-1").json()["id"] == "toy"
    assert client.get("/v1/models/other/name").json()["error"]["code"] == "model_not_found"
    assert client.post(DRAW, json={"prompt": "a", "model": "dall-e-3", **SMALL}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "missing_required_parameter", "prompt"),
        ({"prompt": 3}, 400, "invalid_value", "prompt"),
        ({"prompt": "a", "model": "other"}, 404, "model_not_found", "model"),
        ({"prompt": "a", "size": "big"}, 400, "invalid_value", "size"),
        ({"prompt": "a", "size": "100x100"}, 400, "invalid_value", "size"),
        ({"prompt": "a", "size": "8000x8000"}, 400, "invalid_value", "size"),
        ({"prompt": "a", "n": 11}, 400, "invalid_value", "n"),
        ({"prompt": "a", "n": 0}, 400, "invalid_value", "n"),
        ({"prompt": "a", "steps": 10**400}, 400, "invalid_value", "steps"),
        ({"prompt": "a", "steps": 500}, 400, "invalid_value", "steps"),
        ({"prompt": "a", "num_inference_steps": 0}, 400, "invalid_value", "num_inference_steps"),
        ({"prompt": "a", "cfg_scale": 101}, 400, "invalid_value", "cfg_scale"),
        ({"prompt": "a", "guidance_scale": -1}, 400, "invalid_value", "guidance_scale"),
        ({"prompt": "a", "seed": -7}, 400, "invalid_value", "seed"),
        ({"prompt": "a", "seed": 2**64 - 1, "n": 2}, 400, "invalid_value", "seed"),
        ({"prompt": "a", "background": "transparent"}, 400, "invalid_value", "background"),
        ({"prompt": "a", "output_format": "gif"}, 400, "invalid_value", "output_format"),
        ({"prompt": "a", "loras": ["/etc/passwd"]}, 400, "invalid_value", "loras"),
        ({"prompt": "a", "width": 64}, 400, "missing_required_parameter", "height"),
        ({"prompt": "a" * 33_000}, 400, "invalid_value", "prompt"),
        ([1, 2], 400, "invalid_value", None),
    ],
)
def test_errors_have_the_originals_shape(refusing, body, status, code, param):
    answer = refusing.post(DRAW, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    from starlette.testclient import TestClient

    from leanlens.serve.app import make_app
    from leanlens.serve.settings import ServerSettings

    folder = tmp_path_factory.mktemp("refusing")
    settings = ServerSettings.checked(models=("toy",), output=folder, devices=("cpu",), load=FLOAT32)
    with TestClient(make_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_broken_bodies_and_forms_are_refused(refusing, png):
    for content in (b"{", b"", b"\xff\xfe", b"[" * 100_000, b'{"prompt": ' + b"9" * 5000 + b"}"):
        answer = refusing.post(DRAW, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), content[:20]
    edit = "/v1/images/edits"
    answers = [
        refusing.post(edit, json={"prompt": "a"}),
        refusing.post(edit, data={"prompt": "a"}, files={"other": b"x"}),
        refusing.post(edit, data={"prompt": "a"}, files={"image": ("a.png", b"no picture")}),
        refusing.post(edit, data={"prompt": "a"}, files={"image": ("a.png", png()[:-30])}),
        refusing.post(edit, data={}, files={"image": ("a.png", png())}),
        refusing.post(edit, data={"prompt": "a"}, files={"image": ("a.png", png()), "mask": ("m.png", png())}),
        refusing.post(
            edit, data={"prompt": "a"}, files={"image": ("a.png", png()), "mask": ("m.png", png(32, 32, mode="RGBA"))}
        ),
        refusing.post(edit, data={"prompt": "a", "n": "x"}, files={"image": ("a.png", png())}),
        refusing.post(edit, data={"prompt": "a", "loras": "[1"}, files={"image": ("a.png", png())}),
        refusing.post(edit, content=b"--x", headers={"content-type": "multipart/form-data"}),
    ]
    assert [(answer.status_code, set(answer.json())) for answer in answers] == [(400, {"error"})] * len(answers)
    params = [answer.json()["error"]["param"] for answer in answers]
    assert params == ["images", "other", "image", "image", "prompt", "mask", "mask", "n", "loras", None]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("n", "many", "invalid n 'many': expected a whole number"),
        ("seed", 1.5, "invalid seed 1.5: expected a whole number"),
        ("guidance_scale", "strong", "invalid guidance_scale 'strong': expected a number"),
        ("stream", "perhaps", "invalid stream 'perhaps': expected true or false"),
        ("prompt", 7, "invalid prompt 7: expected text"),
        ("output_compression", 101, "invalid output_compression 101: expected 100 or less"),
        ("loras", 3, "invalid loras 3: expected a list"),
    ],
)
def test_what_a_field_takes_is_said_in_plain_words(refusing, field, value, said):
    answer = refusing.post(DRAW, json={"prompt": "a", field: value})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, said)


def test_unknown_routes_jobs_and_pictures(refusing):
    for path in ("/v1/nothing", "/v1/jobs/x", "/pictures/x.png", "/pictures/..%2findex.sqlite"):
        answer = refusing.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert refusing.get(DRAW).status_code == 405
