import base64
import io
import math

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges.answered import question_categories, question_failures, question_metric
from leanlens.evaluate.judges.blind import blind_png
from leanlens.evaluate.judges.questions import QuestionJudge
from leanlens.evaluate.suite import Item, Judgement
from leanlens.score.protocol import Failed
from tests.mock_endpoint import Reply, broken, cut_off, mock_endpoint, other_language, prompt_of, prose, too_many

RED = Image.new("RGB", (8, 6), (200, 30, 20))


def asked(*rows, id="0"):
    questions = [dict(zip(("id", "question", "parents", "category"), row, strict=False)) for row in rows]
    return Item(id, "a red cup", truth={"questions": questions})


CUP = asked(
    ("1", "Is there a cup?", ["0"], "entity"),
    ("2", "Is the cup red?", ["1"], "attribute"),
    ("3", "Is the red cup on a table?", ["2"], "relation"),
    ("4", "Is it a photograph?", [], "global"),
)


def judge(server, answers=None, **options):
    settings = {"backoff": 0.001, "timeout": 5.0, "tries": 2, "concurrency": 5}
    settings |= {name: options.pop(name) for name in list(options) if name in settings}
    return QuestionJudge("mock", Endpoint(server.url, "judge", **settings), answers, **options)


def says(words):
    """A server that answers each question from a table."""
    return mock_endpoint(lambda body, count: words[prompt_of(body)] if prompt_of(body) in words else Reply())


def test_the_score_is_the_share_of_questions_met():
    with says({"Is it a photograph?": Reply("No.")}) as server:
        (found,) = judge(server)([RED], [CUP])
    assert found.score == {"questions": 0.75}
    assert found.raw["answers"] == {"1": "yes", "2": "yes", "3": "yes", "4": "no"}
    assert found.raw["met"] == {"1": True, "2": True, "3": True, "4": False}


@pytest.mark.parametrize(("zero", "met"), [(True, [True, False, False, True]), (False, [True, False, True, True])])
def test_what_depends_on_a_question_that_is_not_met_is_not_met(zero, met):
    with says({"Is the cup red?": Reply("no")}) as server:
        (found,) = judge(server, zero_dependents=zero)([RED], [CUP])
    assert list(found.raw["met"].values()) == met
    assert found.score["questions"] == sum(met) / 4


def test_a_zeroed_parent_zeroes_the_questions_after_it_as_in_the_official_script():
    with says({"Is there a cup?": Reply("no")}) as server:
        (found,) = judge(server)([RED], [CUP])
    assert found.raw["met"] == {"1": False, "2": False, "3": False, "4": True}
    assert found.raw["answers"]["3"] == "yes"


@pytest.mark.parametrize("fault", [prose(), cut_off(), other_language(), broken(), too_many(), Reply("")])
def test_a_question_whose_parent_failed_is_failed_and_not_zeroed(fault):
    with says({"Is the cup red?": fault}) as server:
        (found,) = judge(server)([RED], [CUP])
    assert found.score == {"questions": 1.0}
    assert found.raw["met"] == {"1": True, "4": True}
    assert list(found.raw["failed"]) == ["2", "3"]
    assert found.raw["failed"]["3"] == "parent"
    assert found.raw["answers"]["3"] == "yes"
    assert found.raw["answers"]["2"]["failed"].startswith(found.raw["failed"]["2"])


def test_a_failed_parent_counts_before_one_that_is_not_met():
    """Otherwise such a question would count where it is 0 and be left out where it is 1."""
    item = asked(("1", "a"), ("2", "b"), ("3", "c", ["1", "2"]))
    with says({"a": Reply("no"), "b": prose()}) as server:
        (found,) = judge(server)([RED], [item])
    assert found.raw["met"] == {"1": False}
    assert found.raw["failed"] == {"2": "not a choice", "3": "parent"}


def test_an_image_fails_only_where_nothing_is_answered():
    with mock_endpoint(lambda body, count: prose()) as server:
        (found, none) = judge(server)([RED, RED], [CUP, asked()])
    assert found.score == {"questions": Failed("no question was answered: not a choice")}
    assert none.score == {"questions": None}
    assert question_failures([found, none]).reasons == {"not a choice": 4}


FAULTS = [
    Reply(delay=1.5), too_many(), broken(), prose(), cut_off(), other_language(), Reply(""),
]  # fmt: skip


