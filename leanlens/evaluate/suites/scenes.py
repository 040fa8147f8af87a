"""The suite `scenes`: captions of held-out scenes, or prompts with a stated truth, judged exactly and offline.

A truth has the form of `Scene.truth()`; only what the prompt states is in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from leanlens.evaluate.control import control_items
from leanlens.evaluate.judges.scorer import ScorerJudge
from leanlens.evaluate.metric import Metric, mean_metric, ratio
from leanlens.evaluate.questions import PROMPTS, Question, held_out_questions, questions_from, unknown_concepts
from leanlens.evaluate.set_results import set_scorers_of
from leanlens.evaluate.set_scores import efficientnet_lite2
from leanlens.evaluate.suite import Item, Judgement, Suite
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.files import sha256
from leanlens.scenes.icons import Library
from leanlens.score.protocol import Failed, Scorer

TITLES = {
    "dense": "Scenes, dense captions",
    "brief": "Scenes, brief captions",
    "human": "Scenes, prompts by people",
}
SIZE = 256  # base of the canvas in pixels
SPLIT = "test"
HELD_OUT = ("dense", "brief")  # prompts of scenes that have true pictures
REFERENCE_SEED = 500_000  # added to the seed for the images that sets are compared with
FEWEST_OF_SETS = 2
NUMBERS = ("no objects", "one object", "two objects", "three or more objects")


def scenes(options: SuiteOptions) -> Suite:
    """The suite with the icons and the scorers that the options name.

    Raises:
        ValueError: an invalid option, or a scorer that is unknown or needs a package that is not installed.
    """
    icons = library_of(options)
    return with_set_scores(scenes_of(open_scorers(options, icons), icons, options), icons, options.seed)


def library_of(options: SuiteOptions) -> Library:
    """The icons that scenes are drawn from, and by which things are judged.

    Prompts of people or of a file need no drawings: where the full icons are not on disk, the things of `common` are
    judged by the classifiers that ship with the package.

    Raises:
        ValueError: an unknown library, or one that is not on disk and from which scenes are to be drawn.
    """
    from leanlens.scenes.icons import library

    if options.prompts in (None, *HELD_OUT) or options.library not in (None, "common"):
        return library(options.library)
    try:
        return library(options.library or "full")
    except ValueError:
        from leanlens.score.shipped import shipped_library

        return shipped_library()


def with_set_scores(suite: Suite, library: Library, seed: int) -> Suite:
    """The suite with distances to as many other held-out scenes, where it has true pictures and a network is there."""
    prompts, size = suite.settings["prompts"], suite.settings["size"]
    if prompts not in HELD_OUT or len(suite.items) < FEWEST_OF_SETS:
        return suite

    def reference() -> list[Image.Image]:
        others = held_out_questions(len(suite.items), seed + REFERENCE_SEED, library, prompts, SPLIT, size)
        return [question.picture for question in others if question.picture is not None]

    return replace(suite, set_scorers=set_scorers_of(efficientnet_lite2()), reference=reference)


def open_scorers(options: SuiteOptions, library: Library) -> list[Scorer]:
    """The scorers that the options name.

    Raises:
        ValueError: one is unknown, or needs a package that is not installed.
    """
    from leanlens.score.built_in import scene_scorers
    from leanlens.score.named import open_scorer

    return [open_scorer(name, scene_scorers(library)) for name in options.scorers]


def scenes_of(scorers: Sequence[Scorer], library: Library, options: SuiteOptions) -> Suite:
    """The suite.

    Args:
        scorers: the first gives the headline; what it was tuned on is judged by the others.
        library: where scenes are drawn from; the scorers should know the same one.
        options: `prompts` is "dense" or "brief" for captions of held-out scenes, "human", or the path of a file of
            prompts; `num` is 200 scenes or all lines of a file without it; `size` is the base of the canvas.

    Raises:
        ValueError: an invalid option, or people's prompts where true images are needed.
    """
    prompts, size = options.prompts or "dense", options.size or SIZE
    questions = questions_from(options.num, options.seed, library, prompts, SPLIT, size, options.needs_truth)
    suite = suite_of("scenes", TITLES.get(prompts, "Scenes, prompts of a file"), questions, scorers, library)
    source = {} if prompts in PROMPTS else {"prompts_sha256": sha256(prompts)}
    settings = {"prompts": prompts, "split": SPLIT, "size": size, "seed": options.seed}
    return replace(suite, source={**suite.source, **source}, settings=settings)


def suite_of(
    name: str, title: str, questions: Sequence[Question], scorers: Sequence[Scorer], library: Library
) -> Suite:
    """A suite of questions with exact truths."""
    items = tuple(item_of(question, index) for index, question in enumerate(questions))
    return Suite(
        name=name,
        title=title,
        items=items,
        images_per_prompt=1,
        judges=tuple(ScorerJudge(scorer) for scorer in scorers),
        metrics=metrics_of([(scorer.name, tuple(scorer.criteria)) for scorer in scorers]),
        source={"library": library.fingerprint},
        control=control_items(items, library),
        warnings=_warnings(unknown_concepts(list(questions), library)),
    )


def item_of(question: Question, index: int) -> Item:
    """A question as an item."""
    things = min(len(question.truth.get("objects", [])), len(NUMBERS) - 1)
    return Item(f"{index:05d}", question.prompt, (NUMBERS[things],), question.truth, question.size, question.picture)


def _warnings(unknown: Sequence[str]) -> tuple[str, ...]:
    return (f"not judged, since the library does not have them: {', '.join(unknown)}",) if unknown else ()


Judged = Sequence[dict[str, list[Judgement]]]


def metrics_of(judges: Sequence[tuple[str, tuple[str, ...]]]) -> Callable[[Sequence[Item], Judged], list[Metric]]:
    """The metrics of scorers, given by name and criteria: those of the first without its name.

    "criteria met" is the share of all stated criteria that an image meets in full, over all prompts; "all met" is the
    share of images that meet every one; then each criterion.
    """

    def metrics(items: Sequence[Item], judged: Judged) -> list[Metric]:
        found = []
        for number, (judge, criteria) in enumerate(judges):
            rows = [row[judge] for row in judged]
            suffix = f" ({judge})" if number else ""
            found += [_pooled(f"criteria met{suffix}", rows), _strict(f"all met{suffix}", rows)]
            for criterion in criteria:
                values = [[_met(one.score[criterion]) for one in row] for row in rows]
                metric = mean_metric(f"{criterion.replace('_', ' ')}{suffix}", values)
                found += [metric] if metric.num or metric.failed else []
        return found

    return metrics


def _met(value: float | Failed | None) -> float | Failed | None:
    """Whether a criterion is met in full, as 0 or 1."""
    return float(value >= 1) if isinstance(value, int | float) else value


def _pooled(name: str, rows: Sequence[Sequence[Judgement]]) -> Metric:
    """Criteria met by criteria stated; each prompt counts with the mean of its images."""
    sums, failed = [], 0
    for row in rows:
        values: list[Any] = [_met(value) for one in row for value in one.score.values()]
        numbers = [value for value in values if isinstance(value, float)]
        failed += sum(isinstance(value, Failed) for value in values)
        sums.append((sum(numbers) / len(row), len(numbers) / len(row)) if row else (0.0, 0.0))
    table = np.array(sums, dtype=np.float64).reshape(-1, 2)
    return Metric(name, table, ratio, int((table[:, 1] > 0).sum()), failed)


def _strict(name: str, rows: Sequence[Sequence[Judgement]]) -> Metric:
    """Images that meet all of their stated criteria."""
    return mean_metric(name, [[_all_met(one) for one in row] for row in rows])


def _all_met(judgement: Judgement) -> float | Failed | None:
    values = [value for value in judgement.score.values() if value is not None]
    failed = next((value for value in values if isinstance(value, Failed)), None)
    if failed is not None or not values:
        return failed
    return float(all(value >= 1 for value in values))  # type: ignore[operator]
