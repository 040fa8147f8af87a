"""What a request may bring: bytes, values and levels of JSON, and pictures in the order limits, unpacking, resizing."""

import base64
import json
import tracemalloc

import pytest
from starlette.testclient import TestClient

DRAW = "/v1/images/generations"


def error(answer) -> str:
    body = answer.json()
    return body["error"]["message"] if isinstance(body["error"], dict) else body["detail"]


JSON = {"content-type": "application/json"}


def test_json_of_many_values_is_refused_before_it_is_parsed(server):
    client = server()
    for path in (DRAW, "/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/v1/images/edits", "/mcp"):
        for encoding in ("utf-8", "utf-16", "utf-32-le"):
            body = ('{"prompt": "\\"", "junk": [' + "{}," * 250_000 + "{}]}").encode(encoding)
            tracemalloc.start()
            answer = client.post(path, content=body, headers=JSON)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert answer.status_code in (400, 413, 422), answer.text
            assert "at most 1,048,576 bytes" in error(answer) or "too many values: the limit is 20000" in error(answer)
            assert len(answer.content) < 400
            assert peak < 10 * len(body)


def test_deep_json_is_refused(server):
    client = server()
    for path in (DRAW, "/sdapi/v1/txt2img", "/sdapi/v1/options", "/mcp"):
        for opening in ("[", '{"a":', '{"prompt": "a", "size": "64x64", "junk": [['):
            answer = client.post(path, content=opening * 10_000, headers=JSON)
            assert answer.status_code in (400, 422)
            assert "the limit is 64" in error(answer) or "the limit is 20000" in error(answer)
    assert client.get("/health").status_code == 200


def test_deep_loras_of_a_form_are_refused(server, png):
    form = {"prompt": "a", "size": "64x64", "loras": "[" * 100_000}
    answer = server().post("/v1/images/edits", data=form, files={"image": png()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "loras")


def test_json_without_pictures_has_a_limit_of_its_own(server, png):
    client = server()
    large = "a" * (2 << 20)
    for path in (DRAW, "/sdapi/v1/txt2img", "/sdapi/v1/options", "/no/such/route"):
        answer = client.post(path, json={"prompt": "a", "x": large})
        assert answer.status_code == 413, path
    chunks = (b'{"prompt": "' + large.encode(), b'"}')  # which states no length
    assert client.post(DRAW, content=iter(chunks)).status_code == 413


def test_a_large_picture_inside_json_is_drawn_from(server):
    import io
    import random

    from PIL import Image

    noise = Image.frombytes("RGB", (1280, 1024), random.Random(0).randbytes(1280 * 1024 * 3))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    assert len(buffer.getvalue()) > 3 << 20
    body = {
        "prompt": "a", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1,
        "init_images": [base64.b64encode(buffer.getvalue()).decode()],
    }  # fmt: skip
    # As PHP and some JavaScript write it: an escape for each slash.
    text = json.dumps(body).replace("/", "\\/")
    answer = server().post("/sdapi/v1/img2img", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"]) == 1


def test_all_requests_together_have_a_bound(settings, png):
    from leanlens.serve.app import make_app

    with TestClient(make_app(settings(max_bodies=4096))) as client:
        answer = client.post(DRAW, json={"prompt": "a" * 5000})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        answer = client.post("/v1/images/edits", data={"prompt": "a" * 5000}, files={"image": png()})
        assert answer.status_code == 429
        small = {"prompt": "a", "size": "64x64", "steps": 1}
        assert client.post(DRAW, json=small).status_code == 200  # what was refused is not held any more


def _counting(monkeypatch) -> list[str]:
    """Which uploads were opened and which pictures were resized."""
    from PIL import Image

    from leanlens.serve import openai, sdapi
    from leanlens.web import source

    seen: list[str] = []
    for module in (openai, sdapi, source):
        plain = module.open_upload
        monkeypatch.setattr(
            module, "open_upload", lambda *given, plain=plain: (seen.append("opened"), plain(*given))[1]
        )
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, size, *rest, **more: (seen.append(f"{size}"), resize(self, size, *rest, **more))[1],
    )
    return seen


def test_img2img_refuses_before_anything_is_unpacked(server, png, monkeypatch):
    seen, client = _counting(monkeypatch), server()
    plain = {"prompt": "a", "width": 64, "height": 64, "init_images": [base64.b64encode(png()).decode()]}
    for fields in (
        {"width": 8192, "height": 8192}, {"width": 64, "height": 100_000}, {"steps": 5000}, {"n_iter": 1000},
        {"cfg_scale": -1},
    ):  # fmt: skip
        assert client.post("/sdapi/v1/img2img", json={**plain, **fields}).status_code in (400, 422), fields
    assert seen == []


def test_edits_refuse_before_anything_is_unpacked(server, png, monkeypatch):
    seen, client = _counting(monkeypatch), server()
    for route in ("edits", "variations"):
        for fields in ({"size": "8192x8192"}, {"steps": "5000"}, {"n": "99"}, {"model": "other"}):
            form = {"prompt": "a", **fields}
            answer = client.post(f"/v1/images/{route}", data=form, files={"image": png(), "mask": png()})
            assert answer.status_code in (400, 404), fields
    assert seen == []


def test_the_page_unpacks_a_picture_once_for_a_grid_and_not_for_what_is_refused(service, png, monkeypatch):
    from leanlens.serve.errors import APIError
    from leanlens.web.form import Form, parameters_from
    from leanlens.web.source import source_reader

    seen, one = _counting(monkeypatch), service(started=False)
    source = source_reader((png(), []), one)
    with pytest.raises(APIError):
        one.prepare(parameters_from(Form(prompt="a", steps=5000), one, source), "a", "page")
    assert seen == []
    jobs = [
        one.prepare(parameters_from(Form(prompt="a", steps=steps), one, source), "a", "page") for steps in (1, 2, 3)
    ]
    assert seen == ["opened"]
    assert len({job.tasks[0].request.image for job in jobs}) == 1


def test_unknown_fields_are_named_and_not_echoed(server):
    body = {
        "prompt": "a", "width": 64, "height": 64, "steps": 1, "styles": [], "override_settings": {"x": "y" * 50_000},
        "s_churn": 0, **{f"field_{index}_{'z' * 90}": "w" * 500 for index in range(30)},
    }  # fmt: skip
    answer = server().post("/sdapi/v1/txt2img", json=body).json()
    assert answer["parameters"]["prompt"] == "a"
    assert not any(name.startswith("field_") for name in answer["parameters"])
    assert len(json.dumps(answer["parameters"])) < 2000
    comments = json.loads(answer["info"])["comments"]
    assert "field_0_zz" in comments
    assert "10 more fields" in comments
    assert "s_churn" not in comments  # off is what it is here
    assert len(comments) < 3000
