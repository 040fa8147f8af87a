import io
import json
import re

import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient

from leanlens.evaluate.results_file import read_results
from leanlens.evaluate.vote.app import Poll, make_app
from leanlens.evaluate.vote.votes import VoteFile, read_votes
from tests.evaluate.vote.folder import write_folder

KEY = bytes(32)
HERE = "http://localhost:8001"


class Site:
    """The app on a folder; `client()` is a browser of its own."""

    def __init__(self, folder, questions=("prompt",), token=None):
        self.folder = folder
        self.votes = VoteFile(folder)
        self.poll = Poll(read_results(folder), folder, self.votes, KEY, questions)
        self.app = make_app(self.poll, token)

    def client(self, base=HERE):
        return TestClient(self.app, base_url=base, raise_server_exceptions=False)

    def stop(self):
        self.votes.close()


@pytest.fixture
def site(tmp_path):
    opened = Site(write_folder(tmp_path / "out", 20))
    yield opened
    opened.stop()


def start(client, name="Ann"):
    return client.post("/start", json={"name": name}).json()


def cast(client, state, choice="left"):
    return client.post("/vote", json={"task": state["task"]["id"], "choice": choice, "seconds": 2.5})


def test_the_page_and_all_it_loads_come_from_the_server(site):
    client = site.client()
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"""https?://|style=| on\w+=|<script>""", page.text)
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert client.get(f"/{address}").status_code == 200, address
    assert client.get("/?kind=text/evil&content=x").text == page.text


def test_a_voter_goes_through_the_pairs(site):
    client = site.client()
    assert client.get("/state").json() == {"voter": None, "total": 23}
    state = start(client)
    seen = []
    while state["task"]:
        assert state["done"] == len(seen)
        seen.append(state["task"]["id"])
        answer = cast(client, state)
        assert answer.status_code == 200
        state = answer.json()
    assert (len(seen), state["done"], state["total"], state["undo"]) == (23, 23, 23, True)
    votes = read_votes(site.folder)
    assert [one.vote for one in votes] == seen
    assert {one.voter for one in votes} == {"Ann"}
    assert {one.seconds for one in votes} == {2.5}


def test_the_page_does_not_learn_what_it_shows(site):
    client = site.client()
    state = start(client)
    texts = [client.get("/state").text]
    while state["task"]:
        answer = cast(client, state)
        texts.append(answer.text)
        state = answer.json()
    for word in ("alpha", "beta", "images/", ".png", "gold", "repeat", "seed", "00001"):
        assert not any(word in text for text in texts), word


def test_images_are_bare_and_belong_to_the_voter(site):
    client, other = site.client(), site.client()
    task = start(client)["task"]
    raw = client.get(f"/{task['left']}")
    image = Image.open(io.BytesIO(raw.content))
    image.load()
    assert image.info == {}
    assert b"drawn by" not in raw.content
    planned = site.poll.plan("Ann")[task["id"]]
    assert image.tobytes() == Image.open(site.folder / planned.left.file).tobytes()
    assert "filename" not in str(raw.headers)
    assert other.get(f"/{task['left']}").status_code == 404
    start(other, "Bob")
    assert other.get(f"/{task['left']}").status_code == 404
    assert client.get(f"/image/{task['id']}/middle").status_code == 422
    assert client.get("/image/..%2f..%2fresults.json/left").status_code in (404, 422)


def test_a_double_click_is_one_vote_and_the_first_counts(site):
    client = site.client()
    state = start(client)
    first, again = cast(client, state), cast(client, state, "right")
    assert first.json() == again.json()
    (vote,) = read_votes(site.folder)
    assert vote.choice == "left"


def test_undo_goes_back_one_pair(site):
    client = site.client()
    first = start(client)
    assert not first["undo"]
    cast(client, first)
    back = client.post("/undo").json()
    assert back["task"] == first["task"]
    assert (back["done"], back["undo"]) == (0, False)
    assert client.post("/undo").json() == back
    cast(client, back, "bad")
    assert [one.choice for one in read_votes(site.folder)] == ["bad"]


def test_a_server_that_is_started_again_continues(site):
    client = site.client()
    state = cast(client, start(client)).json()
    cookies = dict(client.cookies)
    site.stop()
    path = site.folder / "votes.jsonl"
    path.write_bytes(path.read_bytes() + b'{"vote": "torn')
    again = Site(site.folder)
    try:
        client = again.client()
        client.cookies.update(cookies)
        assert client.get("/state").json() == state
    finally:
        again.stop()
    site.votes = VoteFile(site.folder)


