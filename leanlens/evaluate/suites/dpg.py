"""DPG-Bench: 1,065 dense prompts, each judged by questions that depend on one another.

Source: `compute_dpg_bench.py` of ELLA. What it adds up is given twice: "official", with its mistakes, and "corrected".
"""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from leanlens.evaluate.judges.answered import question_categories, question_metric
from leanlens.evaluate.judges.given import GivenAnswersJudge
from leanlens.evaluate.judges.process import ProcessJudge
from leanlens.evaluate.metric import Metric, ratio
from leanlens.evaluate.scorers.installed import scorer_command
from leanlens.evaluate.suite import Item, Judge, Judgement, Suite
from leanlens.evaluate.suites.asking import Judged, judged_by, metrics_per_judge, question_judges, warn_of_none
from leanlens.evaluate.suites.data import choose, describe_choice, describe_source, fetch_data, with_size
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.files import read_text

PROMPTS = 1065
IMAGES_PER_PROMPT = 4
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


def dpg(options: SuiteOptions) -> Suite:
    """The suite, judged by the process whose command is `options.scorer`, by endpoints, or both.

    Without either its images can be drawn and judged later.

    A truth has the `questions`, and `official`: id of a question -> its parents, as the official script has them.

    Raises:
        ValueError: the files are not those of DPG-Bench, or the scorer does not start or fails its self-test.
        DownloadError: they could not be downloaded.
    """
    judges: list[Judge] = [GivenAnswersJudge(ProcessJudge(scorer_command(options.scorer)))] if options.scorer else []
    if options.endpoints:
        judges += question_judges(options, "dpg")
    everything = read_prompts(fetch_data("dpg", options.data)["dpg_bench.csv"])
    if len(everything) != PROMPTS:
        raise ValueError(f"the questions of DPG-Bench are about {len(everything)} prompts; expected {PROMPTS}")
    items = with_size(choose(everything, options.num), options.size)
    return Suite(
        name="dpg",
        title="DPG-Bench" if options.scorer else judged_by("DPG-Bench", judges),
        items=items,
        images_per_prompt=IMAGES_PER_PROMPT,
        judges=tuple(judges),
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        source=describe_source("dpg"),
        warnings=warn_of_none("dpg", judges, scorer=True),
        deviations=(
            *describe_choice(items, everything),
            *(
                f"{judge.name} answers the questions in place of mPLUG-large, so the numbers must not be set beside "
                "published ones."
                for judge in judges
                if not isinstance(judge, GivenAnswersJudge)
            ),
            "Each image is judged by itself; the official script cuts four out of one picture.",
            "The prompts are those in the file of questions.",
            "Numbers named official repeat the official script, which skips the first question of the first prompt, "
            "leaves out a prompt if anything about it fails, and takes categories from the last image alone, without "
            "dependencies. Numbers named corrected do none of this.",
        ),
    )


