"""What the page says of a prompt before it is drawn, and what is drawn then."""

import asyncio
import json

import pytest

pytest.importorskip("gradio")

import gradio as gr

from leanlens.pipeline.metadata import read_record
from leanlens.pipeline.reasoned import Fact, Reasoned, Unknown
from leanlens.reason.reasoner import Ask
from leanlens.reason.scenes import SceneReasoner
from leanlens.serve.errors import APIError
from leanlens.web.choices import Choices, read_choices
from leanlens.web.form import Form, form_from, grid_from, parameters_from, with_seed
from leanlens.web.layout import layout
from leanlens.web.page import Page
from leanlens.web.reasoning import known_values, read_prompt, suggest
from tests.web.test_page import Visitor, collect, names

ASKED = {
    "prompt": "a red fox", "model": "toy", "aspect": "auto", "base": 128, "size": "", "seed": "7", "loras": [],
    "choices": "",
}  # fmt: skip
SMALL = {"prompt": "a red fox", "size": "32x32", "steps": 1, "seed": "7"}


def as_asked(asks):
    """A reasoner that says what it was asked."""
    return [answer(ask) for ask in asks]


def answer(ask: Ask) -> Reasoned:
    if ask.prompt == "a caption":
        return Reasoned(original=ask.prompt, prompt=ask.prompt, source="echo 1", left_alone="it is a caption already")
    if "bad" in ask.fixed:
        raise ValueError("fixed 'bad' is not a fact")
    background = ask.fixed.get("background", "cream")
    return Reasoned(
        original=ask.prompt,
        prompt=f"{ask.prompt} <i>{ask.seed}</i> {ask.width}x{ask.height} on {background}.",
        facts=(
            Fact(key="thing 1", kind="thing", value="fox", label="a red fox"),
            Fact(key="background", kind="background", value=background, label=background, stated=False),
        ),
        fixed=dict(ask.fixed),
        not_understood=(Unknown(word="towr", nearest="tower", nearness=0.5),) if "towr" in ask.prompt else (),
        source="echo 1",
    )


@pytest.fixture
def reasoned(monkeypatch):
    monkeypatch.setattr("leanlens.serve.reasoning.reasoner_of_model", lambda model: as_asked)


@pytest.fixture
def page(reasoned, service):
    return Page(service())


def decided(**given) -> str:
    return Choices(**given).model_dump_json()


def draw(page, **changed) -> list[dict]:
    """Draw a form; gives the requests of the pictures, in order."""
    fields = Form(**{**SMALL, **changed}).__dict__.values()
    stage = collect(page.draw(Visitor(), 24, False, None, *fields))[-1][0]
    return [read_record(page.service.archive.picture(name))["request"] for name in names(stage)]


def test_what_is_read_is_what_is_drawn(page):
    choices = decided(prompt="a  red fox ", edits={"background": "teal"}, seed=99)
    read = read_prompt({**ASKED, "size": "32x32", "seed": "", "choices": choices}, page.service)
    assert (read["state"], read["seed"], read["language"], read["unknown"]) == ("read", "99", "en", [])
    assert read["caption"] == "a red fox <i>99</i> 32x32 on teal."
    assert [(fact["key"], fact["value"], fact["stated"]) for fact in read["facts"]] == [
        ("thing 1", "fox", True), ("background", "teal", False),
    ]  # fmt: skip
    drawn = draw(page, seed="-1", choices=choices, count=2)
    assert [one["prompt"] for one in drawn] == [read["caption"], read["caption"].replace("99", "100")]
    assert {one["reasoner"]["original"] for one in drawn} == {"a red fox"}
    assert [one["seed"] for one in draw(page, seed="5", choices=choices)] == [5]


def test_edits_are_of_one_prompt_and_locks_of_all():
    choices = Choices(prompt="a fox", edits={"color 1": "blue"}, locks={"background": "teal"})
    assert choices.fixed(" a  fox\n") == {"color 1": "blue", "background": "teal"}
    assert choices.fixed("a dog") == {"background": "teal"}
    assert read_choices(decided(**choices.model_dump())) == choices
    assert read_choices("") == read_choices(" ") == Choices()
    for text in ("x", "[]", "null", '{"seed": -1}', '{"edits": {"a": 1}}', '{"more": 1}', " " * 5 + "{" * 100_000):
        with pytest.raises(APIError, match="damaged"):
            read_choices(text)


