"""How fast scenes are judged, and whether another commit judges them alike.

Prints one JSON object: seconds of one core for each image, 32 images at once, and with --base the same of another
commit, both measured in turns on the same images, with how many of its scores are equal. Needs the extra `eval`.

    python benchmarks/scoring.py [--num 300] [--seed 77] [--sources common]
    git worktree add ../base COMMIT && python benchmarks/scoring.py --base ../base
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
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    print(json.dumps(measure(given), indent=1))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The result of every checkout, chunk by chunk in turns, so that a busy machine is as busy for each."""
    folders = {"here": Path(__file__).resolve().parents[1], **({"base": given.base.resolve()} if given.base else {})}
    workers = {name: start_worker(folder, given) for name, folder in folders.items()}
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
    if given.base:
        same = sum(one == other for one, other in zip(scores["here"], scores["base"], strict=True))
        result |= {"times_faster": round(seconds["base"] / seconds["here"], 2), "equal_scores": same}
    return result


def start_worker(folder: Path, given: argparse.Namespace) -> Any:
    """This file in a process of its own, with the package of `folder`, on one thread."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    options = ["--num", given.num, "--seed", given.seed, "--sources", given.sources, "--worker"]
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
    from leanlens.evaluate.questions import held_out_questions
    from leanlens.scenes.icons import library
    from leanlens.score.scene import SceneScorer

    icons = library(given.sources)
    scorer = SceneScorer(icons, read=lambda image: None)
    questions = held_out_questions(given.num, given.seed, icons)
    judge(scorer, questions[:1])
    for line in sys.stdin:
        chosen = questions[int(line) : int(line) + TOGETHER]
        began = time.process_time()
        scores = judge(scorer, chosen)
        print(json.dumps({"seconds": time.process_time() - began, "scores": scores}), flush=True)


def judge(scorer: Any, questions: list[Any]) -> list[dict[str, float | None]]:
    """The scores of the questions' true pictures."""
    scores = scorer(
        [one.picture for one in questions], [one.prompt for one in questions], [one.truth for one in questions]
    )
    return [dict(score) for score in scores]


if __name__ == "__main__":
    main()