def read_prompts(path: Path) -> tuple[Item, ...]:
    """The prompts of the file of questions, in its order; the category of a prompt is what its id begins with.

    Raises:
        ValueError: the file is not of the form of DPG-Bench.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise ValueError(f"{path} is not the file of questions of DPG-Bench: it has no column {', '.join(missing)}")
    prompts: dict[str, str] = {}
    asked: dict[str, dict[int, tuple[str, str, list[int]]]] = defaultdict(dict)
    official: dict[str, dict[str, list[int]]] = {}
    before = ""
    for at, row in enumerate(reader):
        name = row["item_id"]
        try:
            number, parents = int(row["proposition_id"]), [int(part) for part in row["dependency"].split(",")]
            asked[name][number] = row["question_natural_language"], category_of(row["tuple"]), parents
            prompts.setdefault(name, row["text"].strip())
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}, question {at + 1}, is not of the form of DPG-Bench: {error}") from None
        if at > 0:  # the official script takes the first question for a header
            if name != before:
                official[name] = {}
            official[name][str(number)] = parents
            before = name
    return tuple(_item(name, prompts[name], asked[name], official.get(name, {})) for name in prompts)


def _item(
    name: str, prompt: str, asked: Mapping[int, tuple[str, str, list[int]]], official: Mapping[str, list[int]]
) -> Item:
    questions = [
        {
            "id": str(number),
            "question": question,
            "parents": [str(parent) for parent in parents if parent in asked],
            "category": category,
        }
        for number, (question, category, parents) in asked.items()
    ]
    return Item(name, prompt, (name.rstrip("0123456789_") or "dpg",), {"questions": questions, "official": official})


def category_of(proposition: str) -> str:
    """The category of a proposition such as "attribute - color (cube, red)": "attribute - color"."""
    return proposition.split("(")[0].strip()


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """Overall, then the broad and the detailed categories: first official, then corrected."""
    return [*_official_metrics(items, judged), *_corrected_metrics(items, judged)]


def _corrected_metrics(items: Sequence[Item], judged: Judged) -> list[Metric]:
    detailed = {
        name: question_metric(f"{name}, corrected", items, judged, name, per_question=True)
        for name in question_categories(items)
    }
    overall = question_metric("overall, corrected", items, judged)
    return [overall, *_broad(detailed, "corrected"), *detailed.values()]


def _official_metrics(items: Sequence[Item], judged: Judged) -> list[Metric]:
    found = [official_scores(item, row) for item, row in zip(items, judged, strict=True)]
    overall = np.array([(each[0], 1.0) if each else (0.0, 0.0) for each in found]).reshape(-1, 2)
    detailed = {}
    for name in question_categories(items):
        sums = np.zeros((len(items), 2))
        for at, (item, each) in enumerate(zip(items, found, strict=True)):
            ids = {row["id"] for row in item.truth["questions"] if row["category"] == name}
            values = [value for number, value in (each[1] if each else {}).items() if number in ids]
            sums[at] = sum(values), len(values)
        detailed[name] = _metric(f"{name}, official", sums)
    failed = sum(each is None for each in found)
    return [_metric("overall, official", overall, failed), *_broad(detailed, "official"), *detailed.values()]


def _broad(detailed: Mapping[str, Metric], kind: str) -> list[Metric]:
    """The broad categories, over all the questions of their detailed ones."""
    groups: dict[str, list[Metric]] = defaultdict(list)
    for name, metric in detailed.items():
        groups[name.split("-")[0].strip()].append(metric)
    return [
        _metric(f"{name}, {kind}", np.sum([one.sums for one in group], axis=0), sum(one.failed for one in group))
        for name, group in groups.items()
    ]


def _metric(name: str, sums: np.ndarray, failed: int = 0) -> Metric:
    return Metric(name, sums, ratio, int((sums[:, 1] > 0).sum()), failed)


def official_scores(item: Item, judgements: Sequence[Judgement]) -> tuple[float, dict[str, float]] | None:
    """What the official script makes of the images of a prompt.

    Returns:
        The score, and question -> answer of the last image; None for a prompt that the script leaves out: an image or
        an answer is missing, or a question depends on one that the script does not have.
    """
    asked: dict[str, list[int]] = item.truth["official"]
    answers: dict[str, float] = {}
    shares = []
    for judgement in judgements:
        told = judgement.raw.get("answers", {}) if isinstance(judgement.raw, dict) else {}
        if not asked or not all(isinstance(told.get(name), str) for name in asked):
            return None
        answers = {name: float(told[name] == "yes") for name in asked}
        scores = dict(answers)
        try:
            for name, parents in asked.items():
                if any(scores[str(parent)] == 0 for parent in parents if parent != 0):
                    scores[name] = 0.0
        except KeyError:
            return None
        shares.append(sum(scores.values()) / len(scores))
    return (sum(shares) / len(shares), answers) if shares else None
