"""The page: its callbacks, and the mounted app, on the toy model."""

import asyncio
import inspect
import io
import json
import re
import time

import pytest
from PIL import Image

pytest.importorskip("gradio")

import gradio as gr
import gradio.routes
from starlette.testclient import TestClient

from leanlens.pipeline.metadata import read_record
from leanlens.serve.app import make_app
from leanlens.serve.errors import APIError
from leanlens.web.form import Form, form_from, grid_from, parameters_from
from leanlens.web.mount import mount_page
from leanlens.web.page import Page
from leanlens.web.show import SUGGESTIONS, escaped, show_history, show_welcome

SEEN = [None, False]  # what the history shows: how many, which the server keeps, and whether only favourites
SMALL = {"prompt": "a fox", "size": "32x32", "steps": 3, "seed": "7"}


class Visitor:
    """Who looks at the page, in place of Gradio's request."""

    def __init__(self, owner="ann", session="tab"):
        self.session_hash = session
        self.state = type("State", (), {"owner": owner})()


def fields(**changed):
    return list(Form(**{**SMALL, **changed}).__dict__.values())


def collect(steps):
    """Everything that an asynchronous callback yields."""

    async def gather():
        return [answer async for answer in steps]

    return asyncio.run(gather())


async def _collected(steps):
    return [answer async for answer in steps]


def names(text):
    """Names of the pictures that are shown, in order."""
    return re.findall(r'<img loading="lazy" src="pictures/([^"]+)"', text)


@pytest.fixture
def page(service):
    return Page(service())


@pytest.fixture
def site(settings, monkeypatch):
    """`site(api_keys=("k",))` -> a client of a toy server with its page."""
    from contextlib import ExitStack

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # so that it is as before when the test ends
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(TestClient(app_with_page(settings(**given))))


def app_with_page(settings):
    """The app, made where an event loop runs: Gradio makes one for each of its locks elsewhere, and closes none."""

    async def made():
        return make_app(settings, mount_page)

    return asyncio.run(made())


def test_it_draws_with_looks_and_keeps_a_history(page):
    answers = collect(page.draw(Visitor(), 24, False, None, *fields(prompt="a <b>fox</b> ${1}", steps=8)))
    last, history, older = answers[-1]
    (name,) = names(last)
    assert ">Done<" in last
    assert "<b>" not in last
    assert "${" not in last
    assert names(history) == [name] == names(show_history(page.service, "ann", 10)[0])
    assert f'data-name="use:{name}"' in history
    assert names(show_history(page.service, "bob", 10)[0]) == []
    record = read_record(page.service.archive.picture(name))
    assert record["request"]["seed"] == 7
    assert record["request"]["guidance_scale"] == page.service.library.defaults("toy").guidance_scale
    assert page.service.archive.recent("ann")[0]["api"] == "page"
    assert page._orders == {}
    assert older.visible is False  # there is nothing more to show


def test_a_half_drawn_picture_is_shown(page):
    async def first_look():
        steps = page.draw(Visitor(), 24, False, None, *fields(size="256x256", steps=100))
        try:
            async for stage, _, _ in steps:
                if "data:image/png;base64," in stage:
                    return stage
        finally:
            await steps.aclose()

    stage = asyncio.run(first_look())
    assert re.search(r"Step \d+ of 100", stage)
    assert 0 < float(re.search(r'value="([\d.]+)"', stage)[1]) < 1
    assert [job["state"] for job in page.service.archive.recent("ann")] == ["cancelled"]  # who goes away, stops it


def test_stop_ends_only_this_tabs_pictures(page):
    async def stopped():
        answers = []
        async for answer in page.draw(Visitor(session="a"), 24, False, None, *fields(size="256x256", steps=100)):
            answers.append(answer)
            page.stop(Visitor(session="b"))
            assert answers[1:] or page.service.running()
            page.stop(Visitor(session="a"))
        return answers

    assert "Stopped before it began" in asyncio.run(stopped())[-1][0]
    assert page.service.running() == []


