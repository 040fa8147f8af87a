"""Fields, parts and pictures that clients of the OpenAI Images API send: done, refused by name, or said."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from leanlens.plan.options import LoadOptions
from tests.contract.test_openai import opened

FLOAT32 = LoadOptions(dtype="float32")

DRAW, EDIT, VARY = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"
SMALL = {"size": "64x64", "num_inference_steps": 2, "seed": 5}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    from starlette.testclient import TestClient

    from leanlens.serve.app import make_app
    from leanlens.serve.settings import ServerSettings

    folder = tmp_path_factory.mktemp("toy")
    settings = ServerSettings.checked(models=("toy",), output=folder, devices=("cpu",), load=FLOAT32)
    with TestClient(make_app(settings), raise_server_exceptions=False) as client:
        yield client


def hole() -> bytes:
    """A mask of 64 x 64 that asks for the left half to be repainted."""
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def keeps_the_right_half(answer) -> bool:
    assert answer.status_code == 200, answer.text
    pixels = np.asarray(opened(answer.json()["data"][0]["b64_json"]).convert("RGB"), dtype=int)
    return bool((np.abs(pixels[:, 32:] - [255, 0, 0]) <= 1).all())


def refused(answer) -> tuple[str, str]:
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]["param"], answer.json()["error"]["message"]


def data_address(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize("image", ["image", "image[]", "image[0]"])
@pytest.mark.parametrize("mask", ["mask", "mask[]", "mask[0]"])
def test_a_mask_counts_under_every_name_that_clients_give_it(toy, png, image, mask):
    files = {image: ("a.png", png()), mask: ("m.png", hole())}
    assert keeps_the_right_half(toy.post(EDIT, data={"prompt": "a", **SMALL}, files=files))


@pytest.mark.parametrize("route", [EDIT, VARY])
@pytest.mark.parametrize("name", ["masks", "markup", "control", "promt", "svg[model]", "mask[x]"])
def test_unknown_parts_are_refused_by_name(toy, png, route, name):
    fields = {"prompt": "a", **SMALL}
    as_file = toy.post(route, data=fields, files={"image": ("a.png", png()), name: ("b.png", png())})
    as_text = toy.post(route, data={**fields, name: "x"}, files={"image": ("a.png", png())})
    for answer in (as_file, as_text):
        param, message = refused(answer)
        assert param == name
        assert message.startswith(f"{name} is not")


def test_blank_parts_of_a_browsers_form_count_as_absent(toy, png):
    """A form with nothing chosen sends an empty file without a name, and empty text."""
    line = "\r\n"
    parts = [("prompt", "", b"a"), ("steps", "", b"2"), ("seed", "", b"5"), ("n", "", b""), ("model", "", b""),
             ("mask", '; filename=""' + line + "Content-Type: application/octet-stream", b""),
             ("image", '; filename="a.png"' + line + "Content-Type: image/png", png())]  # fmt: skip
    body = b"".join(
        f'--x{line}Content-Disposition: form-data; name="{name}"{rest}{line}{line}'.encode() + value + line.encode()
        for name, rest, value in parts
    )
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = toy.post(EDIT, content=body + b"--x--\r\n", headers=kind)
    assert answer.status_code == 200, answer.text
    record = json.loads(opened(answer.json()["data"][0]["b64_json"]).info["leanlens"])
    assert (record["request"]["mask"], record["request"]["seed"]) == (None, 5)
    named = toy.post(EDIT, data={"prompt": "a"}, files={"image": ("a.png", png()), "mask": ("m.png", b"")})
    assert refused(named)[0] == "mask"  # a file that was chosen and is empty is no blank field
    without = body.replace(b'filename="a.png"', b'filename=""').replace(png(), b"")
    assert refused(toy.post(EDIT, content=without + b"--x--\r\n", headers=kind))[0] == "image"


def test_further_pictures_are_refused_by_name(toy, png):
    files = [("image[]", ("one.png", png())), ("image[]", ("two.png", png())), ("image[]", ("three.png", png()))]
    param, message = refused(toy.post(EDIT, data={"prompt": "a"}, files=files))
    assert param == "image"
    assert message == (
        "image[1] 'two.png', image[2] 'three.png' cannot be used: only the first picture is edited; send image "
        "'one.png' alone"
    )
    masks = [("image", ("a.png", png())), ("mask", ("m.png", hole())), ("mask[]", ("n.png", hole()))]
    assert refused(toy.post(EDIT, data={"prompt": "a"}, files=masks))[0] == "mask"
    twice = [("image", ("a.png", png())), ("prompt", (None, "a")), ("prompt", (None, "b"))]
    assert refused(toy.post(EDIT, files=twice))[0] == "prompt"


def test_edits_as_json_are_those_of_the_form(toy, png):
    fields = {"prompt": "a", **SMALL}
    form = toy.post(EDIT, data=fields, files={"image": ("a.png", png()), "mask": ("m.png", hole())})
    source, mask = {"image_url": data_address(png())}, {"image_url": data_address(hole())}
    listed = toy.post(EDIT, json={**fields, "images": [source], "mask": mask})
    bare = toy.post(EDIT, json={**fields, "image": source["image_url"], "mask": mask["image_url"]})
    assert len({answer.json()["data"][0]["b64_json"] for answer in (form, listed, bare)}) == 1
    assert keeps_the_right_half(listed)


@pytest.mark.parametrize(
    ("images", "param", "said"),
    [
        ([{"file_id": "file-1"}], "images[0].file_id", "stores no files"),
        ([{"image_url": "https://example.org/a.png"}], "images[0].image_url", "URLs are not fetched"),
        ([{"image_url": "file:///etc/passwd"}], "images[0].image_url", "URLs are not fetched"),
        ([{"image_url": "data:image/png;base64,%%%"}], "images[0].image_url", "not base64"),
        ([{}], "images[0].image_url", "is missing"),
        ([], "images", "images is missing"),
        ([{"image_url": "data:,", "alt": "x"}], "images.0.alt", "invalid images.0.alt"),
    ],
)
def test_pictures_that_json_only_points_at_are_refused(toy, images, param, said):
    found, message = refused(toy.post(EDIT, json={"prompt": "a", "images": images}))
    assert found == param
    assert said in message


def test_the_name_of_the_model_says_whether_links_or_base64_are_answered(toy, png):
    def kinds(answer) -> list[str]:
        assert answer.status_code == 200, answer.text
        return [key for key in ("url", "b64_json") if answer.json()["data"][0].get(key)]

    body = {"prompt": "a", **SMALL}
    both = ["url", "b64_json"]
    for name, wanted in (("dall-e-2", ["url"]), ("dall-e-3", ["url"]), ("DALL-E-3", ["url"]), ("toy", both),
                         ("gpt-image-1", both[1:]), ("chatgpt-image-latest", both[1:]), (None, both)):  # fmt: skip
        assert kinds(toy.post(DRAW, json={**body, "model": name})) == wanted, name
    assert kinds(toy.post(DRAW, json={**body, "model": "dall-e-3", "response_format": "b64_json"})) == ["b64_json"]
    for name in ("gpt-image-1", "toy"):
        assert kinds(toy.post(DRAW, json={**body, "model": name, "response_format": "url"})) == ["url"]
        assert kinds(toy.post(DRAW, json={**body, "model": name, "response_format": "b64_json"})) == ["b64_json"]
    files = {"image": ("a.png", png())}
    assert kinds(toy.post(EDIT, data={**body, "model": "dall-e-2"}, files=files)) == ["url"]
    assert kinds(toy.post(VARY, data={**SMALL, "model": "dall-e-2"}, files=files)) == ["url"]
    assert kinds(toy.post(VARY, data=SMALL, files=files)) == both


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("style", "bold"), ("moderation", "none"), ("input_fidelity", "exact"), ("complexity", "x"),
        ("quality", "best"), ("background", "transparent"), ("markup", {"image_url": "x"}), ("svg", {}),
        ("frame_count", 4), ("image", "data:,"), ("images", []), ("mask", "x"), ("prompt", ""), ("prompt", " \n"),
    ],
)  # fmt: skip
def test_what_no_field_takes_is_refused_by_name(toy, field, value):
    param, message = refused(toy.post(DRAW, json={"prompt": "a", **SMALL, field: value}))
    assert param == field
    assert message.removeprefix("invalid ").startswith(field)


def test_an_edit_needs_a_prompt_and_a_variation_does_not(toy, png):
    files = {"image": ("a.png", png())}
    assert refused(toy.post(EDIT, data={"prompt": "  ", **SMALL}, files=files))[0] == "prompt"
    assert refused(toy.post(EDIT, json={"prompt": "", "images": [{"image_url": data_address(png())}]}))[0] == "prompt"
    assert toy.post(VARY, data={"prompt": "", **SMALL}, files=files).status_code == 200


def test_what_is_not_done_stands_in_warnings(toy, png):
    plain = {"quality": "auto", "moderation": "auto", "user": "ann", "safety_identifier": "x", "input_fidelity": "low"}
    assert "warnings" not in toy.post(DRAW, json={"prompt": "a", **SMALL, **plain}).json()
    asked = {"style": "vivid", "moderation": "low", "input_fidelity": "high", "partial_images": 2, "clip_skip": 2,
             "output_compression": 50}  # fmt: skip
    said = toy.post(DRAW, json={"prompt": "a", **SMALL, **asked}).json()["warnings"]
    assert {one.split(" ")[0] for one in said} == set(asked)
    assert "clip_skip is unknown and is ignored" in said
    many = toy.post(DRAW, json={"prompt": "a", **SMALL, **{f"x{index}": 1 for index in range(500)}}).json()["warnings"]
    assert (len(many), many[-1]) == (21, "480 more fields are unknown and are ignored")
    form = toy.post(EDIT, data={"prompt": "a", **SMALL, "style": "natural"}, files={"image": ("a.png", png())})
    assert [one.split(" ")[0] for one in form.json()["warnings"]] == ["style"]
    stream = toy.post(DRAW, json={"prompt": "a", **SMALL, "stream": True, "response_format": "url"}).text
    completed = json.loads(stream.strip().split("\n")[-1].removeprefix("data: "))
    assert [one.split(" ")[0] for one in completed["warnings"]] == ["response_format"]


def test_errors_name_the_field_that_was_sent_and_one_bound(toy):
    for field in ("steps", "num_inference_steps"):
        for value in (0, 151, 2000):
            param, message = refused(toy.post(DRAW, json={"prompt": "a", field: value}))
            assert (param, message) == (field, f"invalid {field} {value}: expected a whole number from 1 to 150")
    param, message = refused(toy.post(DRAW, json={"prompt": "a", "cfg_scale": 200, "size": "64x64"}))
    assert (param, message.split(":")[0]) == ("cfg_scale", "invalid cfg_scale 200.0")


def test_a_seed_may_have_all_64_bits(toy):
    answer = toy.post(DRAW, json={"prompt": "a", **SMALL, "seed": 2**64 - 1})
    record = json.loads(opened(answer.json()["data"][0]["b64_json"]).info["leanlens"])
    assert record["request"]["seed"] == 2**64 - 1
