"""The command line, called as a shell would call it, in this process."""

import sys
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


@pytest.fixture
def leanlens(monkeypatch, capsys, tmp_path):
    """`leanlens("generate", "a cat")` -> exit code, standard output, standard error; works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CONFIG_HOME", "APPDATA"):  # the defaults of whoever runs the tests do not count
        monkeypatch.setenv(name, str(tmp_path / ".settings"))

    def run(*words: object) -> Run:
        from leanlens.cli.main import run as entry

        monkeypatch.setattr(sys, "argv", ["leanlens", *map(str, words)])
        code = 0
        try:
            entry()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run
