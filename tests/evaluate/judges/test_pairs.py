import base64
import io

import pytest
from PIL import Image

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges.pairs import PAIRS_AT_ONCE, PairJudgement, VisionPairJudge
from leanlens.evaluate.suite import Item
from leanlens.score.protocol import Failed
from tests.mock_endpoint import Reply, broken, cut_off, mock_endpoint, other_language, prompt_of, prose

RED, BLUE = (Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 0, 255)))


def colors(body):
    """Which images were sent, in their order."""
    parts = [part["image_url"]["url"].partition(",")[2] for part in body["messages"][-1]["content"][:-1]]
    pixels = [Image.open(io.BytesIO(base64.b64decode(part))).getpixel((0, 0)) for part in parts]
    return ["red" if pixel == (255, 0, 0) else "blue" for pixel in pixels]


def judge(server, answers=None, **options):
    return VisionPairJudge("mock", Endpoint(server.url, "judge", backoff=0.001, tries=1), answers, **options)


def prefers(color):
    return lambda body, count: Reply("AB"[colors(body).index(color)])


@pytest.mark.parametrize(
    ("reply", "result", "answers"),
    [
        (prefers("red"), 1.0, ["A", "B"]),
        (prefers("blue"), 0.0, ["B", "A"]),
        (lambda body, count: Reply("Tie."), 0.5, ["tie", "tie"]),
        (lambda body, count: Reply("A"), None, ["A", "A"]),
        (lambda body, count: Reply("tie" if colors(body)[0] == "red" else "B"), None, ["tie", "B"]),
    ],
)
def test_only_answers_that_agree_in_both_orders_count(reply, result, answers):
    with mock_endpoint(reply) as server:
        (found,) = judge(server)([RED], [BLUE], [Item("0", "a red square")])
    assert found == PairJudgement(result, {"answers": answers, "flipped": result is None})
    assert sorted(map(colors, server.bodies)) == [["blue", "red"], ["red", "blue"]]
    assert prompt_of(server.bodies[0]).endswith("\nAnswer with one word: A or B or tie.\nPrompt: a red square")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(prose(), "not a choice"), (broken(), "server"), (cut_off(), "truncated"), (other_language(), "not a choice")],
)
def test_a_failure_in_one_order_fails_the_pair(fault, reason):
    with mock_endpoint(lambda body, count: fault if colors(body)[0] == "blue" else Reply("A")) as server:
        (found,) = judge(server)([RED], [BLUE], [Item("0", "a")])
    assert found.result == Failed(reason)
    assert found.raw["answers"][0] == "A"
    assert found.raw["answers"][1]["failed"].startswith(f"{reason}: ")
    assert not found.raw["flipped"]


def test_without_ties_a_tie_is_no_answer():
    with mock_endpoint(lambda body, count: Reply("tie")) as server:
        (found,) = judge(server, ties=False)([RED], [BLUE], [Item("0", "a")])
    assert found.result == Failed("not a choice")


def test_many_pairs_are_asked_and_kept(tmp_path):
    num = PAIRS_AT_ONCE + 1
    items = [Item(str(at), f"prompt {at}") for at in range(num)]
    with mock_endpoint(prefers("red")) as server:
        for _ in range(2):
            opened = judge(server, tmp_path)
            found = opened([RED] * num, [BLUE] * num, items)
        assert len(server.bodies) == 2 * num
    assert [one.result for one in found] == [1.0] * num
    assert opened.totals.cached == 2 * num


def test_the_identity_and_wrong_lengths():
    with mock_endpoint() as server:
        about = judge(server).identity()
        assert about["choices"] == ["A", "B", "tie"]
        for option in ({"ties": False}, {"asked": "Which is prettier?"}, {"max_tokens": 1}):
            assert judge(server, **option).identity() != about
        with pytest.raises(ValueError, match="second has 1 entries for 2 items: expected one per item"):
            judge(server)([RED, RED], [BLUE], [Item("0", "a"), Item("1", "b")])
