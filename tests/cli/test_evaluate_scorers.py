"""`leanlens evaluate scorers`: what is installed, and wrong words."""

import pytest

from leanlens.evaluate.scorers import installed


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_scorers_are_listed(leanlens):
    run = leanlens("evaluate", "scorers")
    assert run.code == 0
    assert run.out.splitlines() == [
        "hpsv3: what people prefer, as a reward; not installed; self-test: not run",
        "geneval: GenEval's detector; not installed; self-test: not run",
    ]


def test_a_scorer_is_installed(leanlens, monkeypatch, tmp_path):
    def install(name, weights, python, say):
        say("making an environment")
        return installed.ScorerState(name, "", tmp_path / name, (python, "my score.py", str(weights)), "passed")

    monkeypatch.setattr(installed, "install_scorer", install)
    run = leanlens("evaluate", "scorers", "--install", "hpsv3", "--weights", "w", "--python", "python3.11")
    assert run.code == 0
    assert run.err == "making an environment\n"
    assert run.out.splitlines() == [
        f"hpsv3 is in {tmp_path / 'hpsv3'}; self-test: passed",
        "--scorer hpsv3, or: python3.11 'my score.py' w",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--install", "other"], "unknown scorer 'other': expected hpsv3, geneval"),
        (["--weights", "w"], "weights and python belong to an installation; give --install NAME too"),
        (["--install", "hpsv3", "--python", "no-such-python"], "invalid python 'no-such-python'"),
    ],
)
def test_wrong_words_are_errors(leanlens, words, message):
    run = leanlens("evaluate", "scorers", *words)
    assert run.code == 2
    assert message in run.err
