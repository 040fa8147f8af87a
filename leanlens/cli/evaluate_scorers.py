"""Implements `leanlens evaluate scorers`, which lists and installs scorers that run in environments of their own."""

import sys

from leanlens.cli import options as opt


def scorers(
    install: opt.InstalledScorer = None, weights: opt.ScorerWeights = None, python: opt.ScorerPython = None
) -> None:
    """List the scorers that run in environments of their own, or install one.

    For each: whether it is installed and where, and what came of its self-test, without which no score is believed.
    """
    import shlex

    from leanlens.evaluate.scorers.installed import install_scorer, scorer_states

    if install is None:
        if weights is not None or python is not None:
            raise ValueError("weights and python belong to an installation; give --install NAME too")
        for state in scorer_states():
            print(f"{state.name}: {state.does}; {state.folder or 'not installed'}; self-test: {state.self_test}")
        return
    done = install_scorer(install, weights, python, lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{done.name} is in {done.folder}; self-test: {done.self_test}")
    print(f"--scorer {done.name}, or: {shlex.join(done.command)}")
