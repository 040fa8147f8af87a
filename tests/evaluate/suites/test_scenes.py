import json

import pytest

from leanlens.evaluate.control import truth_of_kin
from leanlens.evaluate.image_models.lens import LensModel
from leanlens.evaluate.image_models.true_pictures import Reconstruction, TruePictures
from leanlens.evaluate.results import results_of
from leanlens.evaluate.run import evaluate
from leanlens.evaluate.suite import Judgement
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.evaluate.suites.scenes import library_of, metrics_of, scenes_of
from leanlens.score.protocol import Failed


def suite_of(shelf, scorer, **options):
    return scenes_of([scorer], shelf, SuiteOptions(**{"size": 64, **options}))


def test_scenes_are_judged_beside_true_pictures_and_the_control(toy, shelf, scorer, tmp_path):
    suite = suite_of(shelf, scorer, num=3, seed=5, needs_truth=True)
    assert [item.categories for item in suite.items] == [("one object",), ("two objects",), ("three or more objects",)]
    done = evaluate(
        suite, [lambda: LensModel(toy, steps=1)], tmp_path,
        references=[lambda: Reconstruction(toy, suite.items), lambda: TruePictures(suite.items)], seeds=2,
    )  # fmt: skip
    assert [(row.name, row.role) for row in done.rows] == [
        ("toy", "model"), ("reconstruction", "reference"), ("real", "reference"), ("toy, control", "control"),
    ]  # fmt: skip
    rates = results_of(done)["rates"]["bright"]
    assert rates["real"]["two_objects"]["num"] == 1
    assert [len(images) for images in done.rows[2].images] == [1, 1, 1]
    assert done.rows[2].images[0][0].open().tobytes() == suite.items[0].picture.tobytes()
    assert done.rows[1].images[0][0].open().size == suite.items[0].size


def test_the_control_asks_for_another_thing_of_the_same_kind(shelf):
    truth = {
        "objects": [{"concept": "duck", "count": 2}, {"concept": "sign", "category": "sign"}],
        "relations": [["duck", "left of", "sign"]],
    }
    kin = truth_of_kin(truth, 1, shelf)
    (duck, sign), category = kin["objects"], shelf.concepts["duck"].category
    assert duck["concept"] != "duck"
    assert shelf.concepts[duck["concept"]].category == category
    assert duck["count"] == 2
    assert sign == truth["objects"][1]
    assert kin["relations"] == [[duck["concept"], "left of", "sign"]]
    assert truth_of_kin(truth, 1, shelf) == kin
    named = {"objects": [{"id": "a", "concept": "duck"}, {"concept": "frog"}], "relations": [["a", "above", "frog"]]}
    kin = truth_of_kin(named, 0, shelf)
    assert kin["relations"] == [["a", "above", kin["objects"][1]["concept"]]]


def test_prompts_of_a_file_are_all_asked_unless_a_number_is_given(shelf, scorer, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"prompt": one, "truth": {"objects": [{"concept": one}]}}) + "\n"
                            for one in ("duck", "frog", "walrus")))  # fmt: skip
    whole = suite_of(shelf, scorer, prompts=str(path))
    assert [item.prompt for item in whole.items] == ["duck", "frog", "walrus"]
    assert whole.warnings == ("not judged, since the library does not have them: walrus",)
    assert len(suite_of(shelf, scorer, prompts=str(path), num=2).items) == 2
    assert set(whole.source) == {"library", "prompts_sha256"}
    with pytest.raises(ValueError, match=r"invalid num 4: .*mine\.jsonl has 3 prompts"):
        suite_of(shelf, scorer, prompts=str(path), num=4)
    with pytest.raises(ValueError, match=r"the prompts of .*mine\.jsonl have no true pictures"):
        suite_of(shelf, scorer, prompts=str(path), needs_truth=True)
    with pytest.raises(ValueError, match="human prompts have no true pictures"):
        suite_of(shelf, scorer, prompts="human", needs_truth=True)
    with pytest.raises(ValueError, match="invalid prompts 'poems': expected dense, brief, human or the path of a file"):
        suite_of(shelf, scorer, prompts="poems")


def test_prompts_of_a_file_are_judged_without_icons_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANLENS_SCENES", str(tmp_path / "empty"))
    for library in (None, "common"):
        known = library_of(SuiteOptions(prompts="human", library=library))
        assert "zebra" in known.concepts
        assert known.bitmaps == {}
    with pytest.raises(ValueError, match="sources 'common' are not in"):
        library_of(SuiteOptions(prompts="dense", library="common"))
    with pytest.raises(ValueError, match="sources 'full' are not in"):
        library_of(SuiteOptions(prompts="human", library="full"))


def test_metrics_pool_what_is_stated_and_leave_failures_out():
    rows = [
        [Judgement({"object": 1.0, "color": 0.5, "text": None})],
        [Judgement({"object": 1.0, "color": None, "text": None}), Judgement({"object": Failed("x"), "color": 1.0,
                                                                            "text": None})],
        [Judgement({"object": 0.0, "color": None, "text": None})],
    ]  # fmt: skip
    judged = [{"scene": row, "other": row} for row in rows]
    criteria = ("object", "color", "text")
    found = {one.name: one for one in metrics_of([("scene", criteria), ("other", criteria)])([], judged)}
    assert list(found) == ["criteria met", "all met", "object", "color", "criteria met (other)", "all met (other)",
                           "object (other)", "color (other)"]  # fmt: skip
    assert found["criteria met"].value == pytest.approx((1 + 1 + 0) / (2 + 1 + 1))
    assert found["criteria met"].failed == 1
    assert found["all met"].value == pytest.approx(1 / 3)
    assert found["object"].value == pytest.approx(2 / 3)


def test_options_survive_their_json(tmp_path):
    options = SuiteOptions(num=3, data=tmp_path, scorers=("scene", "other"), needs_truth=True)
    assert SuiteOptions.from_json(json.loads(json.dumps(options.as_json()))) == options
    assert SuiteOptions().as_json() == {}
