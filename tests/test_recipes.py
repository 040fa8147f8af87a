"""Recipes by name, and what an installed package holds."""

import tomllib
from pathlib import Path

import pytest

from leanlens.config import find_recipe, recipe_names

ROOT = Path(__file__).parents[1]


def test_a_recipe_is_found_by_name_and_a_file_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("smoke") == find_recipe("smoke.toml") == ROOT / "recipes" / "smoke.toml"
    assert find_recipe("folder/other.toml") == Path("folder/other.toml")
    Path("smoke").write_text("", encoding="utf-8")
    assert find_recipe("smoke") == Path("smoke")
    with pytest.raises(ValueError, match="recipe 'smok' is neither a file nor the name of a recipe; the nearest name"):
        find_recipe("smok")


def test_every_recipe_has_a_name():
    assert {path.stem for path in (ROOT / "recipes").glob("*.toml")} == set(recipe_names())


def test_the_wheel_takes_recipes_and_types_and_the_sdist_nothing_from_elsewhere():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"recipes": "leanlens/recipes"}
    assert all(pattern.startswith("/") and (ROOT / pattern[1:]).exists() for pattern in build["sdist"]["include"])
    assert (ROOT / "leanlens" / "py.typed").is_file()
