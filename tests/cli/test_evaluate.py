import json

import pytest

pytest.importorskip("scipy")

from leanlens.evaluate import fid
from leanlens.plugins import SCORERS
from leanlens.scenes.icons import make_library, open_library
from leanlens.scenes.sources import Drawings, read_sample
from tests.mock_endpoint import Reply, mock_endpoint, prompt_of
from tests.plugin_package import install

CONCEPTS = ("duck", "frog", "house", "car", "heart", "star", "boot", "drum", "tree", "door")
SCORER = """
class Constant:
    name, criteria = 'constant', ('good', 'half')
    def __call__(self, images, prompts, truths=None):
        return [{'good': 1.0, 'half': 0.5} for _ in images]
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    concepts, drawings = read_sample()
    one = Drawings(drawings[0].style, drawings[0].origin,
                   {name: drawings[0].found[name] for name in CONCEPTS if name in drawings[0].found})  # fmt: skip
    folder = tmp_path_factory.mktemp("command") / "library"
    make_library([concept for concept in concepts if concept.name in CONCEPTS], [one], folder)
    return open_library(folder).folder


@pytest.fixture
def command(leanlens, shelf, tmp_path, monkeypatch):
    """Runs `leanlens evaluate scenes` with the toy model and a scorer of another package."""
    install(monkeypatch, tmp_path, SCORER, {SCORERS: {"mine": "added:Constant"}})
    monkeypatch.setattr(fid, "_inception", lambda: None)

    def run(*words, out="out", models=("toy",)):
        chosen = [word for model in models for word in ("--model", model)]
        common = ["--steps", 1, "--size", 64, "--sources", shelf, "--device", "cpu", "--dtype", "float32"]
        scorer = [] if "--scorer" in words else ["--scorer", "mine"]
        return leanlens("evaluate", "scenes", *chosen, *common, *scorer, "--out", tmp_path / out, *words)

    return run


def test_two_models_are_compared_in_one_command(command, tmp_path):
    done = command("--num", 2, "--seed", 77, models=("toy", "second=toy"))
    assert done.code == 0
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert list(results["models"]) == ["toy", "second", "toy, control", "second, control"]
    assert results["judges"]["constant"]["criteria"] == ["good", "half"]
    assert results["rates"]["constant"]["toy"]["half"]["mean"] == 0.5
    assert len(list((out / "images").iterdir())) == 2  # the same model twice is drawn once
    assert "| criteria met | 50.0" in done.out
    assert "| good | 1.00" in done.out
    assert (out / "table.md").read_text() in done.out


def test_an_evaluation_goes_on_and_is_rebuilt(command, leanlens, tmp_path):
    assert command("--num", 2, "--real").code == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    assert command("--num", 2, "--real").code == 0
    assert leanlens("evaluate", "rebuild", tmp_path / "out", "--item", "00001").code == 0
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    other = command("--num", 3)
    assert (other.code, "give another folder" in other.err) == (2, True)
    assert leanlens("evaluate", "rebuild", tmp_path).code == 2
    assert leanlens("evaluate", "rebuild", tmp_path / "out", "--item", "x").code == 2


def test_a_folder_that_was_moved_is_rebuilt_without_asking_judges_again(leanlens, tmp_path):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a red apple\n")
    words = ["--model", "toy", "--model", "two=toy,steps=2", "--steps", 1, "--size", 64, "--device", "cpu", "--pairs"]
    with mock_endpoint(lambda body, count: Reply("A" if "Which of them" in prompt_of(body) else "yes")) as judge:
        words += ["--prompts", prompts, "--judge", f"{judge.url}#eye", "--out", tmp_path / "out"]
        assert leanlens("evaluate", "own", *words).code == 0
    before = (tmp_path / "out" / "table.md").read_text()
    assert "contradicted itself" in before
    (tmp_path / "out").rename(tmp_path / "moved")
    assert leanlens("evaluate", "rebuild", tmp_path / "moved").code == 0
    assert (tmp_path / "moved" / "table.md").read_text() == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reason", "default"), "invalid reason 'default' for toy"),
        (("--reason", "off", "--reason", "off"), "reason 'off' is given twice"),
        (("--scorer", "other"), "invalid scorer 'other'"),
        (("--num", "0"), "invalid num 0"),
        (("--beside", "nowhere.json"), "is no results.json"),
        (("--model", "toy"), "two models"),
        (("--seeds", "0"), "invalid seeds 0"),
        (("--judge", "http://127.0.0.1:1/v1#m,key=NOT_SET_HERE"), "environment variable NOT_SET_HERE is not set"),
        (("--seed", "-1"), "invalid seed -1: expected an integer from 0 to 2^63-1"),
        (("--seed", str(2**63)), "expected an integer from 0 to 2^63-1"),
        (("--size", "0"), "invalid size 0"),
        (("--scorer", "mine", "--scorer", "mine"), "invalid scorer 'mine': it is given twice"),
        (("--keep", __file__), "it is a file; expected a folder"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_drawn(command, tmp_path, words, said):
    run = command(*(() if "--num" in words else ("--num", 2)), *words)
    assert run.code == 2
    assert said in run.err
    assert not (tmp_path / "out" / "images").exists()


def test_another_evaluation_is_printed_beside(command, tmp_path):
    assert command("--num", 1, out="a").code == 0
    run = command("--num", 1, "--seed", 1, "--beside", tmp_path / "a" / "results.json", out="b")
    assert "\nScenes, dense captions, 1 prompts:\n\n| criterion | toy | toy, control |" in run.out


def test_prompts_are_written_for_other_programs(leanlens, shelf, tmp_path):
    made = [leanlens("evaluate", "prompts", "fresh", "--seed", "2026-12-01", "--num", 3, "--sources", shelf, "--out",
                     tmp_path / name) for name in ("a.jsonl", "b.jsonl")]  # fmt: skip
    assert [one.code for one in made] == [0, 0]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3
    wrong = leanlens("evaluate", "prompts", "scenes", "--seed", "tomorrow", "--out", tmp_path / "c.jsonl")
    assert (wrong.code, "invalid seed 'tomorrow'" in wrong.err) == (2, True)
    assert "invalid suite 'poems'" in leanlens("evaluate", "prompts", "poems", "--out", tmp_path / "c.jsonl").err


def test_fresh_prompts_are_drawn_and_judged(leanlens, shelf, tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, SCORER, {SCORERS: {"mine": "added:Constant"}})
    words = ["--model", "toy", "--num", 2, "--steps", 1, "--size", 64, "--sources", shelf, "--scorer", "mine"]
    out = ["--device", "cpu", "--out", tmp_path / "out"]
    run = leanlens("evaluate", "fresh", "--seed", "2026-12-01", *words, *out)
    assert run.code == 0
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["suite"]["settings"]
    assert settings["date"] == "2026-12-01"
    assert "these prompts are for 2026-12-01 alone" in run.err
    assert leanlens("evaluate", "rebuild", tmp_path / "out").code == 0
