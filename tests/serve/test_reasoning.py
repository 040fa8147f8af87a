"""Prompts are rewritten at every API of the server, before drawing, and the record goes with the image."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from leanlens.pipeline.metadata import read_record
from leanlens.reason import reasoner_of_model
from leanlens.serve.errors import APIError
from leanlens.serve.infotext import read_parameters
from leanlens.serve.parameters import GenerationParameters
from tests.reasoning import FakeReasoner
from tests.serve.test_worker import lora_file

DRAW, ASK = "/v1/images/generations", "/v1/prompts/reason"
SMALL = {"size": "32x32", "num_inference_steps": 1}
CATS = "This flat picture shows two cats. Choice 5."


@pytest.fixture
def fake(monkeypatch):
    one = FakeReasoner()
    monkeypatch.setattr("leanlens.serve.reasoning.reasoner_of_model", lambda model: one)
    return one


def files_of(client):
    """The records in the files of a server, the oldest first."""
    folder = client.app.state.service.archive.folder / "pictures"
    return [read_record(path) for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)]


def test_openai_answers_with_the_caption_of_each_image(server, fake):
    client = server()
    answer = client.post(DRAW, json={"prompt": "two cats", "seed": 5, "n": 3, "response_format": "url", **SMALL})
    data = answer.json()["data"]
    assert [one["revised_prompt"] for one in data] == [
        f"This flat picture shows two cats. Choice {seed}." for seed in (5, 6, 7)
    ]
    assert {fact["value"] for one in data for fact in one["reasoner"]["facts"]} == {"cat"}
    for record, one in zip(sorted(files_of(client), key=lambda one: one["request"]["seed"]), data, strict=True):
        assert record["request"]["prompt"] == one["revised_prompt"]
        assert record["request"]["reasoner"]["original"] == "two cats"
        assert "seconds" not in record["request"]["reasoner"]  # or no two drawings would give the same file


def test_what_is_not_for_the_reasoner_is_left_alone(server, fake, png):
    client = server()
    for more in ({"reason": "off"}, {"prompt": "two cats", "reason": "off", "negative_prompt": "dogs"}):
        answer = client.post(DRAW, json={"prompt": "two cats", **SMALL, **more}).json()
        assert "revised_prompt" not in answer["data"][0]
    edit = client.post("/v1/images/edits", data={"prompt": "two cats", "num_inference_steps": "2"},
                       files={"image": ("a.png", png(32, 32), "image/png")})  # fmt: skip
    assert edit.status_code == 200
    assert "revised_prompt" not in edit.json()["data"][0]
    assert fake.asks == []
    assert [one["request"]["prompt"] for one in files_of(client)] == ["two cats"] * 3
    assert all("reasoner" not in one["request"] for one in files_of(client))
    client.post(DRAW, json={"prompt": "two cats", "negative_prompt": "dogs", "seed": 5, **SMALL})
    assert files_of(client)[-1]["request"]["negative_prompt"] == "dogs"


def test_turned_off_by_the_operator_stays_off(server, fake):
    client = server(reason="off")
    for more in ({}, {"reason": "default"}):
        assert "revised_prompt" not in client.post(DRAW, json={"prompt": "a", **SMALL, **more}).json()["data"][0]
    body = {"prompt": "a", "width": 32, "height": 32, "steps": 1, "override_settings": {"reason": "default"}}
    assert json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])["prompt"] == "a"
    assert client.get("/sdapi/v1/options").json()["reason"] == "off"
    assert client.post(ASK, json={"prompt": "a"}).json()["reasoner"] is None
    assert fake.asks == []


def test_a_model_that_states_no_style_is_left_alone(server):
    answer = server().post(DRAW, json={"prompt": "two cats", **SMALL}).json()
    assert "revised_prompt" not in answer["data"][0]


def test_a_preview_is_what_is_drawn(server, fake):
    client = server()
    asked = {"prompt": "two cats", "seed": 5, "size": "64x32", "fixed": {"color 1": "blue"}}
    seen = client.post(ASK, json=asked).json()
    assert seen["prompt"] == "This flat picture shows two cats, blue. Choice 5."
    assert (seen["model"], seen["seed"], seen["width"], seen["height"], seen["warnings"]) == ("toy", 5, 64, 32, [])
    assert seen["reasoner"]["original"] == "two cats"
    assert seen["reasoner"]["source"] == "fake 1"
    drawn = client.post(DRAW, json={**asked, "num_inference_steps": 1}).json()["data"][0]
    assert drawn["revised_prompt"] == seen["prompt"]
    assert {**drawn["reasoner"], "seconds": 0} == {**seen["reasoner"], "seconds": 0}
    assert not files_of(client)[1:]  # of the preview nothing is kept
    random = client.post(ASK, json={"prompt": "two cats"}).json()
    assert random["prompt"] == f"This flat picture shows two cats. Choice {random['seed']}."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "prompt is missing"),
        ({"prompt": "a", "reason": "on"}, "invalid reason 'on': expected default or off"),
        ({"prompt": "a", "fixed": {"hat": "red"}}, "fixed 'hat' is no fact of this prompt"),
        ({"prompt": "a", "fixed": {"background": "red"}, "reason": "off"},
         "invalid fixed: this request turns the reasoner off"),
        ({"prompt": "a", "fixed": ["red"]}, "invalid fixed: expected an object with named fields"),
        ({"prompt": "a", "fixed": {"background": [1]}}, "invalid fixed.background: expected text"),
        ({"prompt": "a", "fixed": dict.fromkeys(map(str, range(65)), "")},
         "invalid fixed: expected at most 64 of them"),
        ({"prompt": "a", "loras": ["none"]}, "loras 'none' is not offered; choose among: none"),
        ({"prompt": "a", "size": "33x32"}, "size 33x32: "),
        ({"prompt": "a" * 40_000}, "prompt has 40,000 characters; at most 32,000 are accepted"),
        ({"prompt": "a", "parameters": 1}, "invalid parameters 1: "),
    ],
)  # fmt: skip
def test_errors_name_the_field(server, fake, body, message):
    answer = server().post(ASK, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith(message)
    assert message.removeprefix("invalid ").startswith(answer.json()["error"]["param"])


def test_fixed_facts_are_refused_where_nothing_is_rewritten(server, fake, png, monkeypatch):
    client, fixed = server(), json.dumps({"background": "red"})
    edit = client.post("/v1/images/edits", data={"prompt": "a", "fixed": fixed},
                       files={"image": ("a.png", png(32, 32), "image/png")})  # fmt: skip
    assert edit.status_code == 400
    assert edit.json()["error"]["message"] == "invalid fixed: a prompt with an image is not rewritten"
    monkeypatch.setattr("leanlens.serve.reasoning.reasoner_of_model", reasoner_of_model)
    client.app.state.service.reasoning._reasoners.clear()
    plain = client.post(ASK, json={"prompt": "a", "fixed": {"background": "red"}}).json()
    assert plain["error"]["message"] == "invalid fixed: toy has no reasoner"


def test_words_that_are_not_known_are_said(server, fake):
    client = server()
    said = "toy does not know 'lighthouse'; nearest: house (0.62)"
    assert client.post(DRAW, json={"prompt": "a lighthouse", "n": 2, **SMALL}).json()["warnings"] == [said]
    assert client.post(ASK, json={"prompt": "a lighthouse"}).json()["warnings"] == [said]
    body = {"prompt": "a lighthouse", "width": 32, "height": 32, "steps": 1}
    assert json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])["comments"] == said


def test_a_stream_ends_with_the_caption(server, fake):
    body = {"prompt": "two cats", "seed": 5, "stream": True, **SMALL}
    lines = server().post(DRAW, json=body).text.splitlines()
    event = json.loads(next(line for line in lines if line.startswith("data:")).removeprefix("data:"))
    assert (event["revised_prompt"], event["reasoner"]["original"]) == (CATS, "two cats")


def test_infotext_holds_the_caption_and_what_was_written(server, fake):
    client = server()
    prompt = 'two "cats", Steps: 9, <lora> (red:1.3)\nNegative prompt: none — zwei Katzen 猫'
    body = {"prompt": prompt, "seed": 5, "width": 32, "height": 32, "steps": 1, "batch_size": 2}
    answer = client.post("/sdapi/v1/txt2img", json=body).json()
    info = json.loads(answer["info"])
    captions = [f"This flat picture shows {prompt}. Choice {seed}." for seed in (5, 6)]
    assert info["all_prompts"] == captions
    assert info["prompt"] == captions[0]
    assert info["extra_generation_params"] == {"Original prompt": prompt, "Reasoner": "fake 1"}
    assert "weights such as (red:1.3) are taken literally" in info["comments"]
    settings = read_parameters(info["infotexts"][0])
    assert (settings["Original prompt"], settings["Reasoner"]) == (prompt, "fake 1")
    assert (settings["Seed"], settings["Size-1"], settings["Size-2"]) == ("5", "32", "32")
    again = client.post("/sdapi/v1/png-info", json={"image": answer["images"][0]}).json()
    assert again["parameters"]["Original prompt"] == prompt


def test_an_infotext_read_back_gives_the_same_image(server, fake):
    client = server()
    first = client.post("/sdapi/v1/txt2img", json={"prompt": "two cats", "seed": 5, "width": 32, "height": 32}).json()
    settings = read_parameters(json.loads(first["info"])["infotexts"][0])
    assert settings["Prompt"] == CATS
    sent = {"prompt": settings["Prompt"], "seed": int(settings["Seed"]), "steps": int(settings["Steps"]),
            "cfg_scale": float(settings["CFG scale"]), "width": 32, "height": 32}  # fmt: skip
    again = client.post("/sdapi/v1/txt2img", json=sent).json()
    first_text, text = (json.loads(one["info"])["infotexts"][0] for one in (first, again))
    assert text.split("\n")[0] == CATS
    assert "Original prompt" not in text
    assert "Original prompt" in first_text
    pixels = [record["request"]["prompt"] for record in files_of(client)]
    assert pixels == [CATS, CATS]


def test_automatic1111_clients_turn_it_off_as_they_are_used_to(server, fake, png):
    client = server()
    small = {"prompt": "two cats", "seed": 5, "width": 32, "height": 32, "steps": 1}

    def drawn(**more):
        return json.loads(client.post("/sdapi/v1/txt2img", json=small | more).json()["info"])["prompt"]

    assert drawn() == CATS
    assert drawn(reason="off") == drawn(override_settings={"reason": "off"}) == "two cats"
    assert drawn(fixed={"color 1": "blue"}) == "This flat picture shows two cats, blue. Choice 5."
    assert client.post("/sdapi/v1/options", json={"reason": "off"}).status_code == 200
    assert drawn() == "two cats"
    assert client.get("/sdapi/v1/options").json()["reason"] == "off"
    assert drawn(override_settings={"reason": "default"}) == CATS
    assert client.post("/sdapi/v1/options", json={"reason": "no"}).status_code == 422
    wrong = client.post("/sdapi/v1/txt2img", json=small | {"override_settings": {"reason": "no"}})
    assert (wrong.status_code, wrong.json()["detail"]) == (422, "invalid reason 'no': expected default or off")


def test_a_loras_trigger_is_kept(server, fake, tmp_path):
    lora_file(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    with safe_open(file, "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
    save_file(tensors, tmp_path / "mine.safetensors", {"modelspec.trigger_phrase": "sks toy, in  mystyle"})
    client = server(lora_folders=(tmp_path,))
    body = {"prompt": "a sks toy <lora:mine:0.5>", "seed": 5, "width": 32, "height": 32, "steps": 1}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"])
    assert info["prompt"] == "This flat picture shows a sks toy, sks toy, in mystyle. Choice 5."
    asked = client.post(ASK, json={"prompt": "a", "seed": 5, "loras": ["mine"]}).json()
    assert asked["prompt"] == "This flat picture shows a, sks toy, in mystyle. Choice 5."
    assert fake.asks[0].triggers == ("sks toy", "in mystyle")


def test_a_caption_is_held_against_the_word_list(service, fake, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("knife\n")
    one = service(started=False, safety="prompt", safety_words=words)
    for parameters in (GenerationParameters("a cat", fixed={"color 1": "knife"}), GenerationParameters("a knife")):
        with pytest.raises(APIError, match="prompt holds 'knife'"):
            one.prepare(parameters, "somebody", "test")
        with pytest.raises(APIError, match="prompt holds 'knife'"):
            one.reason(parameters)


def test_the_second_pass_carries_the_caption_and_words_of_its_own_are_left_alone(server, fake):
    client = server()
    body = {"prompt": "two cats", "seed": 5, "width": 32, "height": 32, "steps": 2, "enable_hr": True, "hr_scale": 2}
    for more, prompt, has_record in (({}, CATS, True), ({"hr_prompt": "three dogs"}, "three dogs", False)):
        info = json.loads(client.post("/sdapi/v1/txt2img", json=body | more).json()["info"])
        assert info["prompt"] == prompt
        record = files_of(client)[-1]["request"]
        assert (record["image"] is not None, record["prompt"], "reasoner" in record) == (True, prompt, has_record)
    assert len(fake.asks) == 2


def test_a_record_that_comes_with_the_prompt_is_drawn_as_it_is(service, fake):
    one = service(started=False)
    request, _ = one.reason(GenerationParameters("two cats", seed=5, width=32, height=32))
    again = GenerationParameters(request.prompt, seed=9, width=32, height=32, reasoned=request.reasoner)
    job = one.prepare(again, "somebody", "test")
    assert (job.tasks[0].request.prompt, job.tasks[0].request.reasoner) == (CATS, request.reasoner)
    assert len(fake.asks) == 1