def test_a_name_continues_in_another_browser_and_no_name_is_its_own(site):
    one, other = site.client(), site.client()
    state = cast(one, start(one, "  Ann  Lee ")).json()
    assert state["voter"] == "Ann Lee"
    assert start(other, "Ann Lee") == state
    names = {start(site.client(), "")["voter"] for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("anonymous-") for name in names)


@pytest.mark.parametrize("name", ["=1+1", "<b>", "a" * 41, "a\x00b", "a/b"])
def test_a_name_has_letters_digits_and_little_else(site, name):
    answer = site.client().post("/start", json={"name": name})
    assert answer.status_code == 400
    assert "up to 40 letters" in answer.json()["error"]


def test_names_of_any_language_are_kept(site):
    client = site.client()
    assert start(client, "Zoë 林")["voter"] == "Zoë 林"
    assert client.get("/state").json()["voter"] == "Zoë 林"


def test_a_forged_cookie_is_nobody(site):
    client = site.client()
    start(client)
    good = client.cookies["leanlens_voter"]
    for bad in ("", "x", ".", "QW5u.", "QW5u.00", "QW5u.é", "é.00", good[:-1], "Qm9i" + good[4:], "%%%." + good):
        assert site.poll.voter_of(bad) is None, bad
    assert site.poll.voter_of(good) == "Ann"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"task": 1, "choice": "left"}', b'{"task": "x", "choice": "middle"}',
     b'{"task": "x", "choice": "left", "seconds": -1}', b'{"task": "x", "choice": "left", "more": 1}'],
)  # fmt: skip
def test_a_malformed_vote_is_refused(site, body):
    client = site.client()
    start(client)
    answer = client.post("/vote", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "error" in answer.json()
    assert not site.votes.standing


def test_only_pairs_of_ones_own_can_be_judged(site):
    ann, bob = site.client(), site.client()
    task = start(ann)
    start(bob, "Bob")
    assert cast(bob, task).status_code == 404
    assert cast(site.client(), task).status_code == 404
    assert not site.votes.standing


def test_a_vote_that_cannot_be_stored_is_an_error(site, monkeypatch):
    client = site.client()
    state = start(client)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leanlens.evaluate.vote.votes.os.fsync", full)
    answer = cast(client, state)
    assert answer.status_code == 507
    assert "could not be stored: No space left" in answer.json()["error"]
    monkeypatch.undo()
    assert client.get("/state").json() == state
    assert cast(client, state).json()["done"] == 1


@pytest.mark.parametrize(
    "host", ["http://evil.example", "http://localhost.evil.example:8001", "http://192.168.1.5:8001"]
)
def test_other_hosts_are_refused(site, host):
    answer = site.client(host).get("/state")
    assert answer.status_code == 403
    assert "localhost only" in answer.json()["error"]


@pytest.mark.parametrize("host", ["http://127.0.0.1:8001", "http://[::1]:8001", "http://LOCALHOST"])
def test_this_machine_has_several_names(site, host):
    assert site.client(host).get("/state").status_code == 200


def test_other_origins_and_large_bodies_are_refused(site):
    client = site.client()
    start(client)
    assert client.post("/undo", headers={"origin": "http://localhost:9999"}).status_code == 403
    assert client.post("/undo", headers={"origin": "null"}).status_code == 403
    assert client.post("/undo", headers={"origin": HERE}).status_code == 200
    assert client.post("/start", content=b" " * 5000).status_code == 413
    assert client.post("/start", content=iter([b"{}"])).status_code == 413  # of unknown length
    cookie = client.post("/start", json={}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_with_a_token_any_host_is_answered_to_who_has_it(tmp_path):
    site = Site(write_folder(tmp_path / "out", 3), token="open sésame")
    try:
        client = site.client("http://192.168.1.5:8001")
        assert client.get("/").status_code == 401
        assert client.get("/page.js").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        page = client.get("/?token=open%20s%C3%A9same")
        assert page.status_code == 200
        assert "token" not in str(page.url)
        assert start(client)["voter"] == "Ann"
        assert site.client("http://192.168.1.5:8001").get("/state").status_code == 401
    finally:
        site.stop()


def test_an_image_that_is_gone_is_named(site):
    client = site.client()
    task = start(client)["task"]
    for file in (site.folder / "images").iterdir():
        file.write_bytes(b"not an image")
    answer = client.get(f"/{task['left']}")
    assert answer.status_code == 404
    assert "cannot be read" in answer.json()["error"]


def test_a_folder_with_one_model_is_refused(tmp_path):
    folder = write_folder(tmp_path / "out", 3, ("alpha",))
    votes = VoteFile(folder)
    with pytest.raises(ValueError, match="nothing to vote on"):
        Poll(json.loads((folder / "results.json").read_text()), folder, votes, KEY, ("prompt",))
    votes.close()