def test_what_is_asked_while_something_is_drawn_is_drawn_after_it(page):
    async def drawn():
        first = page.draw(Visitor(), 24, False, None, *fields(prompt="first", size="256x256", steps=60))
        second = page.draw(Visitor(), 24, False, None, *fields(prompt="<second>"))
        stages = {"first": [], "second": []}

        async def follow(name, steps):
            async for stage, *_ in steps:
                stages[name].append(stage)

        tasks = [asyncio.create_task(follow("first", first))]
        while not stages["first"]:
            await asyncio.sleep(0.01)
        tasks.append(asyncio.create_task(follow("second", second)))
        await asyncio.gather(*tasks)
        return stages

    stages = asyncio.run(drawn())
    queued = [stage for stage in stages["first"] if "1 more request in the queue" in str(stage)]
    assert queued
    assert "<li>&lt;second&gt;</li>" in queued[0]
    (last,) = [stage for stage in (stages["first"][-1], stages["second"][-1]) if stage != gr.skip()]
    record = read_record(page.service.archive.picture(*names(last)))
    assert record["request"]["prompt"] == "<second>"  # at the end the newest is shown, whichever ended last
    assert len(page.service.archive.kept("ann", 9)) == 2
    assert page._orders == {}


def test_stop_stops_what_is_queued_too(page):
    async def stopped():
        long = fields(size="256x256", steps=100)
        tasks = [asyncio.create_task(_collected(page.draw(Visitor(), 24, False, None, *long))) for _ in range(2)]
        while len(page.service.running()) < 2 or page._orders["tab"][0].jobs[0].tasks[0].preview is None:
            await asyncio.sleep(0.01)
        page.stop(Visitor())
        return await asyncio.gather(*tasks)

    (last,) = [answers[-1][0] for answers in asyncio.run(stopped()) if answers[-1][0] != gr.skip()]
    assert "data:image/png;base64," in last  # of the first, which had begun
    assert page.service.running() == []
    assert {job["state"] for job in page.service.archive.recent("ann")} == {"cancelled"}


def test_a_stopped_picture_keeps_its_last_look(page):
    async def stopped():
        stage = ""
        async for stage, *_ in page.draw(Visitor(), 24, False, None, *fields(size="256x256", steps=100)):
            if "data:image/png" in str(stage):
                page.stop(Visitor())
        return stage

    last = asyncio.run(stopped())
    assert "data:image/png;base64," in last
    assert re.search(r"Stopped at step \d+ of 100\.", last)


def test_an_error_leaves_what_is_being_drawn_on_the_stage(page, monkeypatch):
    warned = []
    monkeypatch.setattr(gr, "Warning", warned.append)

    async def both():
        steps = page.draw(Visitor(), 24, False, None, *fields(size="256x256", steps=40))
        await anext(steps)
        refused = await _collected(page.draw(Visitor(), 24, False, None, *fields(size="big")))
        return refused, await _collected(steps)

    refused, drawn = asyncio.run(both())
    assert refused == [(gr.skip(), gr.skip(), gr.skip())]
    assert "expected WIDTHxHEIGHT" in warned[0]
    assert names(drawn[-1][0])


def test_pictures_of_the_history_are_favoured_and_deleted(page):
    ann, bob = Visitor(), Visitor(owner="bob", session="other")
    drawn = [collect(page.draw(ann, 24, False, None, *fields(seed=str(seed))))[-1][0] for seed in range(2)]
    first, second = [names(stage)[0] for stage in drawn]

    def press(who, action, name, favourites=False):
        return names(page.keep(24, favourites, who, gr.EventData(None, {"name": f"{action}:{name}"}))[0])

    assert press(bob, "remove", first) == press(bob, "favour", first) == []  # another's are not touched
    assert press(ann, "favour", first) == [second, first]
    assert names(page.history(24, True, ann)[0]) == [first]
    assert press(ann, "unfavour", first, favourites=True) == []
    assert press(ann, "remove", second) == [first]
    assert page.service.archive.picture(second) is None
    assert page.keep(24, False, ann, gr.EventData(None, {"name": f"use:{first}"})) == (gr.skip(), gr.skip())
    for none in ("remove:../index.sqlite", "remove:", "", "favour:%"):
        page.keep(24, False, ann, gr.EventData(None, {"name": none}))
    assert names(page.history(24, False, ann)[0]) == [first]


def test_the_button_for_more_is_there_where_there_is_more(page):
    collect(page.draw(Visitor(), 24, False, None, *fields(count=3)))
    assert [page.history(limit, False, Visitor())[1].visible for limit in (2, 3, 4)] == [True, False, False]


