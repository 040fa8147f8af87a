import json

import numpy as np
import pytest
from PIL import Image

from leanlens.cli.evaluate import scenes as command
from leanlens.evaluate import fid
from leanlens.evaluate.scenes import evaluate_scenes, write_evaluation
from leanlens.pipeline.draw import draw
from leanlens.pipeline.placement import open_model
from leanlens.pipeline.request import ImageRequest


@pytest.fixture(autouse=True)
def _no_inception(monkeypatch):
    monkeypatch.setattr(fid, "_inception", lambda: None)


@pytest.fixture(scope="module")
def toy():
    return open_model("toy", "cpu", "float32")


def test_questions_are_drawn_as_every_door_draws_and_scored_row_by_row(toy, shelf, scorer):
    done = evaluate_scenes(toy, 3, 5, shelf, scorer, steps=1, size=64, real=True, reconstruction=True)
    assert list(done.pictures) == ["toy", "reconstruction", "real"]
    request = ImageRequest.checked(
        prompt=done.questions[1].prompt,
        width=done.questions[1].size[0],
        height=done.questions[1].size[1],
        num_inference_steps=1,
        guidance_scale=done.settings["guidance"],
        seed=6,
    )
    np.testing.assert_array_equal(draw(toy, request).image, done.pictures["toy"][1])
    assert done.pictures["real"][0] is done.questions[0].picture
    assert done.pictures["reconstruction"][0].size == done.questions[0].size
    assert done.rates["real"]["two_objects"].num == 1
    assert done.fid == {"toy": None, "reconstruction": None, "real": None}


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


def test_wrong_arguments_are_one_sentence(toy, shelf, scorer):
    with pytest.raises(ValueError, match="num 0 is not accepted"):
        evaluate_scenes(toy, 0, 0, shelf, scorer)
    with pytest.raises(ValueError, match="prompts 'poems' is not accepted; use dense, brief or human"):
        evaluate_scenes(toy, 1, 0, shelf, scorer, "poems")
    with pytest.raises(ValueError, match="human prompts have no true pictures"):
        evaluate_scenes(toy, 1, 0, shelf, scorer, "human", real=True)


def test_the_command(shelf, scorer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("leanlens.score.scene.SceneScorer", lambda library: scorer)
    options = {"model": "toy", "seed": 0, "steps": 1, "cfg": 1.0, "size": 64, "sources": str(shelf.folder)}
    rest = {"device": "cpu", "dtype": "float32", "reconstruction": False}
    first, second = tmp_path / "a", tmp_path / "b"
    command(out=first, num=2, prompts="brief", real=False, beside=None, **options, **rest)
    beside = [first / "results.json"]
    command(out=second, num=2, prompts="dense", real=True, beside=beside, **options, **rest)
    header = "| criterion | toy | real | toy, brief prompts |"
    assert header in capsys.readouterr().out
    assert header in (second / "table.md").read_text()
    with pytest.raises(ValueError, match="exists already"):
        command(out=second, num=1, prompts="dense", real=False, beside=None, **options, **rest)
    nowhere = [tmp_path / "nowhere.json"]
    with pytest.raises(ValueError, match=r"nowhere\.json is no results\.json"):
        command(out=tmp_path / "c", num=1, prompts="dense", real=False, beside=nowhere, **options, **rest)


def test_distance_of_features_is_frechets():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(400, 4)), rng.normal(size=(300, 4)) @ np.diag([1, 2, 1, 0.5]) + 1
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(one.T) @ np.cov(other.T)).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root)
    assert fid.distance_of_features(one, other) == pytest.approx(expected, rel=1e-6)
    assert fid.distance_of_features(one, one) == pytest.approx(0, abs=1e-8)
    with pytest.raises(ValueError, match="a set of 1 pictures has no covariance"):
        fid.distance_of_features(one[:1], other)


def test_without_the_package_there_is_no_distance(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(fid, "find_spec", lambda name: None)
    monkeypatch.setattr(fid, "_inception", fid._inception.__wrapped__)
    assert fid.frechet_distance([], []) is None
