import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from leanlens.evaluate.scorers import installed
from leanlens.evaluate.scorers.installed import KnownScorer, install_scorer, scorer_command, scorer_states

HERE = sys.version_info[:2]
SCRIPT = """
import json, sys
try:
    import tiny
except ImportError:
    tiny = None
if "--self-test" in sys.argv:
    worse = 2.0 if "BROKEN" in sys.argv[-2] else 0.0
    print(json.dumps({"passed": True, "cases": [{"case": "a red circle", "better": 1.0, "worse": worse}]}))
else:
    version = tiny.VERSION if tiny else "none"
    print(json.dumps({"name": "mine", "version": version, "weights_sha256": None, "criteria": ["reward"]}), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    """A scorer without requirements, as the only one that is known."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "score.py").write_text(SCRIPT)
    (folder / "requirements.txt").write_text("# nothing\n")
    known = KnownScorer("a test", folder, "score.py", HERE)
    monkeypatch.setattr(installed, "SCORERS", {"mine": known})
    return known


@pytest.fixture
def steps(monkeypatch):
    """The steps of an installation, which makes an environment that is this one."""
    done = []

    def run(command):
        done.append(command)
        if "venv" in command:
            python = installed._python(Path(command[-1]))
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        elif (Path(command[-1])).read_text().startswith("missing"):
            raise ValueError("pip failed: no such package")

    monkeypatch.setattr(installed, "_run", run)
    return done


def test_a_scorer_is_installed_once_and_tested(scorer, steps, tmp_path):
    (before,) = scorer_states(tmp_path / "there")
    assert (before.folder, before.command, before.self_test) == (None, (), "not run")
    said = []
    done = install_scorer("mine", say=said.append, folder=tmp_path / "there")
    assert (done.folder, done.self_test) == (tmp_path / "there" / "mine", "passed")
    assert done.command[1] == str(scorer.folder / "score.py")
    assert said[-1] == "self-test"
    assert scorer_states(tmp_path / "there") == [done]
    assert [command[1:4] for command in steps] == [["-m", "venv", str(done.folder)], ["-m", "pip", "install"]]
    install_scorer("mine", folder=tmp_path / "there")
    assert len(steps) == 2
    (scorer.folder / "requirements.txt").write_text("# something else\n")
    assert scorer_states(tmp_path / "there")[0].folder is None
    install_scorer("mine", folder=tmp_path / "there")
    assert len(steps) == 4


def test_nothing_is_left_of_an_installation_that_fails(scorer, steps, tmp_path):
    (scorer.folder / "requirements-alone.txt").write_text("missing==1\n")
    with pytest.raises(ValueError, match="no such package"):
        install_scorer("mine", folder=tmp_path / "there")
    assert not (tmp_path / "there" / "mine").exists()
    assert steps[-1][-3] == "--no-deps"


def test_what_was_killed_is_made_anew(scorer, steps, tmp_path):
    half = tmp_path / "there" / "mine"
    half.mkdir(parents=True)
    (half / "rest").write_text("of a killed installation")
    assert scorer_states(tmp_path / "there")[0].folder is None
    install_scorer("mine", folder=tmp_path / "there")
    assert not (half / "rest").exists()


def test_a_scorer_that_fails_its_self_test_is_listed_so(scorer, steps, tmp_path):
    weights = tmp_path / "BROKEN"
    weights.write_text("")
    with pytest.raises(ValueError, match="fails its self-test: 1 of 1 cases do not hold: a red circle"):
        install_scorer("mine", weights, folder=tmp_path / "there")
    (state,) = scorer_states(tmp_path / "there")
    assert state.self_test == "failed: 1 of 1 cases do not hold: a red circle"
    assert state.command[-2:] == ("--weights", str(weights))


def test_the_command_of_a_scorer(scorer, steps, tmp_path):
    with pytest.raises(
        ValueError, match="the scorer mine is not installed; run `leanlens evaluate scorers --install mine`"
    ):
        scorer_command("mine", tmp_path / "there")
    done = install_scorer("mine", folder=tmp_path / "there")
    assert scorer_command("mine", tmp_path / "there") == list(done.command)
    assert scorer_command("python 'my script.py' --fast") == ["python", "my script.py", "--fast"]
    for wrong in ("", "python 'open"):
        with pytest.raises(ValueError, match="invalid scorer"):
            scorer_command(wrong)


def test_what_an_installation_refuses(scorer, steps, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown scorer 'other': expected mine"):
        install_scorer("other")
    with pytest.raises(ValueError, match=r"weights .*none is no file"):
        install_scorer("mine", tmp_path / "none", folder=tmp_path)
    with pytest.raises(ValueError, match="invalid python 'no-such-python'"):
        install_scorer("mine", python="no-such-python", folder=tmp_path)
    monkeypatch.setitem(installed.SCORERS, "mine", replace(scorer, python=(2, 7)))
    with pytest.raises(ValueError, match=r"mine needs Python 2\.7, and .* is 3\.\d+; give --python python2\.7"):
        install_scorer("mine", folder=tmp_path)
    monkeypatch.setitem(installed.SCORERS, "mine", replace(scorer, needs_weights=True))
    with pytest.raises(ValueError, match="mine needs the file of its weights"):
        install_scorer("mine", folder=tmp_path)
    assert not steps


def test_known_scorers_are_whole():
    for known in installed.SCORERS.values():
        assert (known.folder / known.script).is_file()
        for file in known.folder.glob("requirements*.txt"):
            lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
            assert all("==" in line or "<" in line for line in lines), f"{file} has an open version"
    assert "transformers==4.45.2" in (installed.SCORERS["hpsv3"].folder / "requirements.txt").read_text()


@pytest.mark.long
def test_an_environment_of_its_own(scorer, tmp_path):
    """With venv and pip themselves: a package is installed from a file, and one that does not exist leaves nothing."""
    wheel = tmp_path / "tiny-2.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        about = "tiny-2.5.dist-info"
        file.writestr("tiny.py", "VERSION = '2.5'\n")
        file.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 2.5\nRequires-Dist: no-such-thing\n"
        )
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")
    (scorer.folder / "requirements-alone.txt").write_text(f"{wheel.as_uri()}\n")
    done = install_scorer("mine", folder=tmp_path / "there")
    assert done.self_test == "passed"
    kept = next((tmp_path / "there" / "self-tests").rglob("*.json"))
    assert json.loads(kept.read_text())["value"]["version"] == "2.5"
    (scorer.folder / "requirements-alone.txt").write_text(f"{(tmp_path / 'none.whl').as_uri()}\n")
    with pytest.raises(ValueError, match=r"pip install .* failed: ERROR: "):
        install_scorer("mine", folder=tmp_path / "there")
    assert not (tmp_path / "there" / "mine").exists()