def test_what_is_refused_is_said(page):
    for changed, words in (
        ({"size": "33x32"}, "width 33"),
        ({"size": "big"}, "expected WIDTHxHEIGHT"),
        ({"seed": "x"}, "seed &#x27;x&#x27;"),
        ({"steps": 151}, "from 1 to 150"),
        ({"loras": ["none.such:0.5"]}, "is not offered"),
        ({"model": "other"}, "is not offered"),
        ({"aspect": "7:5", "size": ""}, "expected one of auto, 1:2"),
        ({"aspect": "1:1", "base": 100, "size": ""}, "multiple of 16"),
    ):
        ((stage, _, _),) = collect(page.draw(Visitor(), 24, False, None, *fields(**changed)))
        assert 'role="alert"' in stage
        assert words in stage
    assert page.service.archive.recent("ann") == []


def test_settings_come_back_from_a_picture(page, tmp_path, png):
    drawn = collect(page.draw(Visitor(), 24, False, None, *fields(seed=str(2**63 - 1), negative_prompt="fog")))[-1][0]
    (name,) = names(drawn)
    taken = page.take(gr.EventData(None, {"name": f"use:{name}"}))
    dropped = page.recover(str(page.service.archive.picture(name)))
    assert taken[1:] == dropped[1:]
    assert (names(taken[0]), names(dropped[0])) == ([name], [])
    form = Form(*taken[1:])
    assert (form.seed, form.negative_prompt, form.steps) == (str(2**63 - 1), "fog", 3)
    again = collect(page.draw(Visitor(), 24, False, None, *taken[1:]))[-1][0]
    first, second = (page.service.archive.picture(each).read_bytes() for each in (name, *names(again)))
    assert first == second
    for bad in ("../index.sqlite", "0" * 32 + "-0.png", ""):
        assert 'role="alert"' in page.take(gr.EventData(None, {"name": f"use:{bad}"}))[0]
    for data in (png(), b"no picture"):
        (tmp_path / "other.png").write_bytes(data)
        assert 'role="alert"' in page.recover(str(tmp_path / "other.png"))[0]


def test_a_suggestion_fills_the_prompt_and_what_is_none_does_not(page):
    shown = show_welcome()
    for index, prompt in enumerate(SUGGESTIONS):
        assert f'data-name="{index}">{prompt}<' in shown
        assert page.suggest(gr.EventData(None, {"name": str(index)})) == prompt
    for none in ("9", "-1", "x", ""):
        assert page.suggest(gr.EventData(None, {"name": none})) == gr.skip()


def test_strength_is_read_as_text(service):
    one = service(started=False)
    strengths = [
        parameters_from(Form(strength=text), one, lambda parameters: None).strength for text in ("", " 0.25 ", "1")
    ]
    assert strengths == [None, 0.25, 1.0]
    with pytest.raises(APIError, match="invalid strength 'much': expected a number"):
        parameters_from(Form(strength="much"), one, lambda parameters: None)


def test_a_foreign_record_opens_no_path_and_names_what_is_missing(service):
    one = service(started=False)
    request = {
        "prompt": "a", "negative_prompt": "", "width": 240, "height": 80, "num_inference_steps": 5,
        "guidance_scale": 2.5, "seed": 1, "image": "/etc/passwd", "strength": 0.5,
        "loras": [{"path": "/x/fox.safetensors", "scale": 0.5}],
    }  # fmt: skip
    form, notes = form_from({"request": request, "model": {"name": "/models/other"}}, one)
    assert (form.model, form.size, form.strength, form.loras) == ("toy", "240x80", "0.5", ())
    assert len(notes) == 3
    for broken in ({}, {"request": {}}, {"request": {**request, "seed": "x"}, "model": {"name": "toy"}},
                   {"request": [], "model": 1}):  # fmt: skip
        with pytest.raises(APIError, match="damaged"):
            form_from(broken, one)


def test_sizes_follow_aspect_and_base(service):
    one = service(started=False)
    for changed, size in (
        ({}, (None, None)),
        ({"base": 128}, (128, 128)),
        ({"aspect": "16:9", "base": 1024}, (1376, 768)),
        ({"aspect": "1:2", "base": 1440}, (1040, 2080)),
        ({"aspect": "1:1"}, (128, 128)),
        ({"aspect": "1:1", "size": "64 × 32"}, (64, 32)),
    ):
        parameters = parameters_from(Form(**changed), one)
        assert (parameters.width, parameters.height) == size


