"""Whether the two checkers of scenes agree, and how far each can be trusted.

Prints one JSON object, and the same as tables on stderr. Both judge a model's images of held-out dense scenes: how
often both say yes, both say no, or only one says yes, with Cohen's kappa. Then both judge the scenes' true images:
against their own truths, which they should confirm; against those of other scenes, and against their own with every
thing replaced by another of its kind, which they should reject. Needs the extra `eval`.

    python benchmarks/checkers.py [--model nano] [--num 300] [--of 600] [--seed 2026] [--real 150] [--sources common]
        [--steps 20] [--cfg 2] [--images FOLDER]

Image i of the --of scenes is drawn with seed + i. With --images, images are read from FOLDER/00000.png, 00001.png, …,
and those that are missing are drawn and put there.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe_machine
from PIL import Image
from quality import other_truth

from leanlens.evaluate.control import truth_of_kin
from leanlens.evaluate.image_models.lens import LensModel
from leanlens.evaluate.questions import Question, held_out_questions
from leanlens.evaluate.rates import count_rates, rates_as_json
from leanlens.evaluate.suites.scenes import item_of
from leanlens.evaluate.table import render_table
from leanlens.pipeline.open import open_model
from leanlens.scenes.icons import Library, library
from leanlens.score.crosscheck.scorer import Crosscheck
from leanlens.score.protocol import Score, Scorer
from leanlens.score.scene import SceneScorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--num", type=int, default=300, help="images of the model")
    parser.add_argument("--of", type=int, default=600, help="held-out scenes, the first --num of which are judged")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--real", type=int, default=150, help="true images of the same scenes")
    parser.add_argument("--sources", default="common", help="library of icons")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--images", type=Path, help="folder of the model's images")
    given = parser.parse_args()
    began, machine = time.time(), describe_machine()
    measured = measure(given)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine,
        "seconds": round(time.time() - began, 1),
        **measured,
    }
    print(json.dumps(result, indent=1))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Agreement on the model's images, and both checkers' rates there and on true images."""
    icons = library(given.sources)
    checkers: list[Scorer] = [SceneScorer(icons, read=lambda image: None), Crosscheck(icons)]
    questions = held_out_questions(given.of, given.seed, icons)[: given.num]
    images = model_images(given, questions)
    scores = [timed(checker, images, questions, [one.truth for one in questions]) for checker in checkers]
    criteria = checkers[1].criteria
    agreement = {name: agree(scores[0][0], scores[1][0], (name,)) for name in criteria}
    agreement["all"] = agree(scores[0][0], scores[1][0], criteria)
    print(table_of(agreement), file=sys.stderr)
    rates = {
        given.model: {
            checker.name: rates_as_json(count_rates(each, criteria))
            for checker, (each, _) in zip(checkers, scores, strict=True)
        },
        **real_rates(checkers, questions[: given.real], icons),
    }
    return {
        "settings": {
            "model": given.model, "num": given.num, "of": given.of, "real": given.real, "seed": given.seed,
            "steps": given.steps, "guidance": given.cfg, "library": icons.fingerprint,
        },
        "agreement": agreement,
        "rates": rates,
        "core_seconds_per_image": {
            checker.name: round(seconds / given.num, 4) for checker, (_, seconds) in zip(checkers, scores, strict=True)
        },
    }  # fmt: skip


def timed(
    checker: Scorer, images: list[Image.Image], questions: Sequence[Question], truths: list[dict[str, Any]]
) -> tuple[list[Score], float]:
    """The scores, and seconds of one core for all images."""
    began = time.process_time()
    scores = checker(images, [one.prompt for one in questions], truths)
    return scores, time.process_time() - began


def agree(first: Sequence[Score], second: Sequence[Score], criteria: Sequence[str]) -> dict[str, Any] | None:
    """How two checkers agree on whether a criterion is fully met; None where it never applies to both."""
    pairs = [
        (one[name] >= 1, other[name] >= 1)  # type: ignore[operator]
        for one, other in zip(first, second, strict=True)
        for name in criteria
        if one[name] is not None and other[name] is not None
    ]
    if not pairs:
        return None
    num = len(pairs)
    both_yes, both_no = pairs.count((True, True)), pairs.count((False, False))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    same = (both_yes + both_no) / num
    yes = (both_yes + only_first) / num, (both_yes + only_second) / num
    chance = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    return {
        "num": num,
        "both_yes": both_yes,
        "both_no": both_no,
        "only_first": only_first,
        "only_second": only_second,
        "agreement": round(same, 4),
        "kappa": round((same - chance) / (1 - chance), 4) if chance < 1 else None,
    }


def table_of(agreement: dict[str, Any]) -> str:
    """The agreement as text."""
    lines = [f"{'criterion':16}{'num':>6}{'yes':>6}{'no':>6}{'scene':>7}{'cross':>7}{'agree':>8}{'kappa':>8}"]
    for name, row in agreement.items():
        if row:
            kappa = "" if row["kappa"] is None else f"{row['kappa']:.2f}"
            lines.append(
                f"{name:16}{row['num']:6}{row['both_yes']:6}{row['both_no']:6}{row['only_first']:7}"
                f"{row['only_second']:7}{row['agreement']:8.3f}{kappa:>8}"
            )
    return "\n".join(lines)


def real_rates(checkers: Sequence[Scorer], questions: Sequence[Question], icons: Library) -> dict[str, Any]:
    """The rates of true images against their own truths, another's and those of kin."""
    if not questions:
        return {}
    truths = [one.truth for one in questions]
    rows = {
        "own truth": truths,
        "another's": [other_truth(truths, index) for index in range(len(truths))],
        "kin's": [truth_of_kin(truth, index, icons) for index, truth in enumerate(truths)],
    }
    images = [one.picture for one in questions if one.picture is not None]
    found: dict[str, Any] = {}
    for name, asked in rows.items():
        scores = {checker.name: timed(checker, images, questions, asked)[0] for checker in checkers}
        rates = {checker: count_rates(each, checkers[1].criteria) for checker, each in scores.items()}
        print(f"\n{name}\n{render_table(rates)}", file=sys.stderr)
        found[name] = {checker: rates_as_json(each) for checker, each in rates.items()}
    return found


def model_images(given: argparse.Namespace, questions: Sequence[Question]) -> list[Image.Image]:
    """The model's images, read from --images as far as they lie there."""
    paths = [given.images / f"{index:05d}.png" if given.images else None for index in range(len(questions))]
    found = [Image.open(path).convert("RGB") if path and path.is_file() else None for path in paths]
    if None not in found:
        return [image for image in found if image is not None]
    model = LensModel(open_model(given.model), steps=given.steps, guidance=given.cfg)
    for index, (one, path) in enumerate(zip(questions, paths, strict=True)):
        if found[index] is None:
            found[index] = image = model.draw(item_of(one, index), given.seed + index).image
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return [image for image in found if image is not None]


if __name__ == "__main__":
    main()
