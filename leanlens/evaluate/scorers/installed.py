"""Installs scorers into environments of their own, wholly or not at all, and tells which are ready."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leanlens.evaluate.judges.process import ProcessJudge
from leanlens.evaluate.judges.self_test import kept_self_test, scorers_folder
from leanlens.files import fingerprint, read_json, whole_file

RECORD = "installed.json"  # in the environment's folder, written last
SHOWN = 400  # characters of pip's message


@dataclass(frozen=True)
class KnownScorer:
    """A scorer whose script is part of this package.

    Attributes:
        does: what it is for, in a few words.
        folder: with the script and `requirements.txt`. What `requirements-alone.txt` lists is installed after that,
            without what it requires.
        python: the version of Python that the requirements are for.
        needs_weights: whether its weights must be given as a file; others are downloaded.
    """

    does: str
    folder: Path
    script: str
    python: tuple[int, int]
    needs_weights: bool = False


SCORERS = {
    "hpsv3": KnownScorer("what people prefer, as a reward", Path(__file__).parent / "hpsv3", "score.py", (3, 11)),
    "geneval": KnownScorer(
        "GenEval's detector", Path(__file__).parent / "geneval", "detect.py", (3, 9), needs_weights=True
    ),
}
"""Name -> scorer. A new one is a folder beside this file and a line here."""


@dataclass(frozen=True)
class ScorerState:
    """How far a scorer is.

    Attributes:
        folder: of its environment; None where it is not installed.
        command: that starts it; empty where it is not installed.
        self_test: "passed", "failed: REASON" or "not run".
    """

    name: str
    does: str
    folder: Path | None
    command: tuple[str, ...]
    self_test: str


def scorer_states(folder: Path | None = None) -> list[ScorerState]:
    """Every known scorer, whether it is installed, and what came of its self-test.

    Args:
        folder: of environments; `scorers_folder()` without it.
    """
    return [_state(name, folder or scorers_folder()) for name in SCORERS]


def scorer_command(text: str, folder: Path | None = None) -> list[str]:
    """The command of an installed scorer by its name, or the words of another command.

    Raises:
        ValueError: a known scorer that is not installed, or a text that is no command.
    """
    if text in SCORERS:
        state = _state(text, folder or scorers_folder())
        if not state.command:
            raise ValueError(f"the scorer {text} is not installed; run `leanlens evaluate scorers --install {text}`")
        return list(state.command)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"invalid scorer {text!r}: {error}") from None
    if not words:
        raise ValueError(f"invalid scorer {text!r}: expected {', '.join(SCORERS)} or a command")
    return words


def install_scorer(
    name: str,
    weights: Path | None = None,
    python: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    folder: Path | None = None,
) -> ScorerState:
    """Make a scorer's environment, unless it is there, and run its self-test.

    An environment without its record, such as that of an installation that was killed, is made anew.

    Args:
        weights: file of its weights, for a scorer that does not download them, or in place of a download.
        python: interpreter of the environment; this one without it.
        say: told about each step.
        folder: of environments; `scorers_folder()` without it.

    Raises:
        ValueError: an unknown name, another version of Python, missing weights, an installation that fails, of which
            nothing is left, or a self-test that does not pass.
    """
    from filelock import FileLock

    scorer, place = _known(name), (folder or scorers_folder()) / name
    interpreter = python or sys.executable
    _require_version(scorer, name, interpreter)
    if weights is not None and not weights.is_file():
        raise ValueError(f"weights {weights} is no file")
    if scorer.needs_weights and weights is None:
        raise ValueError(f"{name} needs the file of its weights; {scorer.folder / 'requirements.txt'} names it")
    place.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--weights", str(weights.resolve())] if weights is not None else []
    with FileLock(f"{place}.lock"):
        if _record(place).get("requirements") != _requirements(scorer):
            _make(scorer, place, interpreter, say)
        record = {"requirements": _requirements(scorer), "arguments": arguments}
        with whole_file(place / RECORD) as path:
            path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    state = _state(name, place.parent)
    say("self-test")
    ProcessJudge(state.command, kept=place.parent / "self-tests").close()
    return _state(name, place.parent)


def _known(name: str) -> KnownScorer:
    if name not in SCORERS:
        raise ValueError(f"unknown scorer {name!r}: expected {', '.join(SCORERS)}")
    return SCORERS[name]


def _require_version(scorer: KnownScorer, name: str, interpreter: str) -> None:
    """Raise a ValueError unless an interpreter has the version that a scorer's requirements are for."""
    wanted = ".".join(map(str, scorer.python))
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"invalid python {interpreter!r}: {error}") from None
    if found != wanted:
        raise ValueError(f"{name} needs Python {wanted}, and {interpreter} is {found}; give --python python{wanted}")


def _make(scorer: KnownScorer, place: Path, interpreter: str, say: Callable[[str], None]) -> None:
    """Make an environment; nothing of it is left where that fails."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        say(f"making an environment in {place}")
        _run([interpreter, "-m", "venv", str(place)])
        own = str(_python(place))
        for file, *extra in (("requirements.txt",), ("requirements-alone.txt", "--no-deps")):
            if (scorer.folder / file).is_file():
                say(f"installing {file}")
                _run([own, "-m", "pip", "install", "--no-input", *extra, "-r", str(scorer.folder / file)])
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _run(command: Sequence[str]) -> None:
    """Run a step of the installation.

    Raises:
        ValueError: it fails.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, errors="replace"
        )
    except OSError as error:
        raise ValueError(f"cannot run {command[0]}: {error}") from None
    if run.returncode:
        lines = [line for line in (run.stderr or run.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise ValueError(f"{shlex.join(command)[:200]} failed: {' '.join(errors)[:SHOWN]}")


def _state(name: str, folder: Path) -> ScorerState:
    scorer, place = SCORERS[name], folder / name
    record = _record(place)
    if record.get("requirements") != _requirements(scorer):
        return ScorerState(name, scorer.does, None, (), "not run")
    command = (str(_python(place)), str(scorer.folder / scorer.script), *record.get("arguments", ()))
    kept = kept_self_test(command, folder / "self-tests")
    told = "not run" if kept is None else "passed" if kept.get("passed") is True else f"failed: {kept.get('reason')}"
    return ScorerState(name, scorer.does, place, command, told)


def _record(place: Path) -> dict[str, list[str] | str]:
    """What an installation wrote when it was complete; empty without one."""
    try:
        record = read_json(place / RECORD)
    except ValueError:
        return {}
    return record if isinstance(record, dict) and _python(place).exists() else {}


def _requirements(scorer: KnownScorer) -> str:
    """The checksum of what is installed."""
    files = (scorer.folder / name for name in ("requirements.txt", "requirements-alone.txt"))
    return fingerprint([path for path in files if path.is_file()])


def _python(place: Path) -> Path:
    return place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