def test_faulty_answers_are_counted_and_change_nothing_else(tmp_path):
    """30% of the answers: late, 429, 500, prose, empty at the limit of tokens, in another language."""
    rng = np.random.default_rng(7)
    items = [
        Item(f"{number}", "", (("even", "odd")[number % 2],), truth={"questions": [
            {"id": f"{at}", "question": f"{number}.{at}", "parents": ["0"] if at % 3 else [f"{at - 1}"] if at else [],
             "category": ("entity", "attribute")[at % 2]}
            for at in range(8)
        ]})
        for number in range(12)
    ]  # fmt: skip
    truth = {f"{number}.{at}": Reply(rng.choice(["yes", "no"])) for number in range(12) for at in range(8)}
    faulty = {name: FAULTS[int(rng.integers(len(FAULTS)))] for name in truth if rng.random() < 0.3}
    images = [RED] * len(items)
    with says({**truth, **faulty}) as server:
        judging = judge(server, tmp_path, timeout=1.0, tries=1)
        found = judging(images, items)
        server.reply = lambda body, count: truth[prompt_of(body)]  # repaired: only what failed is asked again
        asked_before = len(server.bodies)
        repaired = judge(server, tmp_path)(images, items)
        assert len(server.bodies) - asked_before == len(faulty)
        clean = judge(server)(images, items)
    assert repaired == clean
    lost = 0
    for item, good, bad in zip(items, clean, found, strict=True):
        for row in item.truth["questions"]:
            name, parents = row["id"], [one for one in row["parents"] if one != "0"]
            is_lost = any(f"{item.id}.{one}" in faulty for one in (name, *parents))
            assert (name in bad.raw["failed"]) == is_lost
            lost += is_lost
            if not is_lost:
                assert bad.raw["values"][name] == good.raw["values"][name]
        kept = [good.raw["values"][name] for name in bad.raw["met"]]
        assert bad.score["questions"] == (sum(kept) / len(kept))
    assert 20 < len(faulty) < 40
    assert question_failures(found).failed == lost
    assert question_failures(found).num == 96
    assert question_failures(found).is_incomplete
    assert sum(judging.totals.failed.values()) == len(faulty)
    for word in ("even", "odd"):
        chosen = [judgement for judgement, item in zip(found, items, strict=True) if item.categories == (word,)]
        assert question_failures(chosen).failed == sum(len(one.raw["failed"]) for one in chosen)
    parts = [question_metric(name, items, [[one] for one in found], name) for name in question_categories(items)]
    assert [part.name for part in parts] == ["entity", "attribute"]
    assert sum(part.failed for part in parts) == question_metric("all", items, [[one] for one in found]).failed == lost


def test_answers_are_kept_by_content(tmp_path):
    with mock_endpoint() as server:
        for _ in range(2):
            judging = judge(server, tmp_path)
            judging([RED, RED], [CUP, CUP])
        assert len(server.bodies) == 4
        assert (judging.totals.answered, judging.totals.cached) == (8, 8)


def test_the_judge_sees_pixels_alone(tmp_path):
    note = PngInfo()
    note.add_text("parameters", "drawn by SECRET")
    RED.save(tmp_path / "SECRET.png", pnginfo=note, dpi=(300, 300), icc_profile=b"SECRET")
    named = Image.open(tmp_path / "SECRET.png")
    assert blind_png(named) == blind_png(RED)
    with mock_endpoint() as server:
        judge(server)([named], [CUP])
    sent = str(server.bodies[0])
    data = server.bodies[0]["messages"][-1]["content"][0]["image_url"]["url"].partition(",")[2]
    assert b"SECRET" not in base64.b64decode(data)
    assert "SECRET" not in sent
    assert Image.open(io.BytesIO(base64.b64decode(data))).info == {}


def test_what_is_asked():
    with mock_endpoint() as server:
        judge(server, suffix="Answer yes or no.", max_tokens=9)([RED], [asked(("1", "Is it red?"))])
    (body,) = server.bodies
    assert prompt_of(body) == "Is it red? Answer yes or no."
    assert body["messages"][0]["content"].endswith("one word: yes or no.")
    assert (body["max_tokens"], body["temperature"]) == (9, 0.0)