def test_a_grid_varies_two_settings_from_one_seed(page):
    arguments = ["steps", "1, 2", "prompt", "a fox, red\na cat"]
    stage, _, _ = collect(page.draw_grid(Visitor(), 24, False, *arguments, None, *fields(seed="")))[-1]
    found = names(stage)
    requests = [read_record(page.service.archive.picture(name))["request"] for name in found]
    assert [(one["prompt"], one["num_inference_steps"]) for one in requests] == [
        ("a fox, red", 1), ("a fox, red", 2), ("a cat", 1), ("a cat", 2),
    ]  # fmt: skip
    assert len({one["seed"] for one in requests}) == 1
    assert stage.index("steps 1") < stage.index("steps 2") < stage.index("prompt a fox, red")
    assert "4 of 4 images done" in stage


def test_grids_that_cannot_be_drawn():
    form = Form(**SMALL)
    for arguments, words in (
        ((None, "", None, ""), "choose a setting"),
        (("seed", "1", "seed", "2"), "expected another setting"),
        (("seed", " \n", None, ""), "no values"),
        (("steps", "two", None, ""), "expected a number"),
        (("steps", ",".join("1" * 9), "seed", ",".join("1" * 9)), "81 images"),
        (("colour", "red", None, ""), "expected one of"),
    ):
        with pytest.raises(APIError, match=words):
            grid_from(form, *arguments)
    shapes = grid_from(form, "aspect", "1:1\n2:1", None, "").forms[0]
    assert [(one.aspect, one.size) for one in shapes] == [("1:1", ""), ("2:1", "")]
    assert grid_from(form, "LoRAs", "none\na:0.5, b", None, "").forms[0][1].loras == ("a:0.5", "b")


def test_a_picture_to_start_from_and_paint_as_a_mask(page, png):
    picture = png(64, 48, "green")
    sheet = Image.new("RGBA", (64, 48))
    sheet.paste((255, 255, 255, 255), (8, 8, 40, 40))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    kept = {}
    for kind, layers in (("plain", [png(64, 48, (0, 0, 0, 0), "RGBA")]), ("mask", [buffer.getvalue()])):
        stage, _, _ = collect(page.draw(Visitor(), 24, False, (picture, layers), *fields(size="", base=128)))[-1]
        kept[kind] = read_record(page.service.archive.picture(*names(stage)))["request"]
    assert (kept["plain"]["mask"], kept["plain"]["strength"]) == (None, 0.6)
    assert kept["mask"]["strength"] == 1.0
    assert (kept["mask"]["width"], kept["mask"]["height"]) == (64, 48)
    with Image.open(kept["mask"]["mask"]) as mask:
        assert mask.getbbox() == (8, 8, 40, 40)
    assert "not a readable PNG, JPEG or WebP" in collect(page.draw(Visitor(), 24, False, (b"x", []), *fields()))[-1][0]


def test_the_planners_line(service):
    page = Page(service(started=False, models=("nano", "toy")))
    given = ["nano", "auto", None, "", 3, 5, 1]
    assert "GB of memory" in page.predict(*given)
    assert page.predict(*given[:3], "3x3", *given[4:]) == page.predict(*given[:3], "x", *given[4:]) == ""


def call(client, name, data, event=None, succeeds=True, **headers):
    """Call a function of the page as its script does, and give what it ends with."""
    join = client.get("/config").json()
    index = next(one["id"] for one in join["dependencies"] if one["api_name"] == name)
    body = {"data": data, "fn_index": index, "session_hash": "tab", "event_data": event}
    assert client.post("/gradio_api/queue/join", json=body, headers=headers).status_code == 200
    ended = []
    with client.stream("GET", "/gradio_api/queue/data?session_hash=tab", headers=headers) as stream:
        for line in stream.iter_lines():  # to the end, which the server decides
            if line.startswith("data:") and (message := json.loads(line[5:]))["msg"] == "process_completed":
                ended.append(message)
    (message,) = ended
    assert message["success"] == succeeds, message
    return message["output"]["data"] if succeeds else message["output"]["error"]


