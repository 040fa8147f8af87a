"""One place says how leanlens and its extras are installed; messages and pages agree with it."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from leanlens import install

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "integrations").glob("*/README.md"),
    ROOT / "benchmarks" / "README.md",
]


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        ({"url": "https://host/a.git", "vcs_info": {"vcs": "git"}}, '"leanlens[eval] @ git+https://host/a.git"'),
        (
            {"url": "https://host/a.git", "vcs_info": {"vcs": "git", "requested_revision": "v1"}},
            '"leanlens[eval] @ git+https://host/a.git@v1"',
        ),
        ({"url": "file:///a/b.whl", "archive_info": {}}, '"leanlens[eval] @ file:///a/b.whl"'),
        ({"url": ROOT.as_uri(), "dir_info": {}}, f'"{ROOT}[eval]"'),
        ({"url": ROOT.as_uri(), "dir_info": {"editable": True}}, f'-e "{ROOT}[eval]"'),
        ({"url": "file:///gone", "dir_info": {}}, '"leanlens[eval] @ git+<address of the repository>"'),
        ({}, f'"{ROOT}[eval]"'),
    ],
)
def test_a_message_names_the_source_of_this_installation(monkeypatch, origin, line):
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed(json.dumps(origin)))
    assert install.install_extra("eval") == f"pip install {line}"


def test_an_installation_without_a_record_is_named_by_its_source(monkeypatch):
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed(None))
    assert install.install_extra("data") == f'pip install "{ROOT}[data]"'


class Installed:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


def test_only_one_file_of_the_package_writes_such_a_line():
    """A name in quotes is no package of an index, and the parts of a line are not spread over the package."""
    for path in (ROOT / "leanlens").rglob("*.py"):
        if path.name == "install.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "leanlens[" not in node.value, f"{path}: {node.value}"


def test_every_extra_that_the_package_asks_for_exists():
    asked = set()
    for path in (ROOT / "leanlens").rglob("*.py"):
        asked |= set(re.findall(r"install_extra\([\x22\x27](\w+)", path.read_text(encoding="utf-8")))
    assert asked
    assert asked <= set(EXTRAS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_install_from_a_clone_or_from_git(page):
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"pip install [^`\n]*leanlens\[[^`\n]*", text):
        extra = re.search(r"leanlens\[(\w+)\]", line)
        assert extra, line
        assert install.FROM_GIT.format(extra=extra[1]) in line, line
    for extras in re.findall(r"(?:leanlens|\.)\[([a-z,]+)\]", text):
        assert set(extras.split(",")) <= set(EXTRAS), extras
