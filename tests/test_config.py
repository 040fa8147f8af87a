"""Recipes: strict, changed from the command line, and helpful about wrong keys."""

import re

import pytest
from pydantic import Field

from leanlens.config import Section, checked, differences, plain, read_recipe


class Optim(Section):
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)


class Step(Section):
    optim: Optim = Optim()
    steps: int
    start: str | None = Field(default=None, alias="from")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('steps = 3\nfrom = "here"\n[optim]\nlr = 1\nbetas = [0.8, 0.9]\n')
    return file


def test_reads_toml(path):
    recipe = read_recipe(Step, path)
    assert (recipe.steps, recipe.start, recipe.optim.lr, recipe.optim.betas) == (3, "here", 1.0, (0.8, 0.9))
    assert plain(recipe) == {"optim": {"lr": 1.0, "betas": [0.8, 0.9]}, "steps": 3, "from": "here"}


def test_changes_are_toml_values_or_strings(path):
    recipe = read_recipe(Step, path, ["optim.lr=2e-3", "from=/tmp/a b", "optim.betas=[0.1, 0.2]"])
    assert (recipe.optim.lr, recipe.start, recipe.optim.betas) == (2e-3, "/tmp/a b", (0.1, 0.2))


def test_recipes_do_not_change(path):
    with pytest.raises(ValueError, match="frozen"):
        read_recipe(Step, path).steps = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optim.lrr=1", "unknown recipe key 'optim.lrr'; the nearest known key is 'optim.lr'"),
        ("lr=1", "unknown recipe key 'lr'; the nearest known key is 'optim.lr'"),
        ("optim.xyzzy=1", "unknown recipe key 'optim.xyzzy'; known keys are optim.lr, optim.betas"),
        ("steps=many", "recipe key 'steps' is 'many'; should be a valid integer"),
        ("steps=1.5", "recipe key 'steps' is 1.5"),
        ("optim.lr=true", "recipe key 'optim.lr' is True"),
        ("optim.betas=[1.0]", "recipe key 'optim.betas.1' is missing"),
        ("steps", "change 'steps' is not of the form a.b=c"),
        ("steps.a=1", "change 'steps.a=1' goes below steps, which is not a table"),
    ],
)
def test_wrong_values_are_named(path, change, message):
    with pytest.raises(ValueError, match="^" + message.replace("'", "'").replace("[", r"\[")):
        read_recipe(Step, path, [change])


def test_missing_key_file_and_toml(tmp_path):
    with pytest.raises(ValueError, match="recipe key 'steps' is missing"):
        checked(Step, {})
    with pytest.raises(ValueError, match=r"no\.toml not found"):
        read_recipe(Step, tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(ValueError, match="is not valid TOML"):
        read_recipe(Step, tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps=" + "[" * 5000, "the value of change steps is nested too deeply: the limit is 32"),
        ("steps=" + "{a=" * 5000, "the value of change steps is nested too deeply"),
        ("steps=" + "1" * 5000, "the value of change steps is not valid TOML: Exceeds the limit"),
        ("a" + ".a" * 5000 + "=1", "goes 5001 tables deep; at most 32 are accepted"),
    ],
)
def test_hostile_changes_are_refused_in_a_sentence(path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_recipe(Step, path, [change])


def test_differences_are_dotted():
    assert differences({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "d": [1], "e": 5}) == {
        "a.c": (2, 3), "e": (None, 5),
    }  # fmt: skip
