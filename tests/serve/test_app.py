"""What holds for every API: keys, bounds, rates, ids, metrics, clients that go away."""

import base64
import logging
import time

import anyio
import pytest
from starlette.testclient import TestClient

from leanlens.serve.app import make_app
from leanlens.serve.parameters import GenerationParameters
from leanlens.serve.settings import ServerSettings

DRAW = "/v1/images/generations"
SMALL = {"prompt": "a", "size": "32x32", "num_inference_steps": 1}


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_health_readiness_metrics_and_ids(server, caplog):
    caplog.set_level(logging.INFO, "leanlens.serve")
    client = server()
    assert client.get("/health").json() == {"status": "ok"}
    assert client.post(DRAW, json=SMALL, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/ready").json() == {"status": "ready", "model": "toy"}
    assert client.get("/health", headers={"x-request-id": "a\tb" * 50}).headers["x-request-id"].startswith("req_")
    page = client.get("/metrics").text
    assert 'leanlens_requests_total{door="v1",status="200"} 1.0\n' in page
    assert 'leanlens_pictures_total{state="done"} 1.0\n' in page
    assert "leanlens_draw_seconds_count 1.0\n" in page
    assert "leanlens_queue_pictures 0.0\n" in page
    assert '"request": "mine-1"' in caplog.text


def test_every_line_of_the_log_is_json_and_says_which_request_it_is_about(server, monkeypatch):
    import io
    import json

    from leanlens.serve import engine
    from leanlens.serve.logging import JsonLines

    def broken(*given):
        raise KeyError("what went wrong")

    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("leanlens")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        monkeypatch.setattr(engine, "draw_together", broken)
        assert server().post(DRAW, json=SMALL, headers={"x-request-id": "mine-2"}).status_code == 500
    finally:
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    about = [line for line in lines if line.get("request") == "mine-2"]
    failed, answered = about
    assert (failed["level"], failed["message"], "what went wrong" in failed["error"]) == (
        "error",
        "drawing failed",
        True,
    )
    assert (answered["status"], answered["path"], answered["logger"]) == (500, DRAW, "leanlens.serve")
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert next(line for line in lines if "is open on" in line.get("message", "")).get("request") is None


def test_lines_for_a_terminal_are_text_that_nobody_can_forge(server):
    import io

    from leanlens.serve.logging import TextLines, log_format

    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(TextLines())
    logger = logging.getLogger("leanlens")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        forged = "/v1/x%0A12:00:00%20error:%20forged%1B[2J"
        assert server().get(forged, headers={"x-request-id": "mine-3"}).status_code == 404
        logger.warning("two\nlines")
    finally:
        logger.removeHandler(handler)
    lines = text.getvalue().splitlines()
    assert "\x1b" not in text.getvalue()
    assert all(line[2] == line[5] == ":" or line.startswith("    ") for line in lines)
    assert not any(line.startswith("12:00:00 error: forged") for line in lines)
    assert any("GET /v1/x" in line and " 404 in " in line for line in lines)
    assert any(line.endswith("warning: two") for line in lines)
    assert lines[-1] == "    lines"
    assert (log_format("text"), log_format("json"), log_format("auto")) == ("text", "json", "json")
    with pytest.raises(ValueError, match="invalid --log 'xml': expected auto, text or json"):
        log_format("xml")


def test_a_server_of_ones_own_machine_answers_to_no_other_name(server):
    client = server(loopback_only=True)
    for host, status in (
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403), ("", 403),
    ):  # fmt: skip
        answer = client.get("/v1/models", headers={"Host": host})
        assert answer.status_code == status, host
    assert "answers to localhost only" in answer.json()["error"]["message"]


