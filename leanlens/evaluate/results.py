"""Writes the results of an evaluation: `results.json`, `costs.json`, `table.md`, `sheet.png` and `report.html`.

What was measured while drawing, seconds and memory, stands in `costs.json` alone. So `results.json` depends on nothing
but the images and judgements, and is the same after any interruption.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import leanlens
from leanlens.evaluate.compare import compare_models, interval
from leanlens.evaluate.control import above_control
from leanlens.evaluate.costs import measured_costs
from leanlens.evaluate.duels import agreements_as_json, duels_as_json, item_duels
from leanlens.evaluate.judges.answered import question_failures
from leanlens.evaluate.judges.families import family_notes
from leanlens.evaluate.metric import Metric
from leanlens.evaluate.rates import Failures, count_rates, rates_as_json
from leanlens.evaluate.report import write_report
from leanlens.evaluate.results_file import FORMAT, read_costs
from leanlens.evaluate.results_json import as_text, rounded
from leanlens.evaluate.run import IMAGES, Evaluation, Row
from leanlens.evaluate.set_results import set_scores_as_json
from leanlens.evaluate.sheet import draw_sheet
from leanlens.evaluate.suite import Item, Judge
from leanlens.evaluate.summary import render_results
from leanlens.files import whole_file
from leanlens.score.protocol import Score, score_as_json


def write_results(done: Evaluation, out: Path) -> dict[str, Any]:
    """Write all files of a finished evaluation into its folder; returns `results.json` as JSON values."""
    results = results_of(done)
    costs = costs_of(done, out / "costs.json")
    for name, text in (
        ("costs.json", as_text(costs)),
        ("table.md", render_results(results, costs)),
        ("results.json", as_text(results)),
    ):
        with whole_file(out / name) as path:
            path.write_text(text, encoding="utf-8")
    with whole_file(out / "sheet.png") as path:
        _sheet(done).save(path, "PNG")
    write_report(out)
    return results


def results_of(done: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON values."""
    suite, metrics = done.suite, metrics_by_row(done)
    return {
        "format": FORMAT,
        "leanlens": leanlens.__version__,
        "suite": {
            "name": suite.name,
            "title": suite.title,
            "num": len(suite.items),
            "images_per_prompt": done.seeds,
            "seed": done.seed,
            "source": suite.source,
            "settings": suite.settings,
            "deviations": deviations(done),
            "higher_is_better": suite.higher_is_better,
            "command": done.command,
        },
        "models": {
            row.name: {"role": row.role, "identity": row.identity, "costs": _exact(row.costs)} for row in done.rows
        },
        "judges": {
            judge.name: {"criteria": list(judge.criteria), "identity": judge.identity()} for judge in suite.judges
        },
        "metrics": {
            row.name: [metric_as_json(metric, suite.items, done.seed) for metric in metrics[row.name]]
            for row in done.rows
        },
        "categories": {row.name: categories_of(metrics[row.name], row.items, done.seed) for row in done.rows},
        "rates": {judge.name: {row.name: _rates(done, row, judge) for row in done.rows}
                  for judge in suite.judges},
        "comparisons": comparisons_of(done, metrics),
        **_pairs(done),
        **_sets(done),
        "failures": {row.name: failures_of(row) for row in done.rows},
        "items": [_item(done, index) for index in range(len(suite.items))],
    }  # fmt: skip


def metrics_by_row(done: Evaluation) -> dict[str, list[Metric]]:
    """The metrics of every row; those of a model end with how far its headline lies above its control."""
    found = {row.name: done.suite.metrics(row.items, row.by_item()) for row in done.rows}
    for row in done.models():
        control = found.get(f"{row.name}, control")
        if control and found[row.name]:
            found[row.name].insert(1, above_control(found[row.name][0], control[0]))
    return found


def strata_of(items: Sequence[Item]) -> list[str]:
    """The stratum of each item in resampling: its first category."""
    return [item.categories[0] if item.categories else "" for item in items]


