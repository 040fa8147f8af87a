import json

import pytest
from PIL import Image

from leanlens.evaluate.results import write_evaluation
from leanlens.evaluate.scenes import evaluate_scenes
from leanlens.score.protocol import Failed


def test_files_are_whole(toy, shelf, scorer, tmp_path):
    done = evaluate_scenes(toy, 2, 0, shelf, scorer, "human", steps=1, size=64)
    write_evaluation(done, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "sheet.png", "table.md"]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["prompts"] == "human"
    assert results["settings"]["steps"] == 1
    assert [row["prompt"] for row in results["pictures"]] == [question.prompt for question in done.questions]
    assert results["pictures"][0]["scores"]["toy"] == done.scores["toy"][0]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(10**6)) > 100
    with pytest.raises(ValueError, match="exists already"):
        write_evaluation(done, tmp_path / "out")


def test_failed_judgements_are_written_and_counted(toy, shelf, scorer, tmp_path):
    class Sometimes:
        name, criteria = scorer.name, scorer.criteria

        def __call__(self, images, prompts, truths=None):
            return [{**score, "object": Failed("timeout")} for score in scorer(images, prompts, truths)]

    done = evaluate_scenes(toy, 2, 0, shelf, Sometimes(), "human", steps=1, size=64)
    write_evaluation(done, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["pictures"][0]["scores"]["toy"]["object"] == {"failed": "timeout"}
    assert results["rates"]["toy"]["object"] == {
        "yes": 0,
        "num": 0,
        "rate": 0,
        "low": 0,
        "high": 1,
        "mean": 0,
        "failed": 2,
    }
    assert results["failed"]["toy"] | {"num": 0} == {
        "failed": 2,
        "num": 0,
        "reasons": {"timeout": 2},
        "incomplete": True,
    }
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| object | not judged, 2 failed |" in table
    assert "toy: incomplete: 2 of" in table
