import hashlib
import json
import sys

import pytest
from PIL import Image

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges import text
from leanlens.evaluate.judges.questions import QuestionJudge
from leanlens.evaluate.suite import Item, Judgement
from leanlens.evaluate.suites import asking
from leanlens.evaluate.suites.data import SOURCES, Source
from leanlens.evaluate.suites.oneig import PartJudge, oneig, zero_by_parents
from leanlens.evaluate.suites.oneig_text import COUNTS
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.score.protocol import Failed
from tests.evaluate.suites.judged import MISSING
from tests.mock_endpoint import Reply, mock_endpoint, prompt_of

QUESTIONS = {
    "question": json.dumps({"1": "Is there a girl?", "2": "Is she alone?", "3": "Does she smile?"}),
    "dependency": json.dumps({"1": [0], "2": [1], "3": [2]}),
}
ENGLISH = """category,id,prompt_en,type,prompt_length,class
Anime_Stylization,000,"a girl, alone",NP,short,line art
Text_Rendering,000,a slide,NP,short,poster design
Knowledge_Reasoning,000,the tallest peaks,NP,short,geography
"""
CHINESE = "category,id,prompt_cn,class\nMultilingualism,000,网球场,\nText_Rendering,000,海报,\n"
LONG = " ".join(["word"] * 61)
FILES = {
    "OneIG-Bench.csv": ENGLISH,
    "OneIG-Bench-ZH.csv": CHINESE,
    "scripts/alignment/Q_D/anime.json": json.dumps({"000": QUESTIONS}),
    "scripts/alignment/Q_D/multilingualism_zh.json": json.dumps({"000": QUESTIONS}),
    "scripts/reasoning/gt_answer.json": json.dumps({"000": "Mount Everest"}),
    "scripts/reasoning/gt_answer_zh.json": "{}",
    "scripts/style/style.csv": ",id,class\n0,000,line art\n",
    "scripts/text/text_content.csv": ",id,prompt_en,text_content\n0,000,a slide,\"['A b', 'c']\"\n",
    "scripts/text/text_content_zh.csv": f",id,prompt_cn,text_content\n0,000,海报,['{LONG}']\n",
}
SCORER = """
import json, sys
if sys.argv[1:] == ["--self-test"]:
    print(json.dumps({"passed": True, "cases": [{"case": "one", "better": 1, "worse": 0}]}))
    sys.exit()
names = ["reasoning", "style"]
print(json.dumps({"name": "mine", "version": "1", "weights_sha256": "0" * 64, "criteria": names}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], "score": {"reasoning": 0.25, "style": 0.5}, "raw": {}}), flush=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small clone in the form of the real one."""
    files = {}
    for name, content in FILES.items():
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
        files[name] = (name, hashlib.sha256(content.encode()).hexdigest())
    monkeypatch.setitem(SOURCES, "oneig", Source("someone/suite", "0" * 40, "none stated", files))
    for module in (asking, text):
        monkeypatch.setattr(module, "recogniser_identity", lambda: {"rapidocr": "1"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "clone"


def test_the_items(folder):
    suite = oneig(SuiteOptions(data=folder, endpoints=(Endpoint("http://h/v1", "some/vision"),)))
    aligned, written = suite.items
    assert (aligned.id, aligned.prompt, aligned.categories) == ("anime-000", "a girl, alone", ("anime", "line art"))
    assert aligned.truth["style"] == "line art"
    assert aligned.truth["questions"][2] == {"id": "3", "question": "Does she smile?", "parents": ["2"]}
    assert written.truth == {"text": "['A b', 'c']", "max_tokens": 128}
    assert [judge.name for judge in suite.judges] == ["vision", "vision as reader", "rapidocr"]
    assert suite.images_per_prompt == 4
    assert "Left out: reasoning, style, diversity, and so the mean of the five numbers." in suite.deviations
    chinese = oneig(SuiteOptions(data=folder, prompts="zh"))
    assert [item.id for item in chinese.items] == ["multilingualism-000", "text-000"]
    assert chinese.items[1].truth["max_tokens"] == 256
    assert [judge.name for judge in chinese.judges] == ["rapidocr"]


def test_a_folder_is_needed_and_verified(folder):
    with pytest.raises(
        ValueError, match=r"oneig needs a clone of the repository someone/suite at 0000000, which states"
    ):
        oneig(SuiteOptions())
    with pytest.raises(ValueError, match="invalid prompts 'fr': expected en or zh"):
        oneig(SuiteOptions(data=folder, prompts="fr"))
    (folder / "OneIG-Bench.csv").write_text("category,id\n")
    with pytest.raises(ValueError, match=r"OneIG-Bench\.csv has checksum"):
        oneig(SuiteOptions(data=folder))


def official(answers, parents):
    """The share that the official script gives an image: answers of parents decide, zeroed or not."""
    zeroed = [
        0.0 if any(answers[parent] == "no" for parent in parents[name]) else float(answers[name] == "yes")
        for name in answers
    ]
    return sum(zeroed) / len(zeroed)


@pytest.mark.parametrize("no", [(), ("1",), ("2",), ("3",), ("1", "3"), ("1", "2", "3")])
def test_alignment_equals_the_official_share(folder, no):
    words = {"Is there a girl?": "1", "Is she alone?": "2", "Does she smile?": "3"}
    parents = {"1": [], "2": ["1"], "3": ["2"]}
    answers = {name: "no" if name in no else "yes" for name in parents}
    with mock_endpoint(lambda body, count: Reply(answers[words[prompt_of(body)]])) as server:
        suite = oneig(SuiteOptions(data=folder, endpoints=(Endpoint(server.url, "vision"),)))
        found = suite.judges[0]([Image.new("RGB", (8, 8))] * 2, suite.items)
    assert found[0].score["questions"] == pytest.approx(official(answers, parents))
    assert found[1] == Judgement({"questions": None})
    judged = [{judge.name: [one] for judge in suite.judges} for one in found]
    for row in judged:
        row |= {judge.name: [Judgement(dict.fromkeys(judge.criteria))] for judge in suite.judges[1:]}
    metrics = {metric.name: metric for metric in suite.metrics(suite.items, judged)}
    assert metrics["alignment"].value == pytest.approx(official(answers, parents))
    assert metrics["alignment"].num == 1
    assert list(metrics)[1:6] == ["text", "text, corrected", "ED (fewer is better)", "CR", "WAC"]
    assert list(metrics)[6] == "text, rapidocr"


def test_a_question_whose_parent_failed_is_left_out():
    item = Item("0", "", truth={"questions": [{"id": "1", "question": "a", "parents": []},
                                              {"id": "2", "question": "b", "parents": ["1"]},
                                              {"id": "3", "question": "c", "parents": []}]})  # fmt: skip
    raw = {"answers": {"1": {"failed": "timeout: late"}, "2": "yes", "3": "yes"}, "failed": {"1": "timeout"}, "num": 3}
    found = zero_by_parents(Judgement({"questions": 1.0}, raw), item)
    assert found.score == {"questions": 1.0}
    assert found.raw["failed"] == {"1": "timeout", "2": "parent"}
    assert found.raw["met"] == {"3": True}
    assert zero_by_parents(MISSING, item) == MISSING


def test_an_image_that_was_not_drawn_counts_where_it_was_asked_for(folder):
    suite = oneig(SuiteOptions(data=folder))
    failed = Judgement({"words": Failed("not drawn"), "exact": Failed("not drawn")})
    names = [f"{name}{end}" for name in COUNTS for end in ("", "_corrected")]
    read = Judgement({"words": 1.0, "exact": 1.0}, {"text": "A b c", **dict.fromkeys(names, 1)})
    metrics = suite.metrics(suite.items, [{"rapidocr": [failed]}, {"rapidocr": [read, failed]}])
    assert {metric.name: metric.failed for metric in metrics} == {
        "text": 1, "text, corrected": 1, "ED (fewer is better)": 1, "CR": 1, "WAC": 1,
    }  # fmt: skip
    assert metrics[0].num == 1


def test_a_scorer_gives_reasoning_and_style(folder, tmp_path):
    script = tmp_path / "scorer.py"
    script.write_text(SCORER)
    suite = oneig(SuiteOptions(data=folder, scorer=f"{sys.executable} {script}"))
    judge = suite.judges[-1]
    try:
        assert [item.id for item in suite.items] == ["anime-000", "text-000", "reasoning-000"]
        found = judge([Image.new("RGB", (8, 8))] * 3, suite.items)
    finally:
        judge.judge.close()
    assert [one.score for one in found] == [
        {"reasoning": None, "style": 0.5}, {"reasoning": None, "style": None}, {"reasoning": 0.25, "style": None},
    ]  # fmt: skip
    nothing = Judgement(dict.fromkeys(("words", "exact")))
    judged = [{"rapidocr": [nothing], "mine": [one]} for one in found]
    metrics = {metric.name: metric for metric in suite.metrics(suite.items, judged)}
    assert (metrics["reasoning score"].value, metrics["style score"].value) == (0.25, 0.5)
    assert "Left out: alignment, diversity, and so the mean of the five numbers." in suite.deviations


def test_lists_of_other_lengths_are_an_error():
    judge = PartJudge(QuestionJudge("one", Endpoint("http://h/v1", "one")), "one", ["questions"])
    with pytest.raises(ValueError, match="items has 1 entries for 0 images"):
        judge([], [Item("0", "")])
