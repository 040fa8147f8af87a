import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict

from leanlens.endpoint import Answer, Endpoint, Question, add_up, ask_all, data_url
from tests.mock_endpoint import (
    Reply,
    broken,
    cut_off,
    html,
    mock_endpoint,
    other_language,
    prompt_of,
    prose,
    too_many,
)

YES_NO = ("yes", "no")


def endpoint(server, **changes):
    return Endpoint(server.url, "judge", **{"backoff": 0.01, "timeout": 5.0, **changes})


def ask(server, *prompts, folder=None, choices=(), **changes):
    return ask_all(endpoint(server, **changes), [Question(prompt, choices=choices) for prompt in prompts], folder)


def test_answers_keep_the_order_and_few_are_asked_at_once():
    def slow_first(body, count):
        return Reply(f"about {prompt_of(body)}", delay=0.06 if prompt_of(body) == "0" else 0.02)

    prompts, seen = [str(number) for number in range(12)], []
    with mock_endpoint(slow_first) as server:
        answers = ask_all(
            endpoint(server, concurrency=3), [Question(one) for one in prompts], None, lambda *at: seen.append(at)
        )
    assert [answer.text for answer in answers] == [f"about {prompt}" for prompt in prompts]
    assert server.most_at_once == 3
    assert seen == [(number, 12) for number in range(1, 13)]
    assert {answer.finish_reason for answer in answers} == {"stop"}


