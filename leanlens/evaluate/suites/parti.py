"""PartiPrompts: 1,632 prompts in twelve categories, each with a challenge.

It has no scorer of its own: its authors asked people. An endpoint is asked one question about each image, whether it
shows everything that the prompt states, and a scorer such as HPSv3 may judge beside it or in its place. Without either
nothing is judged, and the images are for votes and pairs.

Source: google-research/parti, PartiPrompts.tsv.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from leanlens.evaluate.judges.answered import question_metric
from leanlens.evaluate.judges.questions import CRITERION
from leanlens.evaluate.metric import Metric
from leanlens.evaluate.suite import Item, Judge, Suite
from leanlens.evaluate.suites.asking import (
    Judged,
    general_question,
    metrics_per_judge,
    question_judges,
    scorer_judges,
    scorer_metrics,
    warn_of_none,
)
from leanlens.evaluate.suites.data import choose, describe_choice, describe_source, fetch_data, with_size
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.files import read_text

COLUMNS = ["Prompt", "Category", "Challenge", "Note"]


def parti(options: SuiteOptions) -> Suite:
    """The suite.

    Raises:
        ValueError: the file is not that of PartiPrompts.
        DownloadError: it could not be downloaded.
    """
    everything = tuple(read_prompts(fetch_data("parti", options.data)["PartiPrompts.tsv"]))
    items = with_size(choose(everything, options.num), options.size)
    judges: tuple[Judge, ...] = (
        *(question_judges(options, "parti") if options.endpoints else ()),
        *scorer_judges(options),
    )
    asked = f"Judged by {', '.join(judge.name for judge in judges)}" if judges else "Not judged: for votes of people"
    return Suite(
        name="parti",
        title="PartiPrompts",
        items=items,
        images_per_prompt=1,
        judges=judges,
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        warnings=warn_of_none("parti", judges, scorer=True),
        source=describe_source("parti"),
        deviations=(
            *describe_choice(items, everything),
            f"{asked}. PartiPrompts has no official scorer, so there is no published number to set these beside.",
        ),
    )


def read_prompts(path: Path) -> Iterator[Item]:
    """The prompts of the table, each under its category and its challenge. Quotation marks belong to the prompt.

    Raises:
        ValueError: it has other columns.
    """
    header, *rows = [line.split("\t") for line in read_text(path).split("\n") if line.strip()] or [[]]
    if header != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"{path} is not the table of PartiPrompts: expected the columns {', '.join(COLUMNS)}")
    for number, (prompt, category, challenge, _) in enumerate(rows):
        yield Item(f"{number:05d}", prompt, (category, challenge), {"questions": general_question(prompt)})


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """The share of prompts that are shown, or the mean score of another scorer; the table of categories has it for each
    category and challenge."""
    if CRITERION not in judge.criteria:
        return scorer_metrics(judge, judged)
    return [question_metric("prompt shown", items, judged)]
