"""Recipes by name, and what an installed package holds."""

import re
import tomllib
from pathlib import Path

import pytest

from leanlens.config import find_recipe, recipe_names

ROOT = Path(__file__).parents[1]


def test_a_recipe_is_found_by_name_and_a_file_goes_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("smoke") == find_recipe("smoke.toml") == find_recipe("examples/smoke")
    assert find_recipe("smoke") == ROOT / "recipes" / "examples" / "smoke.toml"
    assert find_recipe("folder/other.toml") == Path("folder/other.toml")
    Path("smoke").write_text("", encoding="utf-8")
    assert find_recipe("smoke") == Path("smoke")
    with pytest.raises(ValueError, match="recipe 'smok' is neither a file nor the name of a recipe; the nearest name"):
        find_recipe("smok")


def test_every_recipe_has_a_name_whose_last_part_is_enough():
    files = set((ROOT / "recipes").rglob("*.toml"))
    assert {path.parent.name for path in files} == {"lens", "nano", "examples"}
    assert set(recipe_names().values()) == files == {find_recipe(path.stem) for path in files}


def test_nothing_is_trained_outside_the_package():
    for path in (ROOT / "runs").glob("*.py"):
        assert not re.search(r"\.backward\(|\boptim\b|\bAdamW\b", path.read_text(encoding="utf-8")), path


def test_the_first_line_of_recipes_and_runs_says_what_for_and_whether_they_are_live():
    for path in [*(ROOT / "recipes").rglob("*.toml"), *(ROOT / "runs").glob("*.sh"), *(ROOT / "runs").glob("*.py")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        first = lines[lines[0].startswith("#!")]
        assert re.match(r'(# |""")[A-Z].{15,}[.)] Live\b', first), f"{path}: {first}"


def test_the_wheel_takes_recipes_and_types_and_the_sdist_nothing_from_elsewhere():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"recipes": "leanlens/recipes"}
    assert all(pattern.startswith("/") and (ROOT / pattern[1:]).exists() for pattern in build["sdist"]["include"])
    assert (ROOT / "leanlens" / "py.typed").is_file()
