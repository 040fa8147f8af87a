"""docs/api.md is the public API: every name is there, importable and documented, and no page shows another one."""

import ast
import importlib.util
import inspect
import re
import types
from pathlib import Path

import pytest

import leanlens

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^\| `(leanlens\.[A-Za-z0-9_.]+)` \|", PAGE.partition("## Entry points")[0], re.MULTILINE)
SHOWN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def found(name: str) -> object:
    """What a dotted name is: a module, or something in one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_importable_and_documented(name):
    pytest.importorskip({"serve": "fastapi"}.get(name.split(".")[1], "leanlens"))
    thing = found(name)
    assert inspect.getdoc(thing), name
    if not isinstance(thing, types.ModuleType) and name.count(".") > 1:
        assert thing.__module__.startswith("leanlens."), name


def test_names_are_listed_once():
    assert len(set(NAMES)) == len(NAMES) > 30


def test_the_top_level_names_are_those_of_all():
    listed = {name.split(".")[1] for name in NAMES if name.count(".") == 1 and not _is_module(name)}
    assert listed | {"__version__"} == set(leanlens.__all__)


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def shown(page: Path) -> set[str]:
    """Every name that the Python of a page or an example imports from leanlens."""
    text = page.read_text(encoding="utf-8")
    blocks = [text] if page.suffix == ".py" else FENCE.findall(text)
    names = set()
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "leanlens":
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names if alias.name.startswith("leanlens.")}
    return names


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_pages_and_examples_show_public_names_only(page):
    assert shown(page) <= set(NAMES)
