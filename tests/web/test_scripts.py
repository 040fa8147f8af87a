"""Scripts and style sheets are files that can be read by an editor, and that a browser can read."""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import leanlens.web
from leanlens.web.scripts import ON_LOAD
from leanlens.web.style import style_sheet

FOLDER = Path(leanlens.web.__file__).parent
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js")} | {"ON_LOAD": f"({ON_LOAD})"}


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_can_be_parsed(name):
    checked = subprocess.run(["node", "--check", "-"], input=SCRIPTS[name], text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_a_style_sheet_closes_what_it_opens():
    depth = 0
    for mark in style_sheet():
        depth += {"{": 1, "}": -1}.get(mark, 0)
        assert 0 <= depth <= 2
    assert depth == 0


def test_no_script_or_style_sheet_hides_in_python():
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count("\n") > 1:
                assert not any(mark in node.value for mark in ("=>", "function ", "document.", "px;")), (
                    path,
                    node.value,
                )
