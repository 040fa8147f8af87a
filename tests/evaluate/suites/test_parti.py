import hashlib

import pytest

from leanlens.endpoint import Endpoint
from leanlens.evaluate.suites.data import SOURCES, Source
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.evaluate.suites.parti import parti, read_prompts
from tests.evaluate.suites.judged import MISSING, judgement

ROWS = [
    ("Prompt", "Category", "Challenge", "Note"),
    ("bond", "Abstract", "Basic", "several meanings"),
    ('"G O" on a wall', "Illustrations", "Writing & Symbols", ""),
    ("five cups", "Abstract", "Quantity", ""),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    content = "".join("\t".join(row) + "\n" for row in ROWS).encode()
    (tmp_path / "PartiPrompts.tsv").write_bytes(content)
    files = {"PartiPrompts.tsv": ("PartiPrompts.tsv", hashlib.sha256(content).hexdigest())}
    monkeypatch.setitem(SOURCES, "parti", Source("someone/suite", "0" * 40, "CC0-1.0", files))
    return tmp_path


def test_the_items_are_not_judged_without_an_endpoint(folder):
    suite = parti(SuiteOptions(data=folder))
    assert [item.prompt for item in suite.items] == ["bond", '"G O" on a wall', "five cups"]
    assert suite.items[1].categories == ("Illustrations", "Writing & Symbols")
    assert suite.judges == ()
    assert suite.metrics(suite.items, [{}, {}, {}]) == []
    assert suite.deviations == (
        "Not judged: for votes of people. PartiPrompts has no official scorer, so there is no published number to set "
        "these beside.",
    )


def test_one_question_is_asked_about_each_image(folder):
    suite = parti(SuiteOptions(data=folder, endpoints=(Endpoint("http://h/v1", "judge"),)))
    assert suite.deviations[0].startswith("Judged by judge.")
    yes, no = judgement({"1": "yes"}), judgement({"1": "no"})
    judged = [{"judge": [yes, no]}, {"judge": [no]}, {"judge": [MISSING]}]
    (metric,) = suite.metrics(suite.items, judged)
    assert (metric.name, metric.value, metric.num, metric.failed) == ("prompt shown", 0.25, 2, 1)


def test_another_table_is_an_error(tmp_path):
    path = tmp_path / "other.tsv"
    for content in ("", "Prompt\tCategory\n", "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match="is not the table of PartiPrompts"):
            list(read_prompts(path))