def test_turned_off_it_is_drawn_as_written(page):
    (drawn,) = draw(page, reason=False, choices=decided(locks={"background": "teal"}, seed=3))
    assert (drawn["prompt"], drawn.get("reasoner"), drawn["seed"]) == ("a red fox", None, 7)


def test_where_nothing_is_rewritten_what_was_decided_is_left_out(service):
    one = service(started=False)
    choices = decided(locks={"background": "teal"}, seed=3)
    parameters = parameters_from(Form(choices=choices), one)
    assert (parameters.seed, parameters.fixed) == (None, {})
    assert read_prompt({**ASKED, "choices": choices}, one) == {"state": "absent"}


def test_with_a_source_image_the_prompt_is_left_alone(page, png):
    fields = Form(**{**SMALL, "steps": 2, "choices": decided(locks={"background": "teal"})}).__dict__.values()
    stage = collect(page.draw(Visitor(), 24, False, (png(32, 32), []), *fields))[-1][0]
    (name,) = names(stage)
    assert read_record(page.service.archive.picture(name))["request"]["prompt"] == "a red fox"


def test_what_cannot_be_read_is_said(page):
    def said(**changed):
        read = read_prompt({**ASKED, **changed}, page.service)
        return read["state"], read["sentence"]

    assert said(prompt="a caption") == ("alone", "Your prompt is drawn as you wrote it: it is a caption already.")
    assert said(choices=decided(locks={"bad": "x"})) == ("refused", "Fixed 'bad' is not a fact.")
    assert said(size="big")[0] == said(seed="x")[0] == said(choices="x")[0] == said(model="none")[0] == "refused"
    unknown = read_prompt({**ASKED, "prompt": "a towr"}, page.service)["unknown"]
    assert unknown == [
        {"word": "towr", "nearest": "tower", "sentence": "toy does not know 'towr'; nearest: tower (0.50)."}
    ]


def test_what_the_page_does_not_send_is_refused(page):
    for bad in ({**ASKED, "base": "x"}, {**ASKED, "prompt": None}, {**ASKED, "more": 1}, [], "a", None):
        with pytest.raises(ValueError, match="validation error"):
            read_prompt(bad, page.service)


def test_nothing_is_kept_of_a_reading(page):
    for _ in range(3):
        read_prompt(ASKED, page.service)
    assert page.service.archive.recent("ann") == page.service.running() == []


def test_settings_come_back_with_the_words_and_what_was_decided(page):
    choices = decided(prompt="a red fox", edits={"background": "teal"}, locks={"style": "flat"}, seed=99)
    fields = Form(**SMALL, choices=choices).__dict__.values()
    stage = collect(page.draw(Visitor(), 24, False, None, *fields))[-1][0]
    (name,) = names(stage)
    assert "You wrote: a red fox</p><p>Drawn as: a red fox &lt;i&gt;7&lt;/i&gt; 32x32 on teal." in stage
    shown, *values = page.take(gr.EventData(None, {"name": f"use:{name}"}))
    assert "You wrote: a red fox" in shown
    form = Form(*values)
    assert (form.prompt, form.seed, form.reason) == ("a red fox", "7", True)
    assert json.loads(form.choices) == {
        "prompt": "a red fox", "edits": {"background": "teal", "style": "flat"}, "locks": {},
    }  # fmt: skip
    again = names(collect(page.draw(Visitor(), 24, False, None, *values))[-1][0])
    first, second = (page.service.archive.picture(each).read_bytes() for each in (name, *again))
    assert first == second


