"""Writes an evaluation as a folder with `results.json`, `table.md` and `sheet.png`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.evaluate.draw import Answer, forget
from leanlens.evaluate.questions import Question
from leanlens.evaluate.rates import Difference, Rate, count_failures, differences_as_json, rates_as_json
from leanlens.evaluate.sheet import draw_sheet
from leanlens.evaluate.table import describe_failures, render_table
from leanlens.files import whole_folder
from leanlens.score.protocol import Score, score_as_json


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        answers: of the model, by row: its name, or the words of the reasoners where there are several; question by
            question and seed by seed.
        pictures, scores, rates, fid: by row: those of `answers`, "real", "reconstruction".
        differences: the second row of `answers` less the first, by criterion; None where there is one.
        settings: everything that decides the numbers.
    """

    questions: list[Question]
    answers: dict[str, list[Answer]]
    pictures: dict[str, list[Image.Image]]
    scores: dict[str, list[Score]]
    rates: dict[str, dict[str, Rate | None]]
    fid: dict[str, float | None]
    differences: dict[str, Difference | None] | None
    settings: dict[str, Any]


def write_evaluation(
    done: Evaluation,
    folder: Path,
    beside: dict[str, dict[str, Rate | None]] | None = None,
    kept: Path | None = None,
) -> None:
    """Write `results.json`, `table.md` and `sheet.png` into a new folder, all of them or none.

    Args:
        beside: further columns of the table, by name.
        kept: folder of the pictures that `evaluate_scenes` kept; they are removed once the folder is written.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    with whole_folder(folder) as temporary:
        text = json.dumps(results_of(done), indent=1, ensure_ascii=False)
        (temporary / "results.json").write_text(text + "\n", encoding="utf-8")
        rows = {**done.rates, **(beside or {})}
        table = render_table(rows, done.fid, done.differences)
        if failures := describe_failures({name: count_failures(scores) for name, scores in done.scores.items()}):
            table += f"\n{failures}"
        (temporary / "table.md").write_text(table, encoding="utf-8")
        shown = {name: done.pictures[name] for name in done.answers}
        draw_sheet(shown, done.questions, done.scores).save(temporary / "sheet.png")
    if kept is not None:
        forget(kept)


def results_of(done: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON values: settings, rates, and every picture with its prompt, its truth and its scores."""
    compared = {} if done.differences is None else {"differences": differences_as_json(done.differences)}
    return {
        "settings": done.settings,
        "rates": {name: rates_as_json(rates) for name, rates in done.rates.items()},
        **compared,
        **_failures(done),
        "fid": done.fid,
        "pictures": [_picture(done, index) for index in range(len(next(iter(done.answers.values()))))],
    }


def _failures(done: Evaluation) -> dict[str, Any]:
    """What failed, by row; nothing where nothing did."""
    counted = {name: count_failures(row) for name, row in done.scores.items()}
    found = {name: {**asdict(one), "incomplete": one.is_incomplete} for name, one in counted.items() if one.failed}
    return {"failed": found} if found else {}


def _picture(done: Evaluation, index: int) -> dict[str, Any]:
    """One picture of each row; true pictures, of which there is one for each prompt, stand with its first seed."""
    seeds = done.settings["seeds"]
    question = done.questions[index // seeds]
    here = {name: row[index] for name, row in done.answers.items()}
    reasoned = {name: one.reasoned.model_dump(mode="json") for name, one in here.items() if one.reasoned is not None}
    at = {name: index // seeds if name not in done.answers else index for name in done.scores}
    return {
        "prompt": question.prompt,
        "seed": question.seed,
        "image_seed": next(iter(here.values())).seed,
        "truth": question.truth,
        **({"reasoned": reasoned} if reasoned else {}),
        "scores": {
            name: score_as_json(row[at[name]])
            for name, row in done.scores.items()
            if name in done.answers or index % seeds == 0
        },
    }
