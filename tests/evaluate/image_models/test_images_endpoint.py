"""Images endpoints that answer well and badly, on this machine."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from leanlens.evaluate.image_models.images_endpoint import ImagesEndpoint
from leanlens.evaluate.image_models.spec import parse_model
from leanlens.evaluate.suite import ImageFailed, Item
from tests.contract.running import Running
from tests.mock_endpoint import Reply, broken, html, mock_endpoint, too_many

CUBE = Item("0", "a red cube", size=(64, 48))


def png(size=(64, 48), color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def answer(data=None, **fields):
    image = {"b64_json": base64.b64encode(png() if data is None else data).decode()} if "url" not in fields else {}
    return Reply(body=json.dumps({"created": 1, "data": [image | fields]}).encode())


def opened(server, options="", name="theirs"):
    return ImagesEndpoint(parse_model(f"{name}={server.url}#flux{options}"))


def test_a_request_and_its_image():
    with mock_endpoint(lambda body, count: answer(revised_prompt="one red cube")) as server:
        drawn = opened(server, ",quality=high").draw(CUBE, 7)
    assert server.bodies == [
        {"model": "flux", "prompt": "a red cube", "n": 1, "size": "64x48", "quality": "high", "seed": 7,
         "response_format": "b64_json"}
    ]  # fmt: skip
    assert server.headers[0]["path"] == "/v1/images/generations"
    assert "Authorization" not in server.headers[0]
    assert drawn.image.size == (64, 48)
    assert drawn.image.getpixel((3, 3)) == (255, 0, 0)
    assert drawn.notes == {"revised_prompt": "one red cube"}
    assert drawn.seconds > 0


def test_the_key_comes_from_the_environment_and_stands_in_no_message(monkeypatch):
    monkeypatch.setenv("THEIR_KEY", "secret-123")
    said = Reply(status=400, body=b'{"error": {"message": "bad key secret-123"}}')
    with mock_endpoint(lambda body, count: said) as server:
        model = opened(server, ",key=THEIR_KEY")
        with pytest.raises(ImageFailed, match=r"refused: HTTP 400: bad key \*\*\*"):
            model.draw(CUBE, 0)
        assert server.headers[0]["Authorization"] == "Bearer secret-123"
        assert "secret" not in json.dumps(model.identity())
        monkeypatch.delenv("THEIR_KEY")
        with pytest.raises(ValueError, match="environment variable THEIR_KEY is not set"):
            opened(server, ",key=THEIR_KEY")


@pytest.mark.parametrize(
    "bad",
    [
        broken(), html(), too_many(retry_after="0.01"), Reply(drop=True),
        Reply(body=b'{"data": [{"b64_json": "%%%"}]}'), Reply(body=b'{"data": []}'),
        answer(b"no image"), answer(png()[:60]),
    ],
)  # fmt: skip
def test_what_passes_is_tried_again(bad, monkeypatch):
    monkeypatch.setattr("leanlens.endpoint.backoff", lambda first, attempt: 0.001)
    with mock_endpoint(lambda body, count: bad if count < 2 else answer()) as server:
        assert opened(server).draw(CUBE, 0).image.size == (64, 48)
        assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (broken(), "server: HTTP 500"),
        (html(), "invalid: no image: <html>Sign in"),
        (Reply(body=b'{"data": [{"b64_json": "%%%"}]}'), "invalid: the image is no base64"),
        (answer(b"no image"), "invalid: the picture cannot be opened"),
        (answer(png((32, 32))), "the image has 32 x 32 pixels; asked for were 64 x 48"),
        (Reply(delay=0.6), "timeout: no answer within 0.3 s"),
        (Reply(status=400, body=b'{"error": {"code": "content_policy_violation"}}'), "refused: HTTP 400: content_pol"),
        (answer(url="http://elsewhere.example/a.png"), "invalid: the image is at another host, elsewhere.example"),
        (answer(url="file:///etc/passwd"), "invalid: the image is at another host, file"),
    ],
)
def test_an_image_that_does_not_come_has_failed_with_a_reason(bad, reason, monkeypatch):
    monkeypatch.setattr("leanlens.endpoint.backoff", lambda first, attempt: 0.001)
    with mock_endpoint(lambda body, count: bad) as server, pytest.raises(ImageFailed, match=reason):
        opened(server, ",tries=2,timeout=0.3").draw(CUBE, 0)


@pytest.mark.parametrize("status", [401, 404])
def test_an_endpoint_that_draws_nothing_ends_the_run(status):
    said = Reply(status=status, body=b'{"error": {"message": "no such model"}}')
    with mock_endpoint(lambda body, count: said) as server:
        with pytest.raises(ValueError, match=f"theirs at .* draws nothing: HTTP {status}: no such model"):
            opened(server).draw(CUBE, 0)
        assert len(server.bodies) == 1


def test_a_server_that_takes_no_seed_is_asked_without(caplog):
    def reply(body, count):
        if "seed" in body:
            return Reply(status=400, body=b'{"error": {"message": "Unknown parameter: seed"}}')
        return answer()

    with mock_endpoint(reply) as server:
        model = opened(server)
        model.draw(CUBE, 1)
        model.draw(CUBE, 2)
        assert ["seed" in body for body in server.bodies] == [True, False, False]
        assert opened(server, ",seeds=off").identity() != model.identity()


def test_an_image_at_an_address_of_the_same_host_is_fetched(tmp_path):
    class Files:
        url = None

    with mock_endpoint(lambda body, count: answer(url=Files.url)) as server:
        Files.url = "data:image/png;base64," + base64.b64encode(png()).decode()
        assert opened(server).draw(CUBE, 0).image.size == (64, 48)
        Files.url = "/files/image.png"  # the mock has no such path, but is asked for it
        with pytest.raises(ImageFailed, match=r"HTTP (501|404)"):
            opened(server, ",tries=1").draw(CUBE, 0)


def test_threads_share_one_pace():
    with mock_endpoint(lambda body, count: Reply(delay=0.05, body=answer().body)) as server:
        model = opened(server, ",workers=3")
        with ThreadPoolExecutor(model.workers) as pool:
            drawn = list(pool.map(lambda seed: model.draw(CUBE, seed), range(6)))
        assert len(drawn) == 6
        assert server.most_at_once == 3


def test_costs_are_unknown_and_close_stops():
    with mock_endpoint(lambda body, count: answer()) as server:
        model = opened(server)
        assert model.costs() == {}
        model.close()
        with pytest.raises(ImageFailed, match="stopped"):
            model.draw(CUBE, 0)


@pytest.mark.long
def test_this_librarys_own_server_draws_a_column(tmp_path):
    running = Running(tmp_path / "pictures").wait()
    try:
        model = ImagesEndpoint(parse_model(f"{running.url}/v1#toy"))
        first, again, other = (model.draw(Item("0", "a cube", size=(64, 64)), seed).image for seed in (1, 1, 2))
        assert first.size == (64, 64)
        assert first.tobytes() == again.tobytes() != other.tobytes()
    finally:
        running.stop()
