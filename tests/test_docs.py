"""The documentation is true: blocks marked `run` are run, our own parser reads every other command line."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = [ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md", ROOT / "leanlens" / "nano" / "README.md"]
CARDS += sorted((ROOT / "integrations").glob("*/README.md"))
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What may stand before the command: programs that fetch it, run it in a container, or start it several times.
STARTERS = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:(?:uvx|pipx run|docker run|torchrun) .*?)?\bleanlens (?=[a-z-])")
SCRIPTS = [*sorted((ROOT / "runs").glob("*.sh")), *sorted((ROOT / "examples").glob("*.sh"))]
INLINE = re.compile(r"`(leanlens [^`\n]+)`")


def blocks(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text(encoding="utf-8"))


def runnable() -> list:
    """Every page with blocks marked `run`, and these in order."""
    found = {
        page: [(info.split()[0], text) for info, text in blocks(page) if "run" in info.split()[1:]] for page in PAGES
    }
    return [pytest.param(marked, id=page.name) for page, marked in found.items() if marked]


def command_lines() -> list:
    """Every line that begins with `leanlens`, in blocks of shell or of no language, and inline, each once."""
    found: dict[str, str] = {}
    for page in PAGES:
        for info, text in blocks(page):
            if info.split()[:1] in ([], ["sh"], ["bash"], ["console"]):
                joined = re.sub(r"\\\n\s*", " ", text)
                for line in joined.splitlines():
                    line = STARTERS.sub("leanlens ", line.strip().removeprefix("$ ").split(" | ")[-1])
                    if line.startswith("leanlens "):
                        found.setdefault(line, page.name)
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        for line in INLINE.findall(prose):
            # `leanlens weights fetch --list | verify` and `leanlens COMMAND --help` name several at once
            if "|" not in line and not re.search(r"\b(COMMAND|OPTIONS)\b", line) and page.name != "commands.md":
                found.setdefault(line, page.name)
    return [pytest.param(line, id=f"{page}: {line[:60]}") for line, page in found.items()]


@pytest.mark.parametrize("marked", runnable())
def test_blocks_marked_run(marked, tmp_path):
    """Each block in a folder of its own; blocks of Python that follow one another share a process, not their names."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    for number, (language, texts) in enumerate(
        (language, [text for _, text in group]) for language, group in groupby(marked, lambda block: block[0])
    ):
        folders = [tmp_path / f"{number}-{index}" for index in range(len(texts))]
        for folder in folders:
            folder.mkdir()
        if language == "python":
            steps = [
                f"os.chdir({str(folder)!r}); exec({text!r}, {{}})" for folder, text in zip(folders, texts, strict=True)
            ]
            runs = [(folders[0], [sys.executable, "-c", "import os\n" + "\n".join(steps)])]
        else:
            runs = [(folder, ["bash", "-e", "-c", text]) for folder, text in zip(folders, texts, strict=True)]
        for folder, words in runs:
            run = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
            assert run.returncode == 0, run.stdout + run.stderr


def script_lines() -> list:
    """Every call of our command line in the scripts, with the defaults of their variables put in."""
    found = []
    for script in SCRIPTS:
        text = re.sub(r"\\\n\s*", " ", script.read_text(encoding="utf-8"))
        # NAME=${NAME:-value} and NAME=value; what only a run knows becomes the letter x
        known = dict(re.findall(r"^(?:local )?(\w+)=(?:\$\{\w+:-)?(\w+)\b", text, re.MULTILINE))
        text = re.sub(r'\$\{\w+\[@\]\+"\$\{\w+\[@\]\}"\}|"\$\{\w+\[@\]\}"|(?<= )"\$@" ', "", text)  # further options
        text = re.sub(r"\$\{\w+:\+([^{}]*)\}", r"\1", text)  # options that are given where a variable is set
        text = re.sub(r"\$\{?(\w+)\}?", lambda name, known=known: known.get(name[1], "x"), text)
        for line in re.findall(r'^[^#\n]*?(?:\blens|-m leanlens) (?!"\$@")([a-z].*)$', text, re.MULTILINE):
            alone = re.split(r';|\)"| \|\| | \d?>', line)[0]  # without what the shell does with it
            found.append(pytest.param("leanlens " + alone, id=f"{script.name}: {line[:60]}"))
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("line", [*command_lines(), *script_lines()])
def test_command_lines_are_ours(line):
    from leanlens.cli.main import app

    words = shlex.split(re.sub(r"(^|\s)#.*$", "", line))[1:]  # as in a shell, `#` within a word is no comment
    command, name = typer.main.get_command(app), "leanlens"
    while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        inner = command.get_command(command.context_class(command, info_name="x"), name)
        assert inner is not None, f"{name!r} is no command"
        command = inner
    if hasattr(command, "list_commands") or "--help" in words or not words:
        return
    command.make_context(name, words)


def test_the_command_reference_is_current():
    spec = importlib.util.spec_from_file_location("make_commands", ROOT / "docs" / "make_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.reference(), "run `python docs/make_commands.py`"


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_examples_are_short():
    for example in (ROOT / "examples").glob("*.py"):
        most = 400 if example.name == "one_file.py" else 40
        assert len(example.read_text(encoding="utf-8").splitlines()) <= most, example