def test_the_mounted_page_draws_the_same_bytes_as_the_other_apis(site):
    client = site(models=("toy", "nano"))
    shown = client.get("/")
    assert shown.status_code == 200
    assert "default-src 'self'" in shown.headers["content-security-policy"]
    assert "GB of memory" in call(client, "predict", ["nano", "auto", 128, "128x64", 3, 5, 2])[0]
    stage, history, _ = call(client, "draw", [*SEEN, None, *fields()])
    (name,) = names(stage)
    assert names(history) == names(call(client, "history", SEEN)[0]) == [name]
    body = {"prompt": "a fox", "size": "32x32", "num_inference_steps": 3, "seed": 7, "response_format": "url"}
    other = client.post("/v1/images/generations", json=body).json()["data"][0]["url"]
    assert client.get(f"/pictures/{name}").content == client.get(other).content


def upload(client, data):
    """Send a picture as the page does; gives what its script then names it by."""
    (path,) = client.post("/gradio_api/upload", files={"files": ("any name.png", data, "image/png")}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_dropped_pictures_reach_our_own_reader(site, png):
    client = site(max_upload_pixels=10_000)
    sheet = upload(client, png(64, 48, "white", "RGBA"))
    source = {"background": upload(client, png(64, 48)), "layers": [sheet], "composite": None, "id": None}
    stage, _, _ = call(client, "draw", [*SEEN, source, *fields(size="")])
    (name,) = names(stage)
    archive = client.app.state.service.archive
    assert sheet["path"].startswith(str(archive.folder / "page"))
    stored = archive.picture(name)
    assert read_record(stored)["request"]["mask"] is not None
    dropped = call(client, "recover", [upload(client, stored.read_bytes())])
    taken = call(client, "take", [], {"name": f"use:{name}"})
    assert [dropped[1], dropped[9]] == [taken[1], taken[9]] == ["a fox", "7"]
    assert "add that again" in dropped[0]
    large = {**source, "background": upload(client, png(200, 200))}
    assert "40,000 pixels" in call(client, "draw", [*SEEN, large, *fields()])[0]
    assert "40,000 pixels" in call(client, "recover", [upload(client, png(200, 200))])[0]


def test_no_file_and_no_address_that_a_client_names_is_opened(site):
    client = site()
    folder = client.app.state.service.archive.folder
    for place in ("http://127.0.0.1:9/x.png", "https://example.invalid/x.png", str(folder / "index.sqlite"),
                  str(folder / "page" / ".." / "index.sqlite"), __file__):  # fmt: skip
        for stream in (False, True):
            part = {"path": place, "is_stream": stream, "meta": {"_type": "gradio.FileData"}}
            assert call(client, "recover", [part], succeeds=False)
            source = {"background": part, "layers": [], "composite": None, "id": None}
            assert call(client, "draw", [*SEEN, source, *fields()], succeeds=False)
        assert call(client, "draw", [*SEEN, None, {**part, "is_stream": False}, *fields()[1:]], succeeds=False)
    assert client.app.state.service.archive.recent("testclient") == []
    assert not [path for path in (folder / "page").rglob("*") if path.is_file()]
    for place in (
        "file=https://example.invalid/x", "file=HTTPS://example.invalid/x", "proxy=https://example.invalid/x",
        "file=%68ttps://example.invalid/x", "deep_link?session_hash=tab", "file/http://example.invalid/x",
        "file/https%3A//example.invalid/x", f"file/{__file__}", f"file={__file__}", "file=//example.invalid/x",
        f"file={folder}/page/../index.sqlite", f"file={folder}/page/%2e%2e/index.sqlite", "stream/x", "call/draw/x",
        f"file={folder}/page/%252e%252e/index.sqlite", "file=%20http://example.invalid/x", "/file=http://x/",
    ):  # fmt: skip
        assert client.get(f"/gradio_api/{place}").status_code == 404, place
        assert client.post(f"/gradio_api/{place}").status_code == 404, place
    for place in ("process_recording", "call/draw", "call/v2/draw", "vibe-edit", "api/draw", "stream/x/close"):
        assert client.post(f"/gradio_api/{place}", json={"data": []}).status_code == 404, place


# What the page in Chromium asks for, and `config`, which it reads again once a server was started anew.
USED = {
    ("GET", "/"), ("HEAD", "/"), ("GET", "/config"), ("GET", "/theme.css"), ("GET", "/favicon.ico"),
    ("GET", "/assets/{path:path}"), ("GET", "/static/{path:path}"), ("GET", "/gradio_api/queue/data"),
    ("GET", "/gradio_api/upload_progress"), ("GET", "/gradio_api/heartbeat/{session_hash}"),
    ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/run/{api_name}"), ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/component_server"), ("POST", "/gradio_api/component_server/"),
}  # fmt: skip