def metric_as_json(metric: Metric, items: Sequence[Item], seed: int) -> dict[str, Any]:
    """A metric with its 95 % interval."""
    low, high = interval(metric, strata_of(items), seed) or (None, None)
    return {
        "name": metric.name,
        "unit": metric.unit,
        "value": rounded(metric.value),
        "low": rounded(low),
        "high": rounded(high),
        "num": metric.num,
        "failed": metric.failed,
    }


def categories_of(metrics: Sequence[Metric], items: Sequence[Item], seed: int) -> dict[str, Any]:
    """The headline of each category."""
    if not metrics:
        return {}
    found = {}
    for category in dict.fromkeys(name for item in items for name in item.categories):
        chosen = np.array([category in item.categories for item in items])
        part = part_of(metrics[0], chosen)
        if part.num:
            found[category] = metric_as_json(part, [item for item, here in zip(items, chosen, strict=True) if here],
                                             seed)  # fmt: skip
    return {name: {key: one[key] for key in ("value", "low", "high", "num")} for name, one in found.items()}


def part_of(metric: Metric, chosen: np.ndarray) -> Metric:
    """A metric of the chosen prompts (N,) bool alone."""
    sums = metric.sums[chosen]
    return Metric(metric.name, sums, metric.formula, int((sums != 0).any(axis=1).sum()), 0, metric.unit)


def comparisons_of(done: Evaluation, metrics: Mapping[str, Sequence[Metric]]) -> list[dict[str, Any]]:
    """Every pair of models in every metric that both have; p values are adjusted over the pairs of a metric."""
    strata, found = strata_of(done.suite.items), []
    rows = {row.name: metrics[row.name] for row in done.models()}
    for name in dict.fromkeys(metric.name for row in rows.values() for metric in row):
        family = {model: [metric for metric in row if metric.name == name] for model, row in rows.items()}
        found += compare_models(family, strata, done.seed, done.suite.higher_is_better)
    return [one.as_json() for one in found]


def _pairs(done: Evaluation) -> dict[str, Any]:
    """What judges say of pairs of images; nothing where none was asked."""
    if not done.duels:
        return {}
    pairs = duels_as_json(done.duels, strata_of(done.suite.items), done.seed)
    return {"pairs": pairs, "agreements": agreements_as_json(done.duels)}


def _sets(done: Evaluation) -> dict[str, Any]:
    """Numbers of whole sets of images; nothing where there are none."""
    if not done.set_scores:
        return {}
    scorers = {
        one.name: {"higher_is_better": one.higher_is_better, "identity": one.identity()}
        for one in done.suite.set_scorers
    }
    return {"set_scorers": scorers, "set_scores": set_scores_as_json(done.set_scores)}


def failures_of(row: Row) -> dict[str, Any]:
    """How many judgements of a row failed, why, and in which categories; of images where nothing judged them.

    An image that could not be drawn is one failed judgement, where one that was drawn may be asked many questions. So
    a row is incomplete as well where more than 5 % of its images could not be drawn.
    """
    counted = question_failures(one for judged in row.judged.values() for judgements in judged for one in judgements)
    undrawn = _undrawn(row)
    if not row.judged:
        counted = undrawn
    by_category: dict[str, list[int]] = {}
    for index, item in enumerate(row.items):
        here = question_failures(one for judged in row.judged.values() for one in judged[index])
        for category in item.categories:
            total = by_category.setdefault(category, [0, 0])
            total[0] += here.failed
            total[1] += here.num
    return {
        "failed": counted.failed,
        "num": counted.num,
        "reasons": counted.reasons,
        "incomplete": counted.is_incomplete or undrawn.is_incomplete,
        "categories": {name: {"failed": failed, "num": num} for name, (failed, num) in by_category.items() if failed},
    }


