import json

import numpy as np
import pytest
from PIL import Image

from leanlens.cli.evaluate import scenes as command
from leanlens.evaluate.results import write_evaluation
from leanlens.evaluate.scenes import evaluate_scenes
from leanlens.pipeline.draw import draw
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import ImageRequest
from leanlens.plugins import SCORERS
from tests.plugin_package import install


def test_questions_are_drawn_as_every_interface_draws_them_and_scored_row_by_row(toy, shelf, scorer):
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


class Loud:
    """A reasoner that says the prompt louder, and for each seed otherwise."""

    source = "loud 1"

    def __call__(self, asks):
        return [
            Reasoned(original=ask.prompt, prompt=f"{ask.prompt.upper()}! {ask.seed}", source=self.source)
            for ask in asks
        ]


def compared(toy, shelf, scorer, prompts, kept=None, say=lambda text: None):
    reasoners = {"off": None, "default": Loud()}
    return evaluate_scenes(
        toy, None, 3, shelf, scorer, str(prompts), steps=1, size=64, seeds=2, reasoners=reasoners, kept=kept, say=say
    )


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    things = ["duck", "frog"], ["duck"], ["walrus"]
    rows = [{"prompt": " ".join(row), "truth": {"objects": [{"concept": one} for one in row]}} for row in things]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_two_ways_of_asking_are_drawn_judged_and_compared_in_one_run(toy, shelf, scorer, prompts, tmp_path):
    said = []
    done = compared(toy, shelf, scorer, prompts, say=said.append)
    assert "not judged, since the library does not have them: walrus" in said
    assert list(done.pictures) == ["off", "default"]
    seeds = [3, 1_000_003, 4, 1_000_004, 5, 1_000_005]
    assert (
        [answer.seed for answer in done.answers["off"]] == [answer.seed for answer in done.answers["default"]] == seeds
    )
    typed, written = ("duck", "DUCK! 1000004")
    for name, prompt in (("off", typed), ("default", written)):
        request = ImageRequest.checked(
            prompt=prompt, width=64, height=64, num_inference_steps=1,
            guidance_scale=done.settings["guidance"], seed=1_000_004,
        )  # fmt: skip
        np.testing.assert_array_equal(draw(toy, request).image, done.pictures[name][3])
    assert done.settings["reason"] == {"off": None, "default": "loud 1"}
    assert (done.settings["num"], done.settings["seeds"]) == (3, 2)
    assert done.rates["off"]["object"].num == 3
    write_evaluation(done, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["image_seed"] for row in results["pictures"]] == seeds
    assert results["pictures"][3]["prompt"] == typed
    assert results["pictures"][3]["reasoned"]["default"]["prompt"] == written
    assert set(results["rates"]) == {"off", "default"}
    assert results["differences"]["object"]["num"] == 3
    assert (tmp_path / "out" / "table.md").read_text().startswith("| criterion | off | default | difference |\n")
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (6 * 200, 260)  # three prompts, two pictures each


def test_what_was_drawn_is_found_again(toy, shelf, scorer, prompts, tmp_path, monkeypatch):
    whole = compared(toy, shelf, scorer, prompts)
    kept, drawn = tmp_path / "kept", []

    def stops(opened, request):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(request)
        return draw(opened, request)

    monkeypatch.setattr("leanlens.evaluate.draw.draw", stops)
    with pytest.raises(KeyboardInterrupt):
        compared(toy, shelf, scorer, prompts, kept)
    assert len(list(kept.iterdir())) == 5
    drawn.clear()
    damaged = sorted(kept.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(KeyboardInterrupt):
        compared(toy, shelf, scorer, prompts, kept)
    drawn.clear()
    again = compared(toy, shelf, scorer, prompts, kept)
    assert len(drawn) == 12 - 4 - 5
    for name, row in whole.pictures.items():
        for one, other in zip(row, again.pictures[name], strict=True):
            np.testing.assert_array_equal(one, other)
    assert again.scores == whole.scores
    (kept / "notes.txt").write_text("mine")
    write_evaluation(again, tmp_path / "out", kept=kept)
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]


