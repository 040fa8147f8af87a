"""T2I-CompBench++: eight kinds of composition, each judged by questions that are derived from the prompt.

Source: `BLIP_vqa.py`, `2D_spatial_eval.py`, `3D_spatial_eval.py`, `numeracy_eval.py` and `3_in_1.py` of T2I-CompBench.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanlens.evaluate.metric import Metric, group_metric, mean_metric
from leanlens.evaluate.suite import Item, Judge, Judgement, Suite
from leanlens.evaluate.suites.asking import (
    Judged,
    judged_by,
    metrics_per_judge,
    question_judges,
    refuse_scorer,
    warn_of_none,
)
from leanlens.evaluate.suites.data import choose, describe_choice, describe_source, fetch_data, with_size
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.files import read_text
from leanlens.scenes.names import add_article
from leanlens.score.protocol import Failed

IMAGES_PER_PROMPT = 10
PROMPTS = 300  # of each category
ATTRIBUTES = ("color", "shape", "texture")
SPATIAL, SPATIAL_3D, NUMERACY = "spatial", "3d_spatial", "numeracy"
CATEGORIES = (*ATTRIBUTES, SPATIAL, SPATIAL_3D, NUMERACY, "non_spatial", "complex")
HALF = 0.5  # a spatial score below it is 0, as in the official script; one in depth is not cut

_PHRASE = r"((?:an? |the )?[a-z][\w'-]*(?: (?!and |with )[\w'-]+){0,5})"
_PAIR = re.compile(rf"{_PHRASE} and {_PHRASE}\.?")
_PLACED = re.compile(
    r"an? ([\w -]+?) (next to|near|on side of|on the (?:left|right|top|bottom) of|in front of|behind|hidden by) "
    r"an? ([\w -]+)"
)
_WORDED = {"on side of": "beside", "on the top of": "on top of", "on the bottom of": "below"}
_COUNTED = re.compile(r"(an?|one|two|three|four|five|six|seven|eight) ([\w -]+)")


def compbench(options: SuiteOptions) -> Suite:
    """The suite, judged by endpoints; without any its images can be drawn and judged later.

    Raises:
        ValueError: a scorer is given, or the files are not those of T2I-CompBench++.
        DownloadError: they could not be downloaded.
    """
    refuse_scorer("compbench", options)
    judges: tuple[Judge, ...] = ()
    if options.endpoints:
        judges = question_judges(options, "compbench")
    paths = fetch_data("compbench", options.data)
    everything = [item for name in CATEGORIES for item in read_category(paths[f"{name}_val.txt"], name)]
    items = with_size(choose(everything, options.num), options.size)
    return Suite(
        name="compbench",
        title=judged_by("T2I-CompBench++ prompts", judges),
        items=items,
        images_per_prompt=IMAGES_PER_PROMPT,
        judges=judges,
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        source=describe_source("compbench"),
        warnings=warn_of_none("compbench", judges),
        deviations=(
            *describe_choice(items, everything),
            *(
                f"{judge.name} answers yes or no in place of BLIP, UniDet and CLIP, so the numbers must not be set "
                "beside published ones."
                for judge in judges
            ),
            "Attributes: each half of a prompt of two things joined by 'and' is asked about, where the official script "
            "takes all noun phrases that spaCy finds; other prompts are asked about as a whole, and so are actions and "
            "complex prompts.",
            "The mean of the categories is ours; the official protocol has no such number.",
            "Images that could not be drawn or judged are left out of the means and counted.",
        ),
    )


def read_category(path: Path, category: str, num: int = PROMPTS) -> list[Item]:
    """The prompts of a file of one category.

    Raises:
        ValueError: another number of prompts, or one that no question can be derived from.
    """
    prompts = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if len(prompts) != num:
        raise ValueError(f"{path} has {len(prompts)} prompts; expected {num}")
    return [
        Item(f"{category}-{at:03d}", prompt, (category,), {"questions": questions_of(prompt, category)})
        for at, prompt in enumerate(prompts)
    ]


def questions_of(prompt: str, category: str) -> list[dict[str, Any]]:
    """The questions of a prompt, in the form of `judges.questions`; the answer to each should be yes.

    Raises:
        ValueError: a prompt of a place or of numbers that is not of the form of its category.
    """
    if category in ATTRIBUTES and (pair := _PAIR.fullmatch(prompt)):
        return [_question(at, f"Does the image show {phrase}?") for at, phrase in enumerate(pair.groups(), 1)]
    if category in (SPATIAL, SPATIAL_3D):
        return _placed(prompt)
    if category == NUMERACY:
        return _counted(prompt)
    return [_question(1, f'Does the image show this: "{prompt}"?')]


def _question(number: int, question: str, *parents: int) -> dict[str, Any]:
    return {"id": str(number), "question": question, "parents": [str(one) for one in parents]}


def _placed(prompt: str) -> list[dict[str, Any]]:
    found = _PLACED.fullmatch(prompt.rstrip("."))
    if found is None:
        raise ValueError(f"invalid spatial prompt {prompt[:80]!r}: expected a thing, a place and another thing")
    first, place, second = found.groups()
    return [
        _question(1, f"Does the image show {add_article(first)}?"),
        _question(2, f"Does the image show {add_article(second)}?"),
        _question(3, f"Is the {first} {_WORDED.get(place, place)} the {second}?", 1, 2),
    ]


def _counted(prompt: str) -> list[dict[str, Any]]:
    questions: list[dict[str, Any]] = []
    for part in re.split(r",? and |, ", prompt.rstrip(".")):
        found = _COUNTED.fullmatch(part)
        if found is None:
            raise ValueError(f"invalid prompt of numbers {prompt[:80]!r}: expected things with their numbers")
        number, name = found.groups()
        is_one = number in ("a", "an", "one")
        at = len(questions) + 1
        questions.append(_question(at, f"Does the image show {add_article(name) if is_one else name}?"))
        questions.append(_question(at + 1, f"Does the image show exactly {'one' if is_one else number} {name}?", at))
    return questions


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """The unweighted mean of the categories, and each category over its images."""
    groups = [item.categories[0] for item in items]
    values = [[value_of(each, group) for each in row] for row, group in zip(judged, groups, strict=True)]
    return [
        group_metric("mean of the categories", values, groups, per_image=True),
        *(
            mean_metric(name, [row if group == name else [] for row, group in zip(values, groups, strict=True)], True)
            for name in dict.fromkeys(groups)
        ),
    ]


def value_of(judgement: Judgement, category: str) -> float | Failed | None:
    """What an image is worth, as the official script of its category adds up; `Failed` where a question failed."""
    raw = judgement.raw
    if not isinstance(raw, dict) or "met" not in raw:
        return next(iter(judgement.score.values()), None)
    met: Mapping[str, bool] = raw["met"]
    if raw["failed"]:
        return Failed(f"a question failed: {next(iter(raw['failed'].values()))}")
    if category in (SPATIAL, SPATIAL_3D):
        value = 0.25 * met["1"] + 0.25 * met["2"] + 0.5 * met["3"]
        return 0.0 if category == SPATIAL and value < HALF else value
    if category == NUMERACY:
        return sum(met.values()) / len(met)
    return float(all(met.values()))