def test_keys_and_passwords(server):
    client = server(api_keys=("right",), users={"ann": "pass:word"})
    good = [{"Authorization": "Bearer right"}, basic("ann:pass:word"), basic("anyone:right")]
    bad = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}, basic("ann:right"), basic("undefined"),
           {"Authorization": "Basic %%%"}, {"Authorization": "Bearer é".encode()}]  # fmt: skip
    assert [client.get("/v1/models", headers=headers).status_code for headers in good] == [200] * 3
    answers = [client.get("/v1/models", headers=headers) for headers in bad]
    assert [answer.status_code for answer in answers] == [401] * len(bad)
    assert answers[0].json()["error"]["code"] == "invalid_api_key"
    refused = client.get("/sdapi/v1/options")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Basic")
    assert client.get("/sdapi/v1/options", headers=basic("ann:pass:word")).status_code == 200
    assert client.get("/metrics").status_code == client.get("/openapi.json").status_code == 401
    assert client.get("/health").status_code == 200
    link = client.post(DRAW, json={**SMALL, "response_format": "url"}, headers=good[0]).json()["data"][0]["url"]
    assert client.get(link).status_code == 200


def test_without_keys_whatever_clients_send_is_let_in(server):
    client = server()
    for headers in (basic(""), basic("undefined"), {"Authorization": "Bearer sk-anything"}):
        assert client.get("/sdapi/v1/options", headers=headers).status_code == 200


def test_bodies_and_uploads_are_bounded(server, png):
    client = server(max_body=4096, max_upload=2048, max_upload_pixels=10_000)
    long = client.post(DRAW, json={"prompt": "a" * 5000})
    assert (long.status_code, long.json()["error"]["code"]) == (413, "request_too_large")

    def pieces():
        for _ in range(10):
            yield b'{"prompt": "' + b"a" * 1000

    unstated = client.post(DRAW, content=pieces(), headers={"content-type": "application/json"})
    assert unstated.status_code == 413
    bomb = png(2000, 2000)
    assert len(bomb) > 2048
    small_bomb = png(200, 200)
    for data, status in ((small_bomb, 400), (bomb, 413)):
        answer = client.post("/v1/images/edits", data={"prompt": "a"}, files={"image": ("a.png", data)})
        assert answer.status_code == status, answer.text
    assert "40,000 pixels" in client.post(
        "/v1/images/edits", data={"prompt": "a"}, files={"image": ("a.png", small_bomb)}
    ).json()["error"]["message"]  # fmt: skip


def test_rate_and_queue_tell_when_to_come_again(server):
    client = server(requests_per_minute=1)
    assert client.post(DRAW, json=SMALL).status_code == 200
    limited = client.post(DRAW, json=SMALL)
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(limited.headers["retry-after"]) <= 60


def test_a_full_queue_is_told_by_its_status_streaming_or_not(settings, tmp_path):
    client = TestClient(make_app(settings(max_queue=1, output=tmp_path / "full")))  # not started: nothing is drawn
    for fields in ({}, {"stream": True}):
        answer = client.post(DRAW, json={**SMALL, "n": 2, **fields})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1


def test_the_wait_that_is_told_follows_from_the_measured_pace(settings, tmp_path):
    client = TestClient(make_app(settings(max_queue=4, output=tmp_path / "full")))
    service = client.app.state.service
    service.workers[0].pace = 7.0
    service.start(service.prepare(GenerationParameters("a", count=3), "other", "test"))
    answer = client.post(DRAW, json={**SMALL, "n": 2})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert (
        "the queue of 4 has no room for 2 more: 3 wait and 0 places are reserved for others; try again in about 7 s"
        in answer.text
    )
    assert "leanlens_queue_seconds 21.0\n" in client.get("/metrics").text


def test_a_slow_request_ends_in_time_and_is_not_tried_again(server):
    client = server(timeout=0.3)
    answer = client.post(DRAW, json={**SMALL, "size": "128x128", "num_inference_steps": 100, "n": 8})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert answer.headers["x-should-retry"] == "false"
    assert not client.app.state.service.running()


