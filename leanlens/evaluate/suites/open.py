"""Opens suites by name."""

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads the names, and starts sooner without the rest
    from leanlens.evaluate.judges.pairs import VisionPairJudge
    from leanlens.evaluate.suite import Suite
    from leanlens.evaluate.suites.options import SuiteOptions

SUITES = {
    "scenes": "held-out scenes, or prompts with a stated truth: judged exactly and offline",
    "fresh": "new prompts made from a published date, which no model can have been tuned to",
    "geneval": "GenEval: 553 prompts of objects, numbers, colours and positions, judged by a detector",
    "geneval2": "GenEval 2: 800 prompts of 3 to 10 parts, judged by probabilities (not for commercial use)",
    "dpg": "DPG-Bench: 1,065 dense prompts with questions that depend on one another",
    "compbench": "T2I-CompBench++: 2,400 prompts of attributes, places, numbers and actions",
    "longtext": "LongText-Bench: 160 prompts with long texts, English or Chinese, read from the image",
    "cvtg": "CVTG-2K: 2,000 prompts with texts in two to five places, read from the image",
    "oneig": "OneIG-Bench: 1,120 prompts, judged by questions and by the text that is read (your copy of its files)",
    "parti": "PartiPrompts: 1,632 prompts of twelve categories, judged by one question, or by people",
    "own": "a file of your own prompts, judged by your questions, by one question, or by people",
}
"""Name -> what it is, in a line. `suites/NAME.py` has a function NAME that makes the suite from its options."""


def open_suite(name: str, options: "SuiteOptions") -> "Suite":
    """A suite with its prompts and judges.

    Raises:
        ValueError: an unknown name, or the options do not fit the suite.
        DownloadError: its files could not be downloaded.
    """
    if name not in SUITES:
        raise ValueError(f"invalid suite {name!r}: expected one of {', '.join(SUITES)}")
    make = getattr(import_module(f"leanlens.evaluate.suites.{name}"), name)
    suite: Suite = make(options)
    return replace(suite, pair_judges=_pair_judges(options)) if options.pairs else suite


def _pair_judges(options: "SuiteOptions") -> "tuple[VisionPairJudge, ...]":
    from leanlens.evaluate.judges.pairs import VisionPairJudge
    from leanlens.evaluate.suites.asking import names_of_judges

    if not options.endpoints:
        raise ValueError("pairs are compared by vision models: give an endpoint that is asked")
    names = names_of_judges(options)
    return tuple(
        VisionPairJudge(name, endpoint, options.answers)
        for name, endpoint in zip(names, options.endpoints, strict=True)
    )