def test_every_route_of_gradio_is_used_by_the_page_or_refused(site):
    """All that this version registers, and by the same list whatever the next one will."""
    client = site()
    routes = client.app.router.routes[-1].app
    written = r'@(router|app)\.(get|head|post)\(\s*"([^"]+)"'
    known = {
        (method.upper(), ("/gradio_api" if owner == "router" else "") + path)
        for owner, method, path in re.findall(written, inspect.getsource(gradio.routes))
    }
    assert len(known) > 60
    seen = set()
    for method, path in known:
        place = path.replace("{api_name}", "predict")
        place = re.sub(r"\{[^}]*path[^}]*\}", "x.js", place)
        place = re.sub(r"\{[^}]*\}", "a1", place)
        if routes.is_used(method, place):
            seen.add((method, path))
        else:
            assert client.request(method, place).status_code in (404, 405), (method, path)
    assert seen == USED


def test_the_other_apis_answer_as_before_and_nothing_is_loaded_from_elsewhere(site):
    client = site()
    for path, status in (("/v1/nothing", 404), ("/v1/images/generations", 405), ("/pictures/x", 404)):
        answer = client.get(path)
        assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert client.get("/health").json() == {"status": "ok"}
    shown, config = client.get("/").text, client.get("/config").json()
    assert config["analytics_enabled"] is False
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:)?//[^"]*"', shown)
    assert loaded == []
    assert not [sheet for sheet in config.get("stylesheets") or [] if "//" in sheet]
    for secret in ("index.sqlite", "pictures"):
        path = client.app.state.service.archive.folder / secret
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_the_page_asks_for_the_key(site):
    import base64

    client = site(users={"ann": "secret"})
    refused = client.get("/")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic")
    assert client.post("/gradio_api/queue/join", json={}).status_code == 401
    client.headers["authorization"] = "Basic " + base64.b64encode(b"ann:secret").decode()
    stage, _, _ = call(client, "draw", [*SEEN, None, *fields()])
    service = client.app.state.service
    assert [job["owner"] for job in service.archive.recent("user ann")] == ["user ann"]
    assert names(stage)


def test_an_image_that_did_not_arrive_is_not_left_out(site):
    """Neither one that the page could not read from its editor, nor one sent ahead, which the page does not do."""
    client = site()
    lost = {"background": None, "layers": [], "composite": None, "id": "lost"}
    assert "could not be read" in call(client, "draw", [*SEEN, lost, *fields()])[0]
    assert "could not be read" in call(client, "grid", [*SEEN, "steps", "1", None, "", lost, *fields()])[0]
    assert client.app.state.service.archive.recent("testclient") == []
    components = client.get("/config").json()["components"]
    (editor,) = (one["id"] for one in components if one["type"] == "imageeditor")
    ahead = {"data": "{}", "fn_name": "accept_blobs", "component_id": editor, "session_hash": "tab"}
    assert client.post("/gradio_api/component_server/", json=ahead).status_code == 404


def test_text_stays_text():
    assert escaped("<a href='x'>{{b}} ${c} `d`") == (
        "&lt;a href=&#x27;x&#x27;&gt;&#123;&#123;b&#125;&#125; &#36;&#123;c&#125; &#96;d&#96;"
    )


def test_a_server_that_starts_anew_shows_the_old_pictures(settings):
    for run in range(2):
        with TestClient(app_with_page(settings())) as client:
            if run == 0:
                (name,) = names(call(client, "draw", [*SEEN, None, *fields()])[0])
            assert names(call(client, "history", SEEN)[0]) == [name]
            assert time.time() - client.app.state.service.started < 60


def test_strangers_sessions_are_few_enough_to_be_kept(site):
    holder = site().app.router.routes[-1].app.app.state_holder
    for number in range(600):
        holder[f"stranger{number}"]
    assert len(holder.session_data) == holder.capacity == 500