def test_values_are_probabilities_of_the_expected_answer():
    told = [{"two": math.log(0.5), " Two": math.log(0.2), "2": math.log(0.1), "three": math.log(0.15)}]
    questions = [{"id": "1", "question": "How many cups?", "expected": ["two", "2"]},
                 {"id": "2", "question": "How many dogs?", "expected": "three"},
                 {"id": "3", "question": "Is it so?"}]  # fmt: skip
    item = Item("0", "two cups", truth={"questions": questions})
    with mock_endpoint(lambda body, count: Reply("two", logprobs=told)) as server:
        (found,) = judge(server, probability=True, zero_dependents=False)([RED], [item])
    assert found.raw["values"] == {"1": pytest.approx(0.8), "2": pytest.approx(0.15), "3": 0.0}
    assert found.raw["met"] == {"1": True, "2": False, "3": False}
    assert found.raw["unseen"] == {"3": pytest.approx(0.1)}
    assert found.raw["answers"]["1"] == "two"
    assert found.score["questions"] == pytest.approx(0.95 / 3)
    assert server.bodies[0]["top_logprobs"] == 20
    assert len(server.bodies[0]["messages"]) == 1


def test_an_endpoint_without_log_probabilities_fails():
    with mock_endpoint() as server:
        (found,) = judge(server, probability=True)([RED], [CUP])
    assert found.score == {"questions": Failed("no question was answered: no logprobs")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "a"), ("1", "b")], "expected truth"),
        ([("1", "a", ["7"])], r"invalid parents \['7'\] of question 1 of item 0: no such id"),
        ([("1",)], "expected id and question"),
    ],
)
def test_questions_of_another_form(rows, message):
    with mock_endpoint() as server, pytest.raises(ValueError, match=message):
        judge(server)([RED], [asked(*rows)])


def test_wrong_arguments():
    with mock_endpoint() as server:
        with pytest.raises(ValueError, match="items has 1 entries for 2 images"):
            judge(server)([RED, RED], [CUP])
        with pytest.raises(ValueError, match=r"invalid questions of item 9: expected truth\['questions'\]"):
            judge(server)([RED], [Item("9", "a")])
        wrong = Item("0", "a", truth={"questions": [{"id": "1", "question": "a", "expected": "two"}]})
        with pytest.raises(ValueError, match=r"invalid expected \['two'\] of question 1 of item 0: expected yes or no"):
            judge(server)([RED], [wrong])


def test_the_identity_names_what_decides_and_nothing_else():
    with mock_endpoint() as server:
        one = judge(server).identity()
        assert one == judge(server, timeout=1.0, answers="elsewhere").identity()
        assert one["model"] == "judge"
        for option in ({"suffix": "x"}, {"probability": True}, {"zero_dependents": False}, {"max_tokens": 1}):
            assert judge(server, **option).identity() != one


def test_many_images_are_sent_in_parts(monkeypatch):
    from leanlens.evaluate.judges import questions

    monkeypatch.setattr(questions, "BYTES_AT_ONCE", 1)
    with says({"Is it a photograph?": Reply("no")}) as server:
        found = judge(server)([RED, Image.new("RGB", (4, 4)), RED], [CUP, asked(), CUP])
    assert [one.score["questions"] for one in found] == [0.75, None, 0.75]


def test_shares_of_answered_questions():
    def told(values, failed=()):
        raw = {"values": values, "failed": dict.fromkeys(failed, "timeout"), "num": len(values) + len(failed)}
        return Judgement({"questions": sum(values.values()) / max(1, len(values))}, raw)

    items = [asked(("1", "a", [], "x"), ("2", "b", [], "y")), asked(("1", "a", [], "x"))]
    judged = [
        [told({"1": 1.0, "2": 0.0}), told({"1": 1.0}, "2")],
        [told({"1": 0.0}), Judgement({"questions": Failed("")})],
    ]
    mean = question_metric("overall", items, judged)
    assert (mean.value, mean.num, mean.failed) == (pytest.approx((0.75 + 0) / 2), 2, 2)
    each = question_metric("overall", items, judged, per_question=True)
    assert each.value == pytest.approx(2 / 4)
    only = question_metric("y", items, judged, "y")
    assert (only.value, only.num, only.failed) == (0.0, 1, 1)
    assert question_failures(one for row in judged for one in row).num == 6
