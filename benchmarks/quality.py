"""Measures how well a model follows prompts, on held-out scenes and with a scorer that is independent of the model.

It prints one JSON object, and the same as a table on stderr. For comparison, it also scores the true images (the limit
of the scorer), the true images after the model's autoencoder (the limit of any denoiser), and the model's images
against things of the same kind that were not requested, which the scorer should reject. It needs the extra `eval`; with
the extra `ocr`, it also scores text.

    python benchmarks/quality.py --model nano [--num 200] [--seed 0] [--prompts dense|brief|human|FILE]
        [--sources sample] [--size 256] [--steps 20] [--cfg 5] [--reason default]
    python benchmarks/quality.py --model nano --compare [--prompts human] [--seeds 3] [--kept FOLDER]
    python benchmarks/quality.py --table benchmarks/results/reason_people.json
    python benchmarks/quality.py --scorer [--num 200] [--seed 0] [--sources sample]

With --compare, prompts as typed are compared with prompts rewritten by the model's reasoner, with paired intervals:
one process for each, on one thread and, if possible, on its own core. With --kept, images are cached in a folder, and
the same command resumes from there.

With --table, the table of a saved result is printed, and nothing is measured.

With --scorer, the scorer itself is measured, without a model: true images against their own truths, which it should
confirm; against those of other scenes with equally many but different things, which it should reject; and against
their own with every thing replaced by another of its kind (a horse by a zebra), with the same colours, positions and
counts.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from machine import describe_machine

from leanlens.evaluate.control import truth_of_kin
from leanlens.evaluate.draw import Say
from leanlens.evaluate.image_models.lens import LensModel
from leanlens.evaluate.image_models.true_pictures import Reconstruction, TruePictures
from leanlens.evaluate.questions import held_out_questions
from leanlens.evaluate.rates import (
    Rate,
    compare,
    count_rates,
    differences_as_json,
    differences_from_json,
    rates_as_json,
    rates_from_json,
)
from leanlens.evaluate.run import Evaluation, Opener, Row, evaluate
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.evaluate.suites.scenes import scenes_of
from leanlens.evaluate.table import render_table
from leanlens.hub import locate
from leanlens.pipeline.open import open_model
from leanlens.reason import reasoner_for
from leanlens.scenes.icons import library
from leanlens.score.protocol import Score
from leanlens.score.scene import SceneScorer

WAYS = ("off", "default")  # of asking
FLOORS = {"background": 0.95, "color": 0.80, "object": 0.70, "two_objects": 0.45}  # planned for a small model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--num", type=int, help="200 scenes, or all prompts of a file, without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", default="dense", help="dense, brief, human or a file of prompts")
    parser.add_argument("--reason", default="off", choices=WAYS)
    parser.add_argument("--compare", action="store_true", help="prompts as they are, beside rewritten ones")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each prompt")
    parser.add_argument("--kept", type=Path, help="folder for the pictures")
    parser.add_argument("--size", type=int, help="base of the pictures in pixels; the model's own without it")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cfg", type=float)
    parser.add_argument("--sources", help="full, sample or a folder; full where it is there")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scorer", action="store_true", help="measure the scorer instead of a model")
    parser.add_argument("--table", type=Path, help="print the table of a kept result")
    given = parser.parse_args()
    if given.table:
        print(table_of(json.loads(given.table.read_text(encoding="utf-8"))), end="")
        return
    began, machine = time.time(), describe_machine()
    measure = measure_scorer if given.scorer else measure_reasoner if given.compare else measure_model
    measured = measure(given)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine,
        "seconds": round(time.time() - began, 1),
        **measured,
    }
    print(json.dumps(result, indent=1))


def table_of(result: dict[str, Any]) -> str:
    """The table of a kept result."""
    rows = {name: rates_from_json(rates) for name, rates in result["rates"].items()}
    differences = differences_from_json(result["differences"]) if "differences" in result else None
    return render_table(rows, None, differences)


def measure_scorer(given: argparse.Namespace) -> dict[str, Any]:
    """Rates on true pictures, against true truths and those of others and of kin."""
    icons = library(given.sources)
    scorer = SceneScorer(icons)
    questions = held_out_questions(given.num or 200, given.seed, icons)
    pictures = [question.picture for question in questions if question.picture is not None]
    truths, prompts = [question.truth for question in questions], [question.prompt for question in questions]
    others = [other_truth(truths, index) for index in range(len(truths))]
    kin = [truth_of_kin(truth, index, icons) for index, truth in enumerate(truths)]
    rows = {
        "own truth": count_rates(scorer(pictures, prompts, truths), scorer.criteria),
        "another's": count_rates(scorer(pictures, prompts, others), scorer.criteria),
        "kin's": count_rates(scorer(pictures, prompts, kin), scorer.criteria),
    }
    print(render_table(rows), file=sys.stderr)
    settings = {"num": given.num, "seed": given.seed, "library": icons.fingerprint}
    return {"settings": settings, "rates": {name: rates_as_json(rates) for name, rates in rows.items()}}


def other_truth(truths: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """The next truth of as many things, none of which truth number `index` has, nor its background."""
    own = truths[index]
    concepts = {stated["concept"] for stated in own["objects"]}
    for other in truths[index + 1 :] + truths[:index]:
        differs = not concepts & {stated["concept"] for stated in other["objects"]}
        if len(other["objects"]) == len(own["objects"]) and differs and other["background"] != own["background"]:
            return other
    raise SystemExit("too few scenes to exchange their truths; give a larger --num")


def measure_model(given: argparse.Namespace) -> dict[str, Any]:
    """Rates of a model, of the true pictures, of these after the model's autoencoder, and of the control."""
    done = evaluated(given, given.reason)
    rows = {row.name: rates_of(done, row) for row in done.rows}
    own = rows[given.model]
    print(render_table(rows), file=sys.stderr)
    return {
        "settings": settings_of(done),
        "rates": {name: rates_as_json(rates) for name, rates in rows.items()},
        "floors": {
            name: {"floor": floor, "met": None if (rate := own[name]) is None else rate.rate >= floor}
            for name, floor in FLOORS.items()
        },
    }