def test_a_caption_that_would_be_another_now_comes_back_as_it_was_drawn(page, monkeypatch):
    stage = collect(page.draw(Visitor(), 24, False, None, *Form(**SMALL).__dict__.values()))[-1][0]
    (name,) = names(stage)
    record = read_record(page.service.archive.picture(name))
    record["request"]["prompt"] = record["request"]["reasoner"]["prompt"] = "a caption of before"
    form, notes = form_from(record, page.service)
    assert (form.prompt, form.reason, form.choices) == ("a caption of before", False, "")
    assert "so the form holds its caption and rewriting is off" in notes[0]
    assert service_prompt(form, page.service) == "a caption of before"
    record["request"]["reasoner"] = {"prompt": 1}
    with pytest.raises(APIError, match="damaged"):
        form_from(record, page.service)


def service_prompt(form, service) -> str:
    return service.reason(parameters_from(form, service))[0].prompt


def test_what_was_drawn_as_written_comes_back_so(page, png):
    record = {"request": draw(page, reason=False)[0], "model": {"name": "toy"}}
    form, notes = form_from(record, page.service)
    assert (form.reason, notes) == (False, ["Its prompt was drawn as it was written, so rewriting is turned off."])
    record["request"] |= {"image": "x.png", "strength": 0.5}
    assert form_from(record, page.service)[0].reason is None  # the switch says nothing of it, and stays


def test_a_grid_shows_the_readings_of_one_seed(page):
    form = Form(**{**SMALL, "seed": ""}, choices=decided(locks={"background": "teal"}, seed=41))
    grid = grid_from(with_seed(form, page.service), "prompt", "a fox\na dog", None, "")
    parameter_sets = [parameters_from(one, page.service) for one in grid.forms[0]]
    assert [(parameters.prompt, parameters.seed, parameters.fixed) for parameters in parameter_sets] == [
        ("a fox", 41, {"background": "teal"}), ("a dog", 41, {"background": "teal"}),
    ]  # fmt: skip


def test_every_value_that_an_editor_offers_is_accepted():
    reasoner = SceneReasoner()
    keys = {"background": "background", "style": "style", "relation": "relation 1"}
    for kind, values in known_values().items():
        assert len(values) > 2
        key = keys.get(kind, f"{kind} 1")
        for value, _ in values:
            (read,) = reasoner([Ask("a red apple left of a blue car", 3, 128, 128, (), {key: value})])
            assert read.fixed == {key: value}
            assert read.left_alone == "" or kind in ("relation", "place"), (key, value, read.left_alone)


def test_suggestions_replace_the_words_before_the_caret():
    found = suggest("two red app")
    assert (found["typed"], found["names"][0]) == ("app", "apple")
    assert suggest("a blue police c") == {"typed": "police c", "names": ["police car"]}
    for none in ("", "a", "two ", "a red xyzzy", "x" * 5000, None, ["a"]):
        assert suggest(none)["names"] == []
    assert len(suggest("ca")["names"]) <= 6
    assert "cat" not in suggest("a Cat")["names"]


def test_the_mounted_page_answers_its_script(reasoned, settings):
    """As the browser calls it: the functions of a piece of HTML, by their names."""
    from starlette.testclient import TestClient

    from tests.web.test_page import app_with_page

    with TestClient(app_with_page(settings())) as client:
        config = client.get("/config").json()
        parts = {part["props"].get("elem_id"): part for part in config["components"]}
        told = parts["reading"]["props"]["props"]
        assert (told["models"], told["fields"][-2:]) == (["toy"], ["reason", "choices"])

        def ask(part, name, data):
            body = {"data": data, "component_id": parts[part]["id"], "fn_name": name, "session_hash": "tab"}
            return client.post("/gradio_api/component_server/", json=body)

        assert ask("reading", "read", ASKED).json()["caption"].startswith("a red fox <i>7</i>")
        assert ask("suggest", "suggest", "an app").json()["names"][0] == "apple"
        for bad in ({}, {**ASKED, "prompt": {}}, "x"):
            assert ask("reading", "read", bad).status_code == 400
        assert ask("reading", "postprocess", "x").status_code == 404


def test_the_operator_who_turns_it_off_is_named(service, reasoned):
    one = service(started=False, reason="off")
    page = Page(one)

    async def built():
        return layout(page)

    blocks = asyncio.run(built()).blocks.values()
    (panel,) = [block for block in blocks if block.elem_id == "reading"]
    assert (panel.props["isOff"], panel.props["models"]) == (True, [])