def test_wrong_arguments_are_one_sentence(toy, shelf, scorer):
    with pytest.raises(ValueError, match="invalid num 0"):
        evaluate_scenes(toy, 0, 0, shelf, scorer)
    with pytest.raises(ValueError, match="invalid prompts 'poems': expected dense, brief, human or the path of a file"):
        evaluate_scenes(toy, 1, 0, shelf, scorer, "poems")
    with pytest.raises(ValueError, match="human prompts have no true pictures"):
        evaluate_scenes(toy, 1, 0, shelf, scorer, "human", real=True)
    with pytest.raises(ValueError, match="invalid seeds 0"):
        evaluate_scenes(toy, 1, 0, shelf, scorer, seeds=0)
    with pytest.raises(ValueError, match="reasoners has 3 entries"):
        evaluate_scenes(toy, 1, 0, shelf, scorer, reasoners=dict.fromkeys(("a", "b", "c")))


def test_all_lines_are_asked_unless_a_number_is_given(toy, shelf, scorer, prompts):
    assert len(evaluate_scenes(toy, None, 0, shelf, scorer, str(prompts), steps=1, size=64).questions) == 3
    assert len(evaluate_scenes(toy, 2, 0, shelf, scorer, str(prompts), steps=1, size=64).questions) == 2
    with pytest.raises(ValueError, match=r"invalid num 4: .*prompts\.jsonl has 3 prompts"):
        evaluate_scenes(toy, 4, 0, shelf, scorer, str(prompts), steps=1, size=64)
    with pytest.raises(ValueError, match=r"the prompts of .*prompts\.jsonl have no true pictures"):
        evaluate_scenes(toy, 1, 0, shelf, scorer, str(prompts), reconstruction=True)


def test_the_command(shelf, scorer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("leanlens.score.scene.SceneScorer", lambda library: scorer)
    options = {"model": "toy", "seed": 0, "steps": 1, "cfg": 1.0, "size": 64, "sources": str(shelf.folder)}
    rest = {"device": "cpu", "dtype": "float32", "reconstruction": False, "reason": None, "seeds": 1}
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


def test_the_command_finds_a_scorer_of_another_package(shelf, tmp_path, monkeypatch, capsys):
    source = (
        "class Constant:\n"
        "    name, criteria = 'constant', ('good', 'half')\n"
        "    def __call__(self, images, prompts, truths=None):\n"
        "        return [{'good': 1.0, 'half': 0.5} for _ in images]\n"
    )
    install(monkeypatch, tmp_path, source, {SCORERS: {"mine": "added:Constant"}})
    command(out=tmp_path / "out", num=2, steps=1, size=64, model="toy", sources=str(shelf.folder), scorer="mine")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["scorer"] == "constant"
    assert [picture["scores"]["toy"] for picture in results["pictures"]] == [{"good": 1.0, "half": 0.5}] * 2
    table = capsys.readouterr().out
    assert "| good | 1.00" in table
    assert "| half | 0.00" in table  # met by halves
    assert results["rates"]["toy"]["half"]["mean"] == 0.5
    with pytest.raises(ValueError, match="invalid scorer 'other': expected scene, mine, or MODULE:NAME"):
        command(out=tmp_path / "b", num=1, model="toy", sources=str(shelf.folder), scorer="other")


def test_the_command_compares(shelf, scorer, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("leanlens.score.scene.SceneScorer", lambda library: scorer)
    common = {"seed": 0, "steps": 1, "cfg": 1.0, "size": 64, "sources": str(shelf.folder), "device": "cpu"}
    common |= {"dtype": "float32", "real": False, "reconstruction": False, "num": None, "prompts": str(prompts)}
    out, both = tmp_path / "out", ["off", "default"]
    with pytest.raises(ValueError, match="invalid reason 'default' for toy"):
        command(out=out, model="toy", reason=both, beside=None, seeds=1, **common)
    monkeypatch.setattr("leanlens.reason.reasoner_of_model", lambda model, word: Loud() if word == "default" else None)
    with pytest.raises(ValueError, match="reason 'off' is given twice"):
        command(out=out, model="toy", reason=["off", "off"], beside=None, seeds=1, **common)
    command(out=out, model="toy", reason=both, beside=None, seeds=2, **common)
    assert "| criterion | off | default | difference |" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "prompts.jsonl"]  # what was kept is let go
    command(out=tmp_path / "more", model="toy", reason=None, beside=[out / "results.json"], seeds=1, **common)
    name = f"toy, {prompts} prompts"
    assert f"| criterion | toy | {name}, off | {name}, default |" in capsys.readouterr().out
