"""GenEval: objects, numbers, colours and positions, judged by a detector or by questions derived from the metadata.

Source: `evaluate_images.py` and `summary_scores.py` of GenEval.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.evaluate.judges.answered import all_met
from leanlens.evaluate.judges.process import ProcessJudge
from leanlens.evaluate.metric import Metric, group_metric, mean_metric
from leanlens.evaluate.scorers.installed import scorer_command
from leanlens.evaluate.suite import Item, Judge, Judgement, Suite
from leanlens.evaluate.suites.asking import Judged, judged_by, metrics_per_judge, question_judges, warn_of_none
from leanlens.evaluate.suites.data import choose, describe_choice, describe_source, fetch_data, read_rows, with_size
from leanlens.evaluate.suites.geneval_verdict import judge_detections
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.scenes.names import add_article
from leanlens.score.protocol import Failed

IMAGES_PER_PROMPT = 4
CRITERION = "correct"
PLURALS = ("scissors", "skis")
PLACES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}


class DetectorJudge:
    """Decides with `judge_detections` on what a detector finds.

    Args:
        detector: a judge whose `raw` has `detections`, such as the process in `scorers/geneval`.
    """

    criteria: tuple[str, ...] = (CRITERION,)

    def __init__(self, detector: Judge):
        self.name, self.detector = detector.name, detector

    def identity(self) -> dict[str, Any]:
        """See `Judge`."""
        return {"kind": "geneval", "format": 1, "detector": self.detector.identity()}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        """See `Judge`."""
        return [_decide(found, item) for found, item in zip(self.detector(images, items), items, strict=True)]

    def close(self) -> None:
        """End the process of the detector, where it has one."""
        close = getattr(self.detector, "close", None)
        if close is not None:
            close()


def _decide(found: Judgement, item: Item) -> Judgement:
    failed = next((value for value in found.score.values() if isinstance(value, Failed)), None)
    if failed is not None:
        return Judgement({CRITERION: failed}, found.raw)
    try:
        detections = found.raw["detections"]
        is_correct, reasons = judge_detections(detections, item.truth)
    except (ValueError, KeyError, TypeError) as error:
        return Judgement({CRITERION: Failed(f"the detector's answer cannot be read: {error}")}, found.raw)
    return Judgement({CRITERION: float(is_correct)}, {"detections": detections, "reasons": reasons})


def geneval(options: SuiteOptions) -> Suite:
    """The suite, judged by the detector whose command is `options.scorer`, by endpoints, or both.

    Without either its images can be drawn and judged later.

    A truth is the row of GenEval's metadata, with the `questions` that are asked in place of the detector.

    Raises:
        ValueError: the files are not those of GenEval, or the detector does not start or fails its self-test.
        DownloadError: they could not be downloaded.
    """
    judges = _judges(options)
    everything = read_prompts(fetch_data("geneval", options.data)["evaluation_metadata.jsonl"])
    items = with_size(choose(everything, options.num), options.size)
    asked = [judge.name for judge in judges if not isinstance(judge, DetectorJudge)]
    return Suite(
        name="geneval",
        title="GenEval" if len(asked) < len(judges) else judged_by("GenEval prompts", judges),
        items=items,
        images_per_prompt=IMAGES_PER_PROMPT,
        judges=judges,
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        source=describe_source("geneval"),
        warnings=warn_of_none("geneval", judges, scorer=True),
        deviations=(
            *describe_choice(items, everything),
            *(
                f"{name} answers questions in place of the detector: its numbers are not those of GenEval and must not "
                "be set beside published ones."
                for name in asked
            ),
            "Images that could not be drawn or judged are left out of the means and counted; the official script knows "
            "of no such images.",
        ),
    )


def _judges(options: SuiteOptions) -> tuple[Judge, ...]:
    judges: list[Judge] = [DetectorJudge(ProcessJudge(scorer_command(options.scorer)))] if options.scorer else []
    return (*judges, *(question_judges(options, "geneval") if options.endpoints else ()))


def read_prompts(path: Path) -> tuple[Item, ...]:
    """The prompts of GenEval's metadata.

    Raises:
        ValueError: a row is not of its form.
    """
    items = []
    for at, row in enumerate(read_rows(path)):
        try:
            truth = {**row, "questions": questions_of(row)}
            items.append(Item(f"{at:05d}", row["prompt"], (row["tag"],), truth))
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path} line {at + 1} is no row of GenEval's metadata: {error!r}") from None
    return tuple(items)


def questions_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Questions whose answers are all yes exactly if an image shows what a row of the metadata asks for."""
    found: list[dict[str, Any]] = []

    def ask(category: str, question: str, *parents: str) -> str:
        found.append({"id": str(len(found) + 1), "question": question, "parents": list(parents), "category": category})
        return str(len(found))

    shown = []
    for clause in row["include"]:
        name = clause["class"]
        verb = "Are" if name in PLURALS else "Is"
        if row["tag"] == "counting":  # the prompt has the plural
            shown.append(ask("count", f"Does the image show exactly {row['prompt'].removeprefix('a photo of ')}?"))
        else:
            shown.append(ask("object", f"Does the image show {name if name in PLURALS else add_article(name)}?"))
        if "color" in clause:
            ask("color", f"{verb} the {name} {clause['color']}?", shown[-1])
        if "position" in clause:
            word, target = clause["position"]
            other = row["include"][target]["class"]
            ask("position", f"{verb} the {name} {PLACES[word]} the {other}?", shown[target], shown[-1])
    return found


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """Overall (the mean of the tags' means over images), each tag, all images, and prompts with a correct image."""
    how = "" if isinstance(judge, DetectorJudge) else " by questions"
    values = [[value_of(each) for each in row] for row in judged]
    tags = [item.categories[0] for item in items]
    best = [_best(row) for row in values]
    return [
        group_metric(f"overall{how}", values, tags, per_image=True),
        *(
            mean_metric(f"{tag}{how}", [row if own == tag else [] for row, own in zip(values, tags, strict=True)], True)
            for tag in dict.fromkeys(tags)
        ),
        mean_metric(f"correct images{how}", values, per_image=True),
        mean_metric(f"prompts with a correct image{how}", best),
    ]


def value_of(judgement: Judgement) -> float | Failed | None:
    """1 for a correct image and 0 for another one; `Failed` where that is not known."""
    return judgement.score[CRITERION] if CRITERION in judgement.score else all_met(judgement)


def _best(values: Sequence[float | Failed | None]) -> list[float | Failed | None]:
    """One value for a prompt: 1 if an image is correct; failed only if none is and one failed."""
    known = [value for value in values if isinstance(value, float)]
    failed = [value for value in values if isinstance(value, Failed)]
    if 1.0 in known or not failed:
        return [max(known)] if known else []
    return [failed[0]]
