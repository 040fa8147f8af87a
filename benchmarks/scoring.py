"""How fast scenes are judged, and whether another commit, or the fit that does not ship, judges them alike.

Prints one JSON object: seconds of one core for each image, 32 images at once. With --base it measures another commit,
and with --fitted this one with classifiers as they were fitted in place of those that ship, all in turns on the same
images, with how many of their scores are equal. Needs the extra `eval`.

    python benchmarks/scoring.py [--num 300] [--seed 77] [--sources common] [--scorer scene]
    git worktree add ../base COMMIT && python benchmarks/scoring.py --base ../base
    python benchmarks/scoring.py --fitted --images FOLDER --seed 2026 [--of 600] [--scorer crosscheck]

Without --images, scenes' true images are judged; with it, FOLDER/00000.png, 00001.png, …, the images that a model drew
of the first of --of scenes, as `checkers.py` keeps them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import describe_machine

TOGETHER = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=300, help="scenes")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--sources", default="common", help="library of icons")
    parser.add_argument("--base", type=Path, help="a checkout of another commit")
    parser.add_argument("--fitted", action="store_true", help="compare with classifiers as they were fitted")
    parser.add_argument("--scorer", default="scene", choices=("scene", "crosscheck"))
    parser.add_argument("--images", type=Path, help="folder of a model's images")
    parser.add_argument("--of", type=int, help="held-out scenes, the first --num of which are judged")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    print(json.dumps(measure(given), indent=1))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The result of every checkout, chunk by chunk in turns, so that a busy machine is as busy for each."""
    own = Path(__file__).resolve().parents[1]
    workers = {"here": start_worker(own, given, False)}
    if given.fitted:
        workers["fitted"] = start_worker(own, given, True)
    if given.base:
        workers["base"] = start_worker(given.base.resolve(), given, False)
    seconds, scores = dict.fromkeys(workers, 0.0), {name: list[Any]() for name in workers}
    for start in range(0, given.num, TOGETHER):
        for name, worker in workers.items():
            answer = ask(worker, start)
            seconds[name] += answer["seconds"]
            scores[name] += answer["scores"]
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(),
        "images": given.num,
        "core_seconds_per_image": {name: round(total / given.num, 4) for name, total in seconds.items()},
    }
    for name in list(workers)[1:]:
        same = [one == other for one, other in zip(scores["here"], scores[name], strict=True)]
        result |= {f"equal_scores_{name}": sum(same)}
    if given.base:
        result |= {"times_faster": round(seconds["base"] / seconds["here"], 2)}
    return result


def start_worker(folder: Path, given: argparse.Namespace, fitted: bool) -> Any:
    """This file in a process of its own, with the package of `folder`, on one thread."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    options = ["--num", given.num, "--seed", given.seed, "--sources", given.sources, "--scorer", given.scorer]
    options += ["--images", given.images.resolve()] if given.images else []
    options += ["--of", given.of] if given.of else []
    options += ["--worker", *(["--fitted"] if fitted else [])]
    command = [sys.executable, __file__, *map(str, options)]
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(worker: Any, start: int) -> dict[str, Any]:
    """What a worker says of the images from `start` on."""
    worker.stdin.write(f"{start}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def work(given: argparse.Namespace) -> None:
    """Judge the images whose first number stands on each line of stdin; text is left out."""
    from PIL import Image

    from leanlens.evaluate.questions import held_out_questions
    from leanlens.scenes.icons import library

    icons = library(given.sources)
    scorer = open_one(given, icons)
    questions = held_out_questions(given.of or given.num, given.seed, icons)[: given.num]
    images = [one.picture for one in questions]
    if given.images:
        images = [Image.open(given.images / f"{index:05d}.png").convert("RGB") for index in range(len(questions))]
    judge(scorer, images[:1], questions[:1])
    for line in sys.stdin:
        chosen = slice(int(line), int(line) + TOGETHER)
        began = time.process_time()
        scores = judge(scorer, images[chosen], questions[chosen])
        print(json.dumps({"seconds": time.process_time() - began, "scores": scores}), flush=True)


def open_one(given: argparse.Namespace, icons: Any) -> Any:
    """The scorer, with what ships or with classifiers as they were fitted; another commit may know only the first."""
    if given.scorer == "crosscheck":
        from leanlens.score.crosscheck import naming
        from leanlens.score.crosscheck.scorer import Crosscheck

        return Crosscheck(icons, naming.fitted_names(icons, naming.crosscheck_network()) if given.fitted else None)
    from leanlens.score import features
    from leanlens.score.scene import SceneScorer

    gallery = features.fitted_gallery(icons, features.picture_network()) if given.fitted else None
    return SceneScorer(icons, gallery, read=lambda image: None)


def judge(scorer: Any, images: list[Any], questions: list[Any]) -> list[dict[str, float | None]]:
    """The scores of images of the questions."""
    scores = scorer(images, [one.prompt for one in questions], [one.truth for one in questions])
    return [dict(score) for score in scores]


if __name__ == "__main__":
    main()
