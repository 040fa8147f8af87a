import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from leanlens.cli.prompts import read_prompts
from leanlens.endpoint import Endpoint
from leanlens.evaluate.suite import Item, Judgement, Suite
from leanlens.evaluate.suites import own as module
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.evaluate.suites.own import own
from leanlens.score.protocol import Failed
from tests.evaluate.suites.judged import MISSING, judgement
from tests.mock_endpoint import Reply, mock_endpoint, prompt_of

TEXT = "a red cat\n\n  a blue dog on a mat  \n# 1 hash\n"


OBJECT = {"question": "Is there a cat?", "category": "object"}


def opened(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return own(SuiteOptions(prompts=str(path), **options))


@pytest.mark.parametrize(
    "content", [TEXT.encode(), b"\xef\xbb\xbf" + TEXT.encode(), TEXT.replace("\n", "\r\n").encode()]
)
def test_a_text_file_has_the_prompts_that_generate_reads(tmp_path, content):
    suite = opened(tmp_path / "mine.txt", content)
    assert [item.prompt for item in suite.items] == ["a red cat", "a blue dog on a mat", "# 1 hash"]
    assert [item.prompt for item in suite.items] == read_prompts(None, tmp_path / "mine.txt")
    assert [item.id for item in suite.items] == ["00000", "00001", "00002"]
    assert suite.title == "Prompts of mine.txt"
    assert (suite.judges, suite.images_per_prompt, suite.deviations) == ((), 1, ())
    assert suite.metrics(suite.items, [{}, {}, {}]) == []


def test_lines_of_objects(tmp_path):
    rows = [
        {"prompt": "a red cat", "questions": ["Is there a cat?", {"question": "Is it red?", "parents": ["1"]}]},
        {"prompt": "no dog", "categories": ["absence"], "size": [512, 256],
         "questions": [{"id": "dog", "question": "Is there a dog?", "expected": "no", "category": "object"}]},
        {"prompt": "an owl", "size": 128},
    ]  # fmt: skip
    suite = opened(tmp_path / "mine.JSONL", "\n\n".join(map(json.dumps, rows)) + "\n", num=3)
    first, second, third = suite.items
    assert first.truth["questions"] == [
        {"id": "1", "question": "Is there a cat?"}, {"id": "2", "question": "Is it red?", "parents": ["1"]},
    ]  # fmt: skip
    assert (second.categories, second.size, third.size) == (("absence",), (512, 256), (128, 128))
    assert second.truth["questions"][0]["expected"] == "no"
    assert third.truth["questions"][0]["question"].endswith("Prompt: an owl")
    assert opened(tmp_path / "mine.jsonl", json.dumps(rows[1]), size=64).items[0].size == (64, 64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "is a list; give an object with prompt"),
        ("{", "line 3"),
        ('{"size": 4}', "has no prompt"),
        ('{"prompt": " "}', "invalid prompt ' ': expected words"),
        ('{"prompt": "a", "sise": 4}', "sise is not known; known are prompt, questions, categories, size"),
        ('{"prompt": "a", "size": 0}', "invalid size 0: expected pixels of a side from 1 to 16384"),
        ('{"prompt": "a", "size": [4]}', r"invalid size \[4\]"),
        ('{"prompt": "a", "size": true}', "invalid size True"),
        ('{"prompt": "a", "categories": "x"}', "invalid categories 'x': expected a list of strings"),
        ('{"prompt": "a", "questions": "x"}', "invalid questions 'x': expected a list"),
        ('{"prompt": "a", "questions": ["b", 3]}', "question 2 is 3: expected a string, or an object with question"),
        ('{"prompt": "a", "questions": [{"question": "b", "parent": 1}]}', "question 1: parent is not known"),
        ('{"prompt": "a", "questions": [{"question": "b", "parents": ["7"]}]}', r"invalid parents \['7'\]"),
        ('{"prompt": "a", "questions": [{"question": "b", "parents": "1"}]}', "invalid parents '1': expected a list"),
        ('{"prompt": "a", "questions": [{"question": "b", "expected": "red"}]}', "invalid expected 'red'"),
        ('{"prompt": "a", "questions": [{"question": "b", "id": "2"}, "c"]}', "expected .* ids that differ"),
        (f'{{"prompt": "{"a" * 32_001}"}}', "prompt has 32,001 characters; at most 32,000 are accepted"),
    ],
)  # fmt: skip
def test_an_invalid_line_is_named(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} line 3.*{message}|{re.escape(str(path))} {message}"):
        opened(path, '{"prompt": "fine"}\n\n' + line)


