"""Makes the judges of suites that ask endpoints or read text, and the metrics of each judge of a suite."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from leanlens.evaluate.judges.answered import all_met, question_categories, question_metric
from leanlens.evaluate.judges.process import ProcessJudge
from leanlens.evaluate.judges.questions import QuestionJudge
from leanlens.evaluate.judges.text import OCR, Measured, Recogniser, TextJudge, VisionModel
from leanlens.evaluate.metric import Metric, mean_metric
from leanlens.evaluate.scorers.installed import scorer_command
from leanlens.evaluate.suite import Item, Judge, Judgement
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.install import install_extra
from leanlens.score.ocr import recogniser_identity

Judged = Sequence[Sequence[Judgement]]
"""For each item, the judgements of its images by one judge."""


def question_judges(options: SuiteOptions, suite: str, **settings: Any) -> tuple[QuestionJudge, ...]:
    """A judge for each endpoint, named after its model.

    Args:
        settings: of `QuestionJudge`.

    Raises:
        ValueError: no endpoint is given.
    """
    if not options.endpoints:
        raise ValueError(f"{suite} is judged by a vision model: give an endpoint that it is asked at")
    names = names_of_judges(options)
    return tuple(
        QuestionJudge(name, endpoint, options.answers, **settings)
        for name, endpoint in zip(names, options.endpoints, strict=True)
    )


def scorer_judges(options: SuiteOptions) -> tuple[ProcessJudge, ...]:
    """The scorer in a process of its own that `options.scorer` names, such as a model of what people prefer.

    Raises:
        ValueError: it is not installed, does not start, or does not pass its self-test.
    """
    return (ProcessJudge(scorer_command(options.scorer)),) if options.scorer else ()


def scorer_metrics(judge: Judge, judged: Judged) -> list[Metric]:
    """The mean of each of a scorer's criteria, in its own unit."""
    return [mean_metric(name, [[one.score[name] for one in row] for row in judged], unit="") for name in judge.criteria]


def judged_by(title: str, judges: Sequence[Judge]) -> str:
    """The title of a suite with the names of its judges."""
    return f"{title}, judged by {', '.join(judge.name for judge in judges)}" if judges else f"{title}, not judged"


def warn_of_none(suite: str, judges: Sequence[Judge], scorer: bool = False, ocr: bool = False) -> tuple[str, ...]:
    """What to tell before images are drawn that nothing judges; nothing where there are judges."""
    if judges:
        return ()
    ways = ["a vision model (--judge)"]
    ways += ["its own scorer (--scorer)"] if scorer else []
    ways += [f"a recogniser ({install_extra('ocr')})"] if ocr else []
    told = " or ".join(ways)
    return (f"{suite} has no judge here: images are drawn, and judged once the command is run again with {told}",)


def text_judges(
    options: SuiteOptions, criteria: tuple[str, ...], measure: Callable[[str, Item], Measured]
) -> tuple[TextJudge, ...]:
    """A judge for each endpoint, named after its model, and one that reads by RapidOCR where that is installed."""
    models = [endpoint.model for endpoint in options.endpoints]
    readers = [VisionModel(endpoint, options.answers) for endpoint in options.endpoints]
    judges = [TextJudge(name, read, criteria, measure) for name, read in zip(judge_names(models), readers, strict=True)]
    if recogniser_identity() is not None:
        judges.append(TextJudge(OCR, Recogniser(), criteria, measure))
    return tuple(judges)


def general_question(prompt: str) -> list[dict[str, Any]]:
    """The one question whether an image shows what a prompt states, for prompts without questions of their own."""
    question = f"Does the image show everything that this prompt states, and nothing against it?\n\nPrompt: {prompt}"
    return [{"id": "1", "question": question}]


def names_of_judges(options: SuiteOptions) -> list[str]:
    """A name for each endpoint."""
    return list(options.judges) or judge_names([endpoint.model for endpoint in options.endpoints])


def refuse_scorer(suite: str, options: SuiteOptions) -> None:
    """Raise a ValueError if a scorer is given to a suite that has none of its own."""
    if options.scorer:
        raise ValueError(f"invalid scorer {options.scorer!r}: {suite} is judged by vision models alone (--judge)")


def judge_names(models: Sequence[str]) -> list[str]:
    """Short names of models, without their owner; equal ones are numbered."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    for model in models:
        name = model.rstrip("/").rpartition("/")[2]
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def metrics_per_judge(
    judges: Sequence[Judge],
    items: Sequence[Item],
    judged: Sequence[dict[str, list[Judgement]]],
    metrics: Callable[[Judge, Sequence[Item], Judged], list[Metric]],
) -> list[Metric]:
    """The metrics of each judge in turn; those after the first have the judge in their names."""
    found = []
    for place, judge in enumerate(judges):
        own = metrics(judge, items, [each[judge.name] for each in judged])
        found += own if place == 0 else [replace(one, name=f"{one.name}, {judge.name}") for one in own]
    return found


def question_metrics(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """The share of questions that are met, the share of images that meet all, and the first by question category."""
    strict = [[all_met(one) for one in row] for row in judged]
    named = [question_metric(name, items, judged, name) for name in question_categories(items)]
    return [question_metric("questions met", items, judged), mean_metric("all questions met", strict), *named]
