"""Measures how often the scorer agrees with a person on images of the embedded model.

benchmarks/nano_by_eye.json contains a person's labels: for scenes of one and two things, whether each thing is
recognisable. The script prints one JSON object and needs the extra `eval`. New weights give other images, which must be
labelled again; `--pictures` saves them.

    python benchmarks/by_eye.py [--pictures FOLDER]
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from machine import describe_machine

from leanlens.evaluate.questions import held_out_questions
from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.scenes.icons import Library, library
from leanlens.score.scene import SceneScorer

SEEN = Path(__file__).with_name("nano_by_eye.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures")
    given = parser.parse_args()
    began, seen = time.time(), json.loads(SEEN.read_text(encoding="utf-8"))
    icons, model = library(seen["library"]), open_model("nano", "cpu")
    if model.identity()["fingerprint"] != seen["fingerprint"]:
        raise SystemExit(f"{SEEN.name} is about other weights than these; look at their pictures and write it anew")
    scorer = SceneScorer(icons)
    found = {f"seed {one['seed']}": compare(one, seen, icons, model, scorer, given.pictures) for one in seen["sets"]}
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(),
        "seconds": round(time.time() - began, 1),
        **found,
    }
    print(json.dumps(result, indent=1))


def compare(
    one: dict[str, Any],
    seen: dict[str, Any],
    icons: Library,
    model: OpenedModel,
    scorer: SceneScorer,
    kept: Path | None,
) -> dict[str, Any]:
    """Of the things of one set of scenes: how many both see, and which only one of the two does."""
    questions = held_out_questions(seen["num"], one["seed"], icons)
    both = neither = 0
    only: dict[str, list[str]] = {"scorer": [], "person": []}
    for row in one["pictures"]:
        question, seed = questions[row["number"]], one["seed"] + row["number"]
        request = ImageRequest.checked(
            prompt=question.prompt, width=question.size[0], height=question.size[1],
            num_inference_steps=seen["steps"], guidance_scale=seen["guidance"], seed=seed,
        )  # fmt: skip
        picture = draw(model, request).image
        if kept:
            kept.mkdir(parents=True, exist_ok=True)
            picture.save(kept / f"{one['seed']}-{row['number']}.png")
        for stated in question.truth["objects"]:
            by_scorer = scorer.judge(picture, {"objects": [stated]})["object"] == 1
            by_person = row["things"][stated["concept"]]
            both, neither = both + (by_scorer and by_person), neither + (not by_scorer and not by_person)
            if by_scorer != by_person:
                only["scorer" if by_scorer else "person"].append(f"{row['number']}: {stated['concept']}")
        print(f"seed {one['seed']}, {row['number']} done", file=sys.stderr)
    return {
        "both see it": both,
        "neither does": neither,
        "only the scorer": only["scorer"],
        "only the person": only["person"],
    }


if __name__ == "__main__":
    main()
