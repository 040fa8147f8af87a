"""`leanlens model words`: what a model knows, searched, for people and for programs."""

import json
import subprocess
import sys

import pytest


def test_all_words_by_category(leanlens):
    run = leanlens("model", "words")
    assert run.code == 0
    lines = run.out.splitlines()
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert headings[0] == "animal"
    assert headings[-9:] == ["color", "background", "pattern", "ground", "sky", "style", "size", "number", "relation"]
    assert any(line.split() and line.split()[0] == "rabbit" and "bunny" in line for line in lines)
    assert leanlens("model", "words", "nano").out == run.out


def test_a_search(leanlens):
    run = leanlens("model", "words", "nano", "boat")
    assert run.code == 0
    assert [line.split()[:2] for line in run.out.splitlines()] == [["vehicle", "sailboat"], ["vehicle", "ship"]]
    several = leanlens("model", "words", "nano", "hot", "dog")
    assert several.out.split()[:3] == ["food", "hot", "dog"]


def test_an_unknown_word_is_said_with_what_is_near(leanlens):
    run = leanlens("model", "words", "nano", "piano")
    assert (run.code, run.out) == (0, "nano does not know 'piano'; nearest: guitar (0.49)\n")
    assert leanlens("model", "words", "nano", "zzyzx").out == "nano does not know 'zzyzx'\n"


def test_json(leanlens):
    told = json.loads(leanlens("model", "words", "nano", "bunny", "--json").out)
    assert (told["model"], told["search"], told["nearest"]) == ("nano", "bunny", None)
    assert [(entry["name"], entry["kind"], entry["category"]) for entry in told["words"]] == [
        ("rabbit", "thing", "animal")
    ]
    assert "bunny" in told["words"][0]["others"]
    told = json.loads(leanlens("model", "words", "nano", "piano", "--json").out)
    assert told["words"] == []
    assert told["nearest"] == {"word": "piano", "nearest": "guitar", "nearness": 0.49}


@pytest.mark.parametrize("model", ["turbo", "rl", "base", "toy"])
def test_models_without_a_list_say_so(leanlens, model):
    run = leanlens("model", "words", model)
    assert (run.code, run.out) == (2, "")
    assert run.err == f"error: {model} was not trained on a fixed list of words; nano was\n"


def test_a_folder_of_ones_own(leanlens, tmp_path):
    (tmp_path / "mine").mkdir()
    index = tmp_path / "mine" / "model_index.json"
    index.write_text('{"caption_style": "scenes/everyday"}')
    assert "accordion" not in leanlens("model", "words", "mine").out
    assert leanlens("model", "words", "mine", "accordion").out == "mine does not know 'accordion'\n"
    index.write_text("{}")
    assert "mine was not trained on a fixed list of words" in leanlens("model", "words", "mine").err
    index.write_text('{"caption_style": "poems"}')
    assert "unknown caption_style 'poems'" in leanlens("model", "words", "mine").err


def test_a_search_in_place_of_the_model_is_told_where_it_goes(leanlens):
    run = leanlens("model", "words", "boat")
    assert run.code == 2
    assert "leanlens model words nano boat" in run.err


def test_it_imports_no_torch():
    code = (
        "import sys; sys.argv = ['leanlens', 'model', 'words', 'nano', 'boat']\n"
        "from leanlens.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"
    assert done.stdout.startswith("vehicle  sailboat")
