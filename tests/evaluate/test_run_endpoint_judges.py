"""A whole evaluation before judges at endpoints, some of whose answers are faulty."""

import json
import random

from leanlens.endpoint import Endpoint
from leanlens.evaluate.results import write_results
from leanlens.evaluate.run import evaluate
from leanlens.evaluate.suites.fresh import photos
from leanlens.evaluate.suites.options import SuiteOptions
from tests.evaluate.stub import Painter
from tests.mock_endpoint import Reply, broken, cut_off, html, mock_endpoint, other_language, prompt_of, prose, too_many

SAID: list[str] = []


def run(shelf, url, out):
    judge = Endpoint(url, "eyes", tries=1, backoff=0.0, timeout=5.0)
    options = SuiteOptions(num=8, date="2026-12-01", size=32, endpoints=(judge,), answers=out / "answers")
    suite = photos(shelf, options)
    SAID.clear()
    return write_results(evaluate(suite, [lambda: Painter("a"), lambda: Painter("b")], out, say=SAID.append), out)


def answer(body):
    """Says yes or no, decided by question and image."""
    return random.Random(json.dumps(body["messages"])).choice(["yes", "no", "yes"])


def test_faulty_answers_change_no_other_score_and_are_counted(shelf, tmp_path):
    faults = [prose, cut_off, other_language, broken, html, too_many, lambda: Reply(drop=True)]

    def faulty(body, count):
        lot = random.Random(prompt_of(body) + json.dumps(body["messages"])[-200:])
        return lot.choice(faults)() if lot.random() < 0.3 else Reply(answer(body))

    with mock_endpoint(lambda body, count: Reply(answer(body))) as server:
        clean = run(shelf, server.url, tmp_path / "clean")
    with mock_endpoint(faulty) as server:
        marred = run(shelf, server.url.replace("127.0.0.1", "localhost"), tmp_path / "marred")
    failed, same = 0, 0
    for one, other in zip(clean["items"], marred["items"], strict=True):
        for name in ("a", "b"):
            whole, part = (row["images"][name][0]["judgements"]["eyes"]["raw"] for row in (one, other))
            for question, said in part["answers"].items():
                if isinstance(said, dict):
                    failed += 1
                else:
                    assert said == whole["answers"][question]
                    same += 1
            for question, value in part["values"].items():
                assert value == whole["values"][question]
    assert failed > 5
    assert same > failed
    counted = {name: one["failed"] for name, one in marred["failures"].items()}
    assert sum(counted.values()) >= failed
    assert all(one["incomplete"] for one in marred["failures"].values())
    assert not any(one["failed"] for one in clean["failures"].values())
    assert any("categories" in one and one["categories"] for one in marred["failures"].values())
    assert "incomplete, no headline" in (tmp_path / "marred" / "table.md").read_text()


def test_what_failed_is_asked_again_by_the_next_run(shelf, tmp_path):
    state = {"down": True}

    def reply(body, count):
        return broken() if state["down"] and "exactly" in prompt_of(body) else Reply(answer(body))

    with mock_endpoint(reply) as server:
        first = run(shelf, server.url, tmp_path)
        assert any(one["failed"] for one in first["failures"].values())
        state["down"] = False
        asked = len(server.bodies)
        second = run(shelf, server.url, tmp_path)
        assert not any(one["failed"] for one in second["failures"].values())
        assert "of them kept before, 0 failed;" in SAID[-1]
        again = server.bodies[asked:]
        assert again
        assert all("exactly" in prompt_of(body) for body in again)
