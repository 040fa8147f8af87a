"""Rewriting by a language model at an endpoint, which may be as bad as it likes."""

import json
import subprocess
import sys

import pytest

from leanlens.endpoint import Endpoint
from leanlens.pipeline.reasoned import Ask
from leanlens.reason.remote import DENSE_WORDS, EndpointReasoner, clean_answer
from leanlens.reason.system_prompts import read_system_prompt
from tests.mock_endpoint import Reply, broken, cut_off, html, mock_endpoint, other_language, prompt_of, prose, too_many

CAPTION = (
    "Two cats sleep on a worn green sofa by a tall window. The left one is black, the right one is striped, and soft "
    "morning light falls across their fur."
)
BAD = {
    "late": (lambda: Reply(CAPTION, delay=0.6), "timeout"),
    "429": (too_many, "rate limit"),
    "500": (broken, "server"),
    "a page": (html, "invalid"),
    "gone": (lambda: Reply(drop=True), "connection"),
    "401": (lambda: Reply(status=401, body=b'{"error": {"message": "no key"}}'), "HTTP 401"),
    "prose": (prose, "has no word of the prompt"),
    "a comment": (lambda: Reply(f"Sure! Here is your prompt: {CAPTION}"), "holds a comment"),
    "empty": (lambda: Reply("  "), "empty"),
    "only thoughts": (lambda: Reply("<think>Two cats, so I will"), "it is empty"),
    "other language": (other_language, "another language"),
    "refusal": (lambda: Reply("I'm sorry, but I can't help with two cats on a sofa."), "refusal"),
    "cut": (lambda: Reply(CAPTION[:80], finish_reason="length"), "cut"),
    "cut before a word": (cut_off, "truncated"),
}


def reasoner(url, folder, **given):
    settings = {"tries": 2, "backoff": 0.0, "timeout": 0.3, **given}
    return EndpointReasoner(Endpoint(url, "writer", **settings), read_system_prompt(), folder)


def ask(prompt="two cats on a sofa", seed=0, **given):
    return Ask(prompt, seed, 64, 64, **given)


def test_each_seed_has_its_own_caption_and_none_is_asked_for_twice(tmp_path):
    def reply(body, count):
        return Reply(f"{CAPTION} Dust floats in the {('cool', 'warm')[count]} air.", tokens=(300, 40))

    with mock_endpoint(reply) as server:
        one = reasoner(server.url, tmp_path, input_price=1.0, output_price=2.0)
        first = one([ask(seed=seed) for seed in (5, 6)])
        assert len({record.prompt for record in first}) == 2
        assert [body["temperature"] for body in server.bodies] == [0.7, 0.7]
        assert all(prompt_of(body) == "two cats on a sofa" for body in server.bodies)
        assert all(body["messages"][0]["content"] == read_system_prompt().text for body in server.bodies)
        again = reasoner(server.url, tmp_path, input_price=1.0, output_price=2.0)([ask(seed=seed) for seed in (6, 5)])
        assert len(server.bodies) == 2
    without = {"seconds"}
    assert [r.model_dump(exclude=without) for r in again] == [r.model_dump(exclude=without) for r in reversed(first)]
    record = first[0]
    assert (record.original, record.left_alone, record.tokens) == ("two cats on a sofa", "", (300, 40))
    assert record.cost == pytest.approx(380e-6)
    assert record.source == f"endpoint writer, prompt lens sha256:{read_system_prompt().sha256[:12]}"


def test_another_process_asks_nobody(tmp_path):
    code = f"""
import sys
from tests.reason.test_remote import ask, reasoner
print(reasoner(sys.argv[1], {str(tmp_path)!r})([ask(seed=5)])[0].prompt)
"""
    with mock_endpoint(lambda body, count: Reply(CAPTION)) as server:
        prompt = reasoner(server.url, tmp_path)([ask(seed=5)])[0].prompt
        done = subprocess.run([sys.executable, "-c", code, server.url], capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), len(server.bodies)) == (prompt, 1)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_endpoint_leaves_the_prompt_as_it_is(kind, tmp_path):
    make, why = BAD[kind]
    with mock_endpoint(lambda body, count: make()) as server:
        one = reasoner(server.url, tmp_path)
        (record,) = one([ask()])
        asked = len(server.bodies)
        assert one([ask()])[0].left_alone == record.left_alone
        assert len(server.bodies) == asked <= 2  # the tries of one question
    assert (record.prompt, record.original) == ("two cats on a sofa",) * 2
    assert why in record.left_alone


def test_a_server_that_is_down_is_not_waited_for_again(tmp_path):
    with mock_endpoint() as server:
        url = server.url
    records = [record for seed in range(3) for record in reasoner(url, tmp_path)([ask(seed=seed)])]
    assert all(record.prompt == record.original and "connection" in record.left_alone for record in records)
    one = reasoner(url, tmp_path, tries=1)
    one([ask()])
    with mock_endpoint(lambda body, count: Reply(CAPTION)) as server:
        one.endpoint = Endpoint(server.url, "writer")
        assert "connection" in one([ask(seed=1)])[0].left_alone
        assert server.bodies == []


def test_what_is_dense_enough_is_not_sent(tmp_path):
    dense = " ".join(["word"] * DENSE_WORDS)
    caption = f"{CAPTION} A lamp stands behind the sofa, and a plant grows in a clay pot beside it."
    with mock_endpoint() as server:
        records = reasoner(server.url, tmp_path)([ask(dense), ask(caption)])
        assert server.bodies == []
    assert [record.prompt for record in records] == [dense, caption]
    assert all("dense enough" in record.left_alone for record in records)


def test_the_window_and_triggers_are_kept(tmp_path):
    with mock_endpoint(lambda body, count: Reply(CAPTION)) as server:
        one = reasoner(server.url, tmp_path)
        (lost,) = one([ask("two cats inkwash", triggers=("inkwash", "other"))])
        one.fits = lambda text: len(text) < 100
        (long,) = one([ask()])
    assert "leaves out 'inkwash'" in lost.left_alone
    assert "window" in long.left_alone


def test_a_key_that_is_not_set_is_an_error_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match="NO_SUCH_KEY"):
        EndpointReasoner(Endpoint("http://localhost:1/v1", "m", "NO_SUCH_KEY"), read_system_prompt(), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "A red fox.",
        " A red fox.\n",
        '"A red fox."',
        "“A red fox.”",
        "```\nA red fox.\n```",
        "```text\nA red fox.\n```",
        "<think>A fox. Red?</think>\n\nA red fox.",
        "A fox. Red?</think>A red fox.",
        "<|channel|>analysis<|message|>A fox.<|end|><|start|>assistant<|channel|>final<|message|>A red fox.<|return|>",
        "analysisThe user wants a fox.assistantfinalA red fox.",
        "Output: A red fox.",
        "A red fox.<|im_end|>",
    ],
)
def test_the_caption_is_taken_out_of_an_answer(text):
    assert clean_answer(text) == "A red fox."


def test_quotes_inside_a_caption_stay():
    text = '"OPEN" stands on a sign beside "SHUT"'
    assert clean_answer(text) == text
    assert json.loads(json.dumps(clean_answer("<think>only this"))) == ""
