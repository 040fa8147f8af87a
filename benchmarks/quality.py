"""How well a model draws what it is asked: held-out scenes, scored by means that took no part in drawing.

Comes in: a model's name. Goes out: one JSON object on stdout, and the same as a table on stderr. Beside the model stand
the true pictures (how far the scorer can be trusted) and the true pictures after the model's autoencoder (the best any
denoiser could do), and the model's pictures judged against things of the same kind that nobody asked for, which the
scorer should not confirm. Needs the extra `eval`; with the extra `ocr` texts are judged too.

    python benchmarks/quality.py --model nano [--num 200] [--seed 0] [--prompts dense|brief|human] [--sources sample]
        [--size 256] [--steps 20] [--cfg 5]
    python benchmarks/quality.py --scorer [--num 200] [--seed 0] [--sources sample]

With --scorer the scorer itself is measured, without a model: true pictures against their own truths, which it should
confirm; against those of other scenes with as many things, none of which they show, which it should not; and against
their own with every thing exchanged for another of its kind, a horse for a zebra, whose colours, places and numbers
hold and whose names do not.
"""

import argparse
import json
import sys
import time
from random import Random
from typing import Any

from machine import describe_machine

from leanlens.evaluate.questions import held_out_questions
from leanlens.evaluate.scenes import evaluate_scenes
from leanlens.evaluate.table import count_rates, rates_as_json, render_table
from leanlens.pipeline.placement import open_model
from leanlens.scenes.icons import Library, library
from leanlens.score.scene import SceneScorer

FLOORS = {"background": 0.95, "color": 0.80, "object": 0.70, "two_objects": 0.45}  # planned for a small model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", default="dense", choices=("dense", "brief", "human"))
    parser.add_argument("--size", type=int, help="base of the pictures in pixels; the model's own without it")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cfg", type=float)
    parser.add_argument("--sources", help="full, sample or a folder; full where it is there")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scorer", action="store_true", help="measure the scorer instead of a model")
    given = parser.parse_args()
    began, machine = time.time(), describe_machine()
    measured = measure_scorer(given) if given.scorer else measure_model(given)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine,
        "seconds": round(time.time() - began, 1),
        **measured,
    }
    print(json.dumps(result, indent=1))


def measure_scorer(given: argparse.Namespace) -> dict[str, Any]:
    """Rates on true pictures, against true truths and those of others and of kin."""
    icons = library(given.sources)
    scorer = SceneScorer(icons)
    questions = held_out_questions(given.num, given.seed, icons)
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


def truth_of_kin(truth: dict[str, Any], index: int, icons: Library) -> dict[str, Any]:
    """The same truth with every thing named as another of its category that is not in the picture."""
    lot, here = Random(index), {stated["concept"] for stated in truth["objects"]}
    objects = []
    for stated in truth["objects"]:
        kin = [name for name, concept in icons.concepts.items() if concept.category == stated["category"]]
        kin = [name for name in kin if name not in here]
        objects.append({**stated, "concept": lot.choice(kin)} if kin and stated["category"] != "sign" else stated)
    return {**truth, "objects": objects}


def measure_model(given: argparse.Namespace) -> dict[str, Any]:
    """Rates of a model, of the true pictures and of these after the model's autoencoder."""
    icons = library(given.sources)
    scorer, has_truth = SceneScorer(icons), given.prompts != "human"
    done = evaluate_scenes(
        open_model(given.model, given.device), given.num, given.seed, icons, scorer, given.prompts,
        steps=given.steps, guidance=given.cfg, size=given.size, real=has_truth, reconstruction=has_truth,
        say=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    own, rows = done.rates[given.model], dict(done.rates)
    if has_truth:
        kin = [truth_of_kin(question.truth, index, icons) for index, question in enumerate(done.questions)]
        texts = [question.prompt for question in done.questions]
        rows["asked for kin"] = count_rates(scorer(done.pictures[given.model], texts, kin), scorer.criteria)
    print(render_table(rows, done.fid), file=sys.stderr)
    return {
        "settings": done.settings,
        "rates": {name: rates_as_json(rates) for name, rates in rows.items()},
        "fid (fid-helper)": done.fid,
        "floors": {
            name: {"floor": floor, "met": None if own[name] is None else own[name].rate >= floor}
            for name, floor in FLOORS.items()
        },
    }


if __name__ == "__main__":
    main()
