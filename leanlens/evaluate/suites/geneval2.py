"""GenEval 2: prompts of 3 to 10 parts, judged by how probable a vision model finds the right answers (Soft-TIFA).

Source: `evaluation.py` and `soft_tifa_analysis.py` of GenEval 2.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leanlens.evaluate.judges.answered import question_categories, question_metric
from leanlens.evaluate.metric import Metric, mean_metric
from leanlens.evaluate.suite import Item, Judge, Judgement, Suite
from leanlens.evaluate.suites.asking import (
    Judged,
    judged_by,
    metrics_per_judge,
    question_judges,
    refuse_scorer,
    warn_of_none,
)
from leanlens.evaluate.suites.data import choose, describe_choice, describe_source, fetch_data, read_rows, with_size
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.scenes.describe import NUMBERS
from leanlens.score.protocol import Failed

JUDGE = "Qwen3-VL-8B-Instruct"  # the official one
SUFFIX = "Answer in one word."


def geneval2(options: SuiteOptions) -> Suite:
    """The suite, judged by endpoints that tell log-probabilities; without any its images can be drawn and judged later.

    A truth has the `questions` and `atom_count`. No prompt occurs twice, so the official script, which looks images up
    by prompt, sees one for each.

    Raises:
        ValueError: a scorer is given, or the files are not those of GenEval 2.
        DownloadError: they could not be downloaded.
    """
    refuse_scorer("geneval2", options)
    judges: tuple[Judge, ...] = ()
    if options.endpoints:
        judges = question_judges(options, "geneval2", zero_dependents=False, suffix=SUFFIX, probability=True)
    everything = read_prompts(fetch_data("geneval2", options.data)["geneval2_data.jsonl"])
    items = with_size(choose(everything, options.num), options.size)
    models = [endpoint.model.rstrip("/").rpartition("/")[2] for endpoint in options.endpoints]
    others = [model for model in models if model != JUDGE]
    return Suite(
        name="geneval2",
        title="GenEval 2" if judges and not others else judged_by("GenEval 2", judges),
        items=items,
        images_per_prompt=1,
        judges=judges,
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        source=describe_source("geneval2"),
        warnings=warn_of_none("geneval2", judges),
        deviations=(
            *describe_choice(items, everything),
            *(f"{model} answers in place of {JUDGE}." for model in others),
            "An endpoint tells the 20 most probable tokens; the official script sees all. An answer that is not among "
            "them counts with the probability of the last of them, which is the most that it can have, or with 0 where "
            "the name of the number says so. The probability of an answer is the sum over its spellings in any case.",
            "Only answered questions count; those that failed are counted apart.",
        ),
    )


def read_prompts(path: Path) -> tuple[Item, ...]:
    """The prompts of GenEval 2's file.

    Raises:
        ValueError: a row is not of its form, or a prompt occurs twice.
    """
    items = []
    for at, row in enumerate(read_rows(path)):
        try:
            count = int(row["atom_count"])
            pairs = zip(row["vqa_list"], row["skills"], strict=True)
            questions = [_question(at, asked, told, skill) for at, ((asked, told), skill) in enumerate(pairs, 1)]
            truth = {"atom_count": count, "questions": questions}
            items.append(Item(f"{at:04d}", row["prompt"], (f"{count} atoms",), truth))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} line {at + 1} is no row of GenEval 2: {error!r}") from None
    if len({item.prompt for item in items}) < len(items):
        raise ValueError(f"{path} has a prompt twice, which the official script would judge by one image")
    return tuple(items)


def _question(number: int, question: str, answer: str, skill: str) -> dict[str, Any]:
    expected = [answer.lower()]
    if question.startswith("How many"):
        expected.append(str(NUMBERS.index(answer.lower())))
    return {"id": str(number), "question": question, "expected": expected, "category": skill}


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """Soft-TIFA GM and AM, GM with unseen answers as 0, AM of each skill over questions, and GM of each atomicity."""
    counts = sorted({item.truth["atom_count"] for item in items})
    return [
        _geometric("Soft-TIFA GM", items, judged),
        question_metric("Soft-TIFA AM", items, _with_unseen(judged)),
        _geometric("Soft-TIFA GM, unseen answers as 0", items, judged, unseen=False),
        *(
            question_metric(f"{skill} (AM)", items, _with_unseen(judged), skill, per_question=True)
            for skill in question_categories(items)
        ),
        *(_geometric(f"{count} atoms (GM)", items, judged, atoms=count) for count in counts),
    ]


def _geometric(
    name: str, items: Sequence[Item], judged: Judged, unseen: bool = True, atoms: int | None = None
) -> Metric:
    """The mean over prompts of the geometric mean of an image's answers."""
    chosen = [row if atoms in (None, item.truth["atom_count"]) else [] for item, row in zip(items, judged, strict=True)]
    values = [[geometric_mean(each, unseen) for each in row] for row in chosen]
    failed = question_metric(name, items, chosen).failed
    return replace(mean_metric(name, values), failed=failed)


def geometric_mean(judgement: Judgement, unseen: bool = True) -> float | Failed | None:
    """Of the probabilities of an image's answered questions; `Failed` where there are none.

    Args:
        unseen: answers that the endpoint did not tell have the most that they can have; otherwise 0.
    """
    values = probabilities(judgement, unseen)
    if not values:
        return next(iter(judgement.score.values()), None)
    if min(values.values()) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(value) for value in values.values()) / len(values))


def probabilities(judgement: Judgement, unseen: bool = True) -> dict[str, float]:
    """Question -> probability of its expected answer, without questions that failed."""
    raw = judgement.raw if isinstance(judgement.raw, dict) else {}
    return {**raw.get("values", {}), **(raw.get("unseen", {}) if unseen else {})}


def _with_unseen(judged: Judged) -> list[list[Judgement]]:
    """The judgements with the most that answers can have which were not told."""
    return [
        [
            replace(each, raw={**each.raw, "values": probabilities(each)}) if isinstance(each.raw, dict) else each
            for each in row
        ]
        for row in judged
    ]