def test_a_client_that_goes_away_frees_its_place(server):
    client = server()
    service = client.app.state.service
    body = b'{"prompt": "a", "num_inference_steps": 100, "n": 4}'

    async def leave() -> None:
        sent = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

        async def receive():
            return sent.pop(0) if len(sent) > 1 else sent[0]

        async def send(message):
            pass

        scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "POST", "path": DRAW, "raw_path": DRAW.encode(),
                 "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
                 "headers": [(b"content-type", b"application/json")], "client": ("9.9.9.9", 1),
                 "server": ("testserver", 80)}  # fmt: skip
        with anyio.fail_after(30):
            await client.app(scope, receive, send)

    anyio.run(leave)
    assert not service.running()
    assert len(service.queue) == 0
    assert service.archive.recent("9.9.9.9")[0]["state"] == "cancelled"
    assert client.post(DRAW, json=SMALL).status_code == 200


def test_browsers_may_call_from_the_origins_that_are_set(server):
    client = server(cors_origins=("https://page.example",), api_keys=("k",))
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert client.options(DRAW, headers=asked).headers["access-control-allow-origin"] == "https://page.example"
    assert client.options(DRAW, headers={**asked, "Origin": "https://other.example"}).status_code == 400


def test_pages_of_other_origins_are_refused_and_browsers_are_asked_for_a_password(server, tmp_path):
    client = server()
    for origin, status in (("https://evil.example", 403), ("null", 403), ("http://testserver", 200)):
        assert client.post(DRAW, json=SMALL, headers={"Origin": origin}).status_code == status
    requires_auth = server(api_keys=("k",), output=tmp_path / "requires_auth")
    assert requires_auth.get("/").headers["www-authenticate"] == "Basic"
    assert requires_auth.get("/v1/models").headers["www-authenticate"] == "Bearer"


def test_a_client_may_name_its_job_and_finds_it_by_that_name(server):
    client, name = server(), "0123456789abcdef" * 2
    assert client.post(DRAW, json=SMALL, headers={"x-job-id": name}).headers["x-job-id"] == name
    again = client.post(DRAW, json=SMALL, headers={"x-job-id": name})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_exists")
    assert client.get(f"/v1/jobs/{name}").json()["state"] == "done"
    assert client.post(DRAW, json=SMALL, headers={"x-job-id": "../x"}).status_code == 400
    assert client.post(f"/v1/jobs/{name}/cancel").status_code == 404


def test_whoever_is_answered_finds_the_end_written_down(server, monkeypatch):
    client, name = server(), "0123456789abcdef" * 2
    archive = client.app.state.service.archive
    finish = archive.finish
    monkeypatch.setattr(archive, "finish", lambda job: (time.sleep(0.3), finish(job)))
    assert client.post(DRAW, json=SMALL, headers={"x-job-id": name}).status_code == 200
    assert client.get(f"/v1/jobs/{name}").json()["state"] == "done"


def test_a_mistake_of_ours_is_answered_and_hides_its_details(server, monkeypatch, caplog):
    client = server()
    monkeypatch.setattr(client.app.state.service, "prepare", lambda *args: {}["secret"])
    answer = client.post(DRAW, json=SMALL)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert answer.headers["x-should-retry"] == "false"


def test_a_model_that_is_not_there_is_said_and_not_ready(server):
    client = server(models=("/nowhere/model",))
    answer = client.post(DRAW, json=SMALL)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200


def test_the_tools_of_assistants_can_be_left_out(server, tmp_path):
    call = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Accept": "application/json, text/event-stream"}
    assert server().post("/mcp", json=call, headers=headers).status_code == 200
    without = server(tools=False, output=tmp_path / "without")
    assert without.post("/mcp", json=call, headers=headers).status_code == 404


def test_a_page_is_mounted_with_the_desk(settings):
    def mount(app, service):
        @app.get("/page")
        def page():
            return {"default": service.library.default}

    with TestClient(make_app(settings(), mount=mount)) as client:
        assert client.get("/page").json() == {"default": "toy"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"models": ()}, "models is empty"),
        ({"max_batch": 0}, "invalid max_batch 0"),
        ({"lora_folders": ("/nowhere",)}, "lora_folders /nowhere is not a folder"),
        ({"unknown": 1}, "^unknown is not a known setting; known are models, "),
        ({"api_keys": ("",)}, "api_keys holds an empty key"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(fields, said):
    with pytest.raises(ValueError, match=said):
        ServerSettings.checked(**fields)