def test_an_invalid_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="own needs a file of prompts"):
        own(SuiteOptions())
    with pytest.raises(ValueError, match=r"invalid prompts 'mine\.csv': expected a file that ends in \.txt or \.jsonl"):
        own(SuiteOptions(prompts="mine.csv"))
    with pytest.raises(ValueError, match=r"none\.txt cannot be read"):
        own(SuiteOptions(prompts=str(tmp_path / "none.txt")))
    with pytest.raises(ValueError, match=r"mine\.txt holds no prompt; give a prompt on each line"):
        opened(tmp_path / "mine.txt", "\n \n")
    with pytest.raises(ValueError, match=r"mine\.txt line 2 is not UTF-8"):
        opened(tmp_path / "mine.txt", b"a\n\xff\n")
    with pytest.raises(ValueError, match=r"mine\.jsonl holds no prompt; give lines of"):
        opened(tmp_path / "mine.jsonl", "")


def test_prompts_with_a_truth_are_judged_by_the_suite_of_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "scenes", lambda options: options)
    path = tmp_path / "mine.jsonl"
    handed = opened(path, '{"prompt": "a"}\n{"prompt": "a cat", "truth": {"objects": [{"concept": "cat"}]}}', size=64)
    assert handed == SuiteOptions(prompts=str(path), size=64)


def test_prompts_with_a_truth_have_the_size_of_each_model(tmp_path, monkeypatch):
    item = Item("0", "a cat", size=(256, 256))
    made = Suite("scenes", "Scenes", (item,), 1, (), lambda items, judged: [], settings={"size": 256}, control=(item,))
    monkeypatch.setattr(module, "scenes", lambda options: made)
    suite = opened(tmp_path / "mine.jsonl", '{"prompt": "a cat", "truth": {"objects": [{"concept": "cat"}]}}')
    assert (suite.items[0].size, suite.control[0].size, suite.settings["size"]) == (None, None, None)


def test_an_endpoint_is_asked_the_questions(tmp_path):
    def answer(body, count):
        return Reply("no" if "red" in prompt_of(body) else "yes")

    rows = [{"prompt": "a red cat", "questions": [OBJECT, "Is it red?"]}, {"prompt": "an owl"}]
    with mock_endpoint(answer) as server:
        endpoint = Endpoint(server.url, "some/judge")
        suite = opened(tmp_path / "mine.jsonl", "\n".join(map(json.dumps, rows)), endpoints=(endpoint,))
        (judge,) = suite.judges
        found = judge([Image.new("RGB", (8, 8))] * 2, suite.items)
    judged = [{"judge": [one]} for one in found]
    metrics = {metric.name: metric.value for metric in suite.metrics(suite.items, judged)}
    assert metrics == {"questions met": 0.75, "all questions met": 0.5, "object": 1.0}


def test_an_image_counts_as_failed_where_it_may_meet_all(tmp_path):
    suite = opened(
        tmp_path / "mine.jsonl",
        '{"prompt": "a cat", "questions": ["a", "b"]}',
        endpoints=(Endpoint("http://h/v1", "judge"),),
    )
    rows = [{"1": "yes", "2": "yes"}, {"1": "yes", "2": None}, {"1": "no", "2": None}]
    judged = [{"judge": [*map(judgement, rows), MISSING]}]
    met, everything = suite.metrics(suite.items, judged)
    assert met.value == pytest.approx((1 + 1 + 0) / 3)
    assert (everything.value, everything.failed) == (0.5, 2)


def test_a_scorer_of_its_own_process_judges_beside_the_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "mine.txt"
    path.write_text("a cup\na dog\n")
    script = Path(__file__).parents[1] / "judges" / "scorer_script.py"
    command = shlex.join([sys.executable, "-S", str(script), "good", str(tmp_path)])
    suite = own(SuiteOptions(prompts=str(path), scorer=command))
    (judge,) = suite.judges
    red = Image.new("RGB", (4, 4), "red")
    judged = [{judge.name: [one]} for one in judge([red, red], suite.items)]
    judge.close()
    reward, style = suite.metrics(suite.items, judged)
    assert (reward.name, reward.value, reward.num, reward.unit) == ("reward", 1.5, 2, "")
    assert (style.num, style.failed) == (0, 0)
    failed = [{judge.name: [Judgement({"reward": Failed("late"), "style": None})]}, judged[1]]
    assert suite.metrics(suite.items, failed)[0].failed == 1
    with pytest.raises(ValueError, match="the scorer hpsv3 is not installed"):
        own(SuiteOptions(prompts=str(path), scorer="hpsv3"))