def _undrawn(row: Row) -> Failures:
    """How many images of a row could not be drawn, and why."""
    images = [image for each in row.images for image in each]
    reasons = Counter(f"not drawn: {image.failed}" for image in images if image.path is None)
    return Failures(reasons.total(), len(images), dict(reasons.most_common()))


def deviations(done: Evaluation) -> list[str]:
    """How this evaluation differs from the official protocol."""
    found, official = list(done.suite.deviations), done.suite.images_per_prompt
    if done.seeds != official:
        found.append(
            f"{done.seeds} image{'s' * (done.seeds > 1)} for each prompt; the official protocol has {official}."
        )
    rewritten = [row.name for row in done.models() if row.identity.get("reason")]
    if rewritten:
        found.append(f"Prompts were rewritten before drawing for: {', '.join(rewritten)}.")
    identities = [judge.identity() for judge in done.suite.judges]
    identities += [judge.identity() for judge in done.suite.pair_judges]
    models = [identity.get("model") for identity in identities]
    return found + family_notes(dict.fromkeys(model for model in models if isinstance(model, str)))


def costs_of(done: Evaluation, path: Path) -> dict[str, Any]:
    """What was measured of each model.

    Args:
        path: the file of an earlier run.
    """
    kept = read_costs(path.parent)
    return {
        row.name: measured_costs(row.images, row.costs.get("peak_bytes"), kept.get(row.name, {}))
        for row in done.models()
    }


def _exact(costs: Mapping[str, Any]) -> dict[str, Any]:
    """The costs that are the same in every run."""
    return {name: value for name, value in costs.items() if name != "peak_bytes"}


def _rates(done: Evaluation, row: Row, judge: Judge) -> dict[str, Any]:
    """The rate of each criterion; None for one that is no share of 1 in every row, such as a reward."""
    rates = rates_as_json(count_rates(_scores(row, judge), _shares(done, judge), len(row.items)))
    return {name: rates.get(name) for name in judge.criteria}


def _shares(done: Evaluation, judge: Judge) -> list[str]:
    scores = [score for row in done.rows for score in _scores(row, judge)]
    values = {name: [score[name] for score in scores] for name in judge.criteria}
    return [name for name in values if all(0 <= one <= 1 for one in values[name] if isinstance(one, int | float))]


def _scores(row: Row, judge: Judge) -> list[Score]:
    return [one.score for judgements in row.judged[judge.name] for one in judgements]


def _item(done: Evaluation, index: int) -> dict[str, Any]:
    item = done.suite.items[index]
    return {
        "id": item.id,
        "prompt": item.prompt,
        "categories": list(item.categories),
        "truth": item.truth,
        "size": None if item.size is None else list(item.size),
        "images": {row.name: [_image(row, index, again) for again in range(len(row.images[index]))]
                   for row in done.rows},
        **({"pairs": item_duels(done.duels, index)} if done.duels else {}),
    }  # fmt: skip


def _image(row: Row, index: int, again: int) -> dict[str, Any]:
    image = row.images[index][again]
    judged = {name: rows[index][again] for name, rows in row.judged.items()}
    return {
        "key": image.key,
        "seed": image.seed,
        "file": None if image.path is None else f"{IMAGES}/{image.path.name}",
        **({"failed": image.failed} if image.failed else {}),
        **({"reasoned": image.reasoned} if image.reasoned else {}),
        **({"notes": image.notes} if image.notes else {}),
        "judgements": {
            name: {"score": score_as_json(one.score), **({} if one.raw is None else {"raw": one.raw})}
            for name, one in judged.items()
        },
    }


def _sheet(done: Evaluation) -> Image.Image:
    """The first prompts, the models side by side."""
    rows = {row.name: [images[0] for images in row.images] for row in done.models()}
    first = next(iter(done.suite.judges), None)
    scores = {} if first is None else {
        row.name: [judged[0].score for judged in row.judged[first.name]] for row in done.models()
    }  # fmt: skip
    return draw_sheet(rows, done.suite.items, scores)