def evaluated(given: argparse.Namespace, way: str, say: Say = lambda text: None) -> Evaluation:
    """The evaluation of a model with one way of asking."""
    icons, has_truth = library(given.sources), given.prompts in ("dense", "brief")
    options = SuiteOptions(
        num=given.num, seed=given.seed, size=given.size, prompts=given.prompts, needs_truth=has_truth
    )
    suite = scenes_of([SceneScorer(icons)], icons, options)
    opened = open_model(given.model, given.device)
    reasoner = reasoner_for(locate(given.model), way)
    references: list[Opener] = []
    if has_truth:
        references = [lambda: Reconstruction(opened, suite.items), lambda: TruePictures(suite.items)]
    with tempfile.TemporaryDirectory() as folder:
        return evaluate(
            suite, [lambda: LensModel(opened, given.model, reasoner, given.steps, given.cfg)],
            Path(folder) / "evaluation", seed=given.seed, seeds=given.seeds, references=references, images=given.kept,
            say=say,
        )  # fmt: skip


def rates_of(done: Evaluation, row: Row) -> dict[str, Rate | None]:
    """The rates of a row."""
    return count_rates(scores_of(row), done.suite.judges[0].criteria, len(row.items))


def scores_of(row: Row) -> list[Score]:
    """The scores of a row, prompt by prompt."""
    (judged,) = row.judged.values()
    return [one.score for judgements in judged for one in judgements]


def settings_of(done: Evaluation) -> dict[str, Any]:
    """What decides the numbers."""
    model = done.models()[0]
    return {
        **done.suite.settings, **done.suite.source, "num": len(done.suite.items), "seeds": done.seeds,
        "model": model.identity,
    }  # fmt: skip


def measure_reasoner(given: argparse.Namespace) -> dict[str, Any]:
    """Rates with prompts as they are and with rewritten ones, and how much the second are better."""
    SceneScorer(library(given.sources))  # what names things is learnt once, not by both
    cores = sorted(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(WAYS), spawn) as pool:
        off, default = pool.map(partial(judge_row, given), WAYS, (cores[0], cores[-1]))
    rows = {"off": off["rates"], "default": default["rates"]}
    criteria = list(off["rates"])
    differences = compare(off["scores"], default["scores"], criteria, off["settings"]["num"], given.seed)
    print(render_table(rows, None, differences), file=sys.stderr)
    records = default["reasoned"]
    return {
        "settings": off["settings"] | {"reason": {"off": None, "default": default["settings"]["model"]["reason"]}},
        "rates": {name: rates_as_json(rates) for name, rates in rows.items()},
        "differences": differences_as_json(differences),
        "left_alone": sum(bool(record["left_alone"]) for record in records),
        "rewritten": sum(not record["left_alone"] for record in records),
    }


def judge_row(given: argparse.Namespace, way: str, core: int) -> dict[str, Any]:
    """One way of asking, on one core: settings, rates, the score and the record of each picture."""
    import torch

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    done = evaluated(given, way, lambda text: print(f"{way}: {text}", file=sys.stderr, flush=True))
    row = done.models()[0]
    reasoned = [image.reasoned for images in row.images for image in images if image.reasoned is not None]
    return {
        "settings": settings_of(done), "rates": rates_of(done, row), "scores": scores_of(row), "reasoned": reasoned,
    }  # fmt: skip


if __name__ == "__main__":
    main()