def test_what_is_sent():
    picture = Image.new("RGB", (4, 3), (255, 0, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    question = Question("Is it red?", "You judge.", (picture, buffer.getvalue()), YES_NO, max_tokens=5, seed=7,
                        extra={"max_tokens": None, "max_completion_tokens": 9})  # fmt: skip
    with mock_endpoint() as server:
        (answer,) = ask_all(endpoint(server), [question])
    assert answer.value == "yes"
    (body,) = server.bodies
    system, user = body.pop("messages")
    assert body == {"model": "judge", "temperature": 0.0, "seed": 7, "max_completion_tokens": 9}
    assert system == {"role": "system", "content": "You judge."}
    first, second, text = user["content"]
    assert text == {"type": "text", "text": "Is it red?"}
    head, data = first["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (255, 0, 0)
    assert second["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in server.headers[0]


def test_bytes_that_are_no_image_are_refused():
    with pytest.raises(ValueError, match=r"invalid image that begins with b'<svg>': expected PNG"):
        data_url(b"<svg>")


@pytest.mark.parametrize("fault", [broken(), html(), Reply(drop=True), too_many(), Reply(status=503, body=b"")])
def test_what_passes_is_tried_again(fault):
    with mock_endpoint(lambda body, count: fault if count < 2 else Reply()) as server:
        (answer,) = ask(server, "a")
    assert (answer.failure, answer.text, answer.tries, len(server.bodies)) == ("", "yes", 3, 3)


@pytest.mark.parametrize(
    ("fault", "failure", "tries"),
    [
        (broken(), "server", 3),
        (html(), "invalid", 3),
        (Reply(body=b'{"choices": []}'), "invalid", 3),
        (Reply(body=b"[" * 100_000), "invalid", 3),
        (Reply(drop=True), "connection", 3),
        (too_many(), "rate limit", 3),
        (too_many(Retry_After="86400"), "rate limit", 1),
        (Reply(status=429, body=b'{"error": {"code": "insufficient_quota"}}'), "rate limit", 1),
        (Reply(status=400, body=b'{"error": {"message": "no such field"}}'), "refused", 1),
        (Reply(status=307, headers={"Location": "http://127.0.0.1:9/"}, body=b""), "refused", 1),
        (Reply(delay=0.4), "timeout", 3),
        (cut_off(), "truncated", 1),
        (Reply(""), "empty", 1),
        (Reply(None), "empty", 1),
        (Reply(finish_reason="content_filter"), "refused", 1),
        (prose(), "not a choice", 1),
        (other_language(), "not a choice", 1),
        (replace(prose(), finish_reason="length"), "truncated", 1),
    ],
)
def test_a_failure_has_its_reason_and_is_not_kept(fault, failure, tries, tmp_path):
    with mock_endpoint(lambda body, count: fault) as server:
        for _ in range(2):
            (answer,) = ask(server, "a", folder=tmp_path, choices=YES_NO, tries=3, timeout=0.2 if fault.delay else 10.0)
            assert (answer.failure, answer.tries) == (failure, tries)
            assert answer.value is None
            assert answer.detail
        assert len(server.bodies) == 2 * tries
    assert not list(tmp_path.rglob("*.json"))


def test_an_answer_is_late_however_often_a_byte_of_it_comes(monkeypatch):
    """Bytes now and then keep a socket from timing out."""
    parts = (b" " for _ in iter(lambda: time.sleep(0.02), 1))
    monkeypatch.setattr("requests.Response.iter_content", lambda self, size: parts)
    with mock_endpoint() as server:
        (answer,) = ask(server, "a", tries=1, timeout=0.3)
    assert answer.failure == "timeout"


def test_log_probabilities_are_asked_for_read_and_kept(tmp_path):
    told = [{"yes": -0.25, "Yes": -1.75, "no": -3.0}, {"<end>": -0.5}]
    asked = Question("a", logprobs=3)
    with mock_endpoint(lambda body, count: Reply(logprobs=told)) as server:
        (answer,) = ask_all(endpoint(server), [asked], tmp_path)
        (again,) = ask_all(endpoint(server), [asked], tmp_path)
    assert len(server.bodies) == 1
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, 3)
    assert answer.logprobs == ((("yes", -0.25), ("Yes", -1.75), ("no", -3.0)), (("<end>", -0.5),))
    assert again.is_cached
    assert again.logprobs == answer.logprobs


@pytest.mark.parametrize("logprobs", [None, []])
def test_an_answer_without_the_log_probabilities_fails_and_is_not_kept(logprobs, tmp_path):
    with mock_endpoint(lambda body, count: Reply(logprobs=logprobs)) as server:
        (answer,) = ask_all(endpoint(server), [Question("a", logprobs=3)], tmp_path)
        (other,) = ask_all(endpoint(server), [Question("a")], tmp_path)
    assert (answer.failure, other.failure) == ("no logprobs", "")
    assert "logprobs" not in server.bodies[1]
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_a_server_that_is_not_there():
    with mock_endpoint() as server:
        gone = endpoint(server, tries=2)
    (answer,) = ask_all(gone, [Question("a")])
    assert (answer.failure, answer.tries) == ("connection", 2)


def test_retry_after_is_honoured_by_all():
    with mock_endpoint(lambda body, count: Reply() if count else too_many(Retry_After="1")) as server:
        began = time.monotonic()
        answers = ask(server, "a", "b", concurrency=1)
        assert all(not answer.failure for answer in answers)
        assert time.monotonic() - began >= 2
    assert server.times[1] - server.times[0] >= 1


def test_requests_are_spread_over_the_minute():
    with mock_endpoint() as server:
        began = time.monotonic()
        ask(server, *"abcdef", concurrency=6, requests_per_minute=1200)
        assert time.monotonic() - began >= 5 * 0.05


def test_counted_tokens_slow_the_next_requests():
    with mock_endpoint(lambda body, count: Reply(tokens=(400, 100))) as server:
        began = time.monotonic()
        ask(server, *"abc", concurrency=1, tokens_per_minute=100_000)
        assert time.monotonic() - began >= 2 * 0.3


def test_answers_are_kept_and_asked_once(tmp_path):
    with mock_endpoint() as server:
        first = ask(server, "a", "b", "a", folder=tmp_path, input_price=2.0, output_price=8.0)
        assert len(server.bodies) == 2
        again = ask(server, "a", "b", "c", folder=tmp_path, input_price=2.0, output_price=8.0)
        assert len(server.bodies) == 3
        ask_all(endpoint(server), [Question("a", sample=1), Question("a", seed=1), Question("a", "b")], tmp_path)
        ask_all(replace(endpoint(server), model="other"), [Question("a")], tmp_path)
        assert len(server.bodies) == 7
    assert [answer.is_cached for answer in first] == [False, False, True]
    assert [answer.is_cached for answer in again] == [True, True, False]
    assert add_up(first).cost == pytest.approx(2 * (10 * 2.0 + 2 * 8.0) / 1e6)
    assert add_up(again).completion_tokens == 2
    assert (add_up(again).answered, add_up(again).cached, add_up(again).failed) == (3, 2, {})


def test_a_kept_answer_is_read_as_it_is_asked_for(tmp_path):
    with mock_endpoint() as server:
        ask(server, "a", folder=tmp_path)
        (answer,) = ask(server, "a", folder=tmp_path, choices=("Yes!", "YES"))
        assert (answer.value, answer.is_cached) == ("YES", True)
        (answer,) = ask(server, "a", folder=tmp_path, choices=("left", "right"))
        assert (answer.failure, answer.is_cached, len(server.bodies)) == ("not a choice", False, 2)


def test_choices_are_compared_without_case_and_punctuation():
    with mock_endpoint(lambda body, count: Reply(prompt_of(body))) as server:
        answers = ask(server, " Yes.\n", '"NO"', "**yes**", "yes, it is", "", choices=YES_NO)
    assert [answer.value for answer in answers] == ["yes", "no", "yes", None, None]


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    score: int
    why: str = ""


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ('{"score": 3, "why": "ok"}', ""),
        ('```json\n{"score": 3}\n```', ""),
        ('```\n{"score": 3}\n```\n', ""),
        ('Sure! {"score": 3}', "not JSON"),
        ('{"score": 3} or so', "not JSON"),
        ('{"score": "3"}', "not JSON"),
        ('{"score": 3, "score": 4}', "not JSON"),
        ('{"score": NaN}', "not JSON"),
        ('{"score": 3, "mood": 1}', "not JSON"),
        ("[3]", "not JSON"),
        ("[" * 5000, "not JSON"),
    ],
)
def test_shapes_are_read_strictly(text, failure):
    with mock_endpoint(lambda body, count: Reply(text)) as server:
        (answer,) = ask_all(endpoint(server), [Question("a", shape=Verdict)])
    assert answer.failure == failure
    assert answer.text == text
    assert answer.value == (None if failure else Verdict(score=3, why="ok" if "why" in text else ""))


def test_a_third_of_faulty_answers_leaves_the_others_unchanged(tmp_path):
    """Late, 429 with and without Retry-After, 500, dropped, prose, cut off, another language, another content type."""
    faults = [Reply(delay=1.5), too_many(), too_many(Retry_After="0.1"), broken(), Reply(drop=True), prose(), cut_off(),
              other_language(), html()]  # fmt: skip
    passing = {0, 1, 2, 3, 4, 8}  # gone with the second try

    def faulty(body, count):
        number = int(prompt_of(body))
        at = number // 10 % len(faults)
        if number % 10 < 3 and (count == 0 or at not in passing):
            return faults[at]
        return Reply("yes" if number % 2 else "no")

    prompts = [str(number) for number in range(180)]
    with mock_endpoint(faulty) as server:
        answers = ask(server, *prompts, folder=tmp_path, choices=YES_NO, concurrency=16, timeout=1.0)
    failed = [number % 10 < 3 and number // 10 % len(faults) not in passing for number in range(180)]
    assert [bool(answer.failure) for answer in answers] == failed
    assert all(a.failure or a.value == ("yes" if n % 2 else "no") for n, a in enumerate(answers))
    totals = add_up(answers)
    assert totals.failed == {"truncated": 6, "not a choice": 12}
    assert totals.answered == 180 - 18 == len(list(tmp_path.rglob("*.json")))


def test_a_wrong_key_ends_the_asking_early(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-123")
    wrong = Reply(status=401, body=b'{"error": {"message": "Incorrect API key: sk-secret-123"}}')
    with mock_endpoint(lambda body, count: wrong) as server:
        answers = ask(server, *map(str, range(50)), concurrency=2, key_variable="JUDGE_KEY", folder=tmp_path)
    assert len(server.bodies) <= 4
    assert {answer.failure for answer in answers} == {"refused"}
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-123"
    assert answers[-1].detail == "HTTP 401: Incorrect API key: ***"
    assert "sk-secret" not in caplog.text + repr(answers)


def test_the_key_is_in_no_file_and_no_netrc_takes_its_place(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-123")
    with mock_endpoint() as server:
        ask(server, "a", key_variable="JUDGE_KEY", folder=tmp_path / "kept")
        ask(server, "b", folder=tmp_path / "kept")
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-123"
    assert "Authorization" not in server.headers[1]
    files = list((tmp_path / "kept").rglob("*.json"))
    assert len(files) == 2
    assert not any("sk-secret" in path.read_text() for path in files)


def test_a_key_that_is_not_set(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable JUDGE_KEY is not set"):
        ask_all(Endpoint("http://127.0.0.1:9/v1", "judge", "JUDGE_KEY"), [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:8000"}, "invalid url 'localhost:8000': expected an address such as"),
        ({"url": "http://me:secret@host/v1"}, "use key_variable"),
        ({"url": "http://host/v1?key=secret"}, "use key_variable"),
        ({"model": ""}, "invalid model"),
        ({"concurrency": 0}, "invalid concurrency 0: expected a whole number from 1"),
        ({"requests_per_minute": 0}, "invalid requests_per_minute 0"),
        ({"timeout": float("nan")}, "invalid timeout nan"),
        ({"input_price": -1}, "invalid input_price -1"),
    ],
)
def test_wrong_settings_are_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        Endpoint(**{"url": "http://host/v1", "model": "judge", **changes})
    assert "secret" not in str(caught.value)


KILLED = """
import sys
from leanlens.endpoint import Endpoint, Question, ask_all
ask_all(Endpoint(sys.argv[1], "judge", concurrency=1), [Question(str(n)) for n in range(40)], sys.argv[2])
"""


def test_a_killed_run_asks_nothing_twice(tmp_path):
    with mock_endpoint(lambda body, count: Reply(prompt_of(body), delay=0.02)) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path)])
        while len(server.bodies) < 10:
            time.sleep(0.005)
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.05)
        kept, asked = len(list(tmp_path.rglob("*.json"))), len(server.bodies)
        assert asked - 1 <= kept <= asked  # one was on its way
        answers = ask(server, *map(str, range(40)), folder=tmp_path)
        assert [answer.text for answer in answers] == [str(number) for number in range(40)]
        assert sum(answer.is_cached for answer in answers) == kept
        assert len(server.bodies) - asked == 40 - kept
        bodies = [json.dumps(body) for body in server.bodies]
        assert len(bodies) - len(set(bodies)) <= 1


def test_an_empty_list_and_totals_of_nothing():
    assert ask_all(Endpoint("http://127.0.0.1:9/v1", "judge"), []) == []
    assert add_up([]).answered == 0
    assert add_up([Answer("empty"), Answer()]).failed == {"empty": 1}
