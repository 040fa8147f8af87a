"""Measures a small generation and a training step while busy loops occupy the same cores.

It prints one JSON object. Every case is a new process, with torch's default threads and with those that the commands
choose (`leanlens/threads.py`). The loops are separate processes. The first image of a process is reported separately,
because the load is not known well before it.

    python benchmarks/busy.py [--model nano] [--size 256] [--loops 0 1 2] [--repeat 3] [--steps 20]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]

DRAW = """
import json, sys, time
import leanlens.threads as threads
by_load = sys.argv[1] == "by load"
if by_load:
    threads.spin_briefly()
else:
    threads.can_be_chosen = lambda count: False
from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest

model, size, steps = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
opened = open_model(model, "cpu")
request = ImageRequest.checked(
    prompt="a red teapot", width=size, height=size, num_inference_steps=steps, guidance_scale=2.0, seed=1
)
seconds = []
while len(seconds) < 2:
    began = time.perf_counter()
    run = draw(opened, request).record["run"]
    seconds.append(time.perf_counter() - began)
    if seconds[0] > 20:  # once is enough to know
        seconds = seconds * 2
print(json.dumps({"first": seconds[0], "next": seconds[1], "step_threads": run.get("step_threads", [])}))
"""

TRAIN = """
import sys
import leanlens.threads as threads
if sys.argv.pop(1) != "by load":
    threads.spin_briefly = lambda: None
import leanlens.cli.main as main
main.spin_briefly = threads.spin_briefly
main.run()
"""


@contextmanager
def loops(count: int) -> Iterator[None]:
    """Processes that do nothing but take a core each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in running:
            loop.kill()
            loop.wait()


def environment() -> dict[str, str]:
    """This one's, without settings of threads: they would win over what is measured."""
    settings = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    return {name: value for name, value in os.environ.items() if name not in settings}


def seconds_of_drawing(way: str, model: str, size: int, steps: int) -> dict[str, Any]:
    words = [sys.executable, "-c", DRAW, way, model, str(size), str(steps)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment(), timeout=900)
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of_a_step(way: str, folder: Path) -> dict[str, Any]:
    """The median of the smoke recipe's steps after the eighth."""
    run = folder / f"run-{len(list(folder.iterdir()))}"
    words = ["train", str(ROOT / "recipes/examples/smoke.toml"), "--set", f"run.dir={run}", "--set", "train.steps=20"]
    subprocess.run(
        [sys.executable, "-c", TRAIN, way, *words], check=True, capture_output=True, env=environment(), timeout=900
    )
    ends = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {"step": median(end - begin for begin, end in pairwise(ends[8:]))}


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure the best, and the worst of all."""
    times = {name: round(min(run[name] for run in runs), 3) for name in runs[0] if name != "step_threads"}
    return times | {"worst": round(max(max(run[name] for name in times) for run in runs), 3), "runs": len(runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    machine = describe_machine()
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for count in options.loops:
            for way in ("by itself", "by load"):
                with loops(count):
                    drawn = [seconds_of_drawing(way, options.model, options.size, options.steps)]
                    while len(drawn) < options.repeat and drawn[0]["first"] < 20:
                        drawn.append(seconds_of_drawing(way, options.model, options.size, options.steps))
                    trained = [seconds_of_a_step(way, Path(name)) for _ in drawn]
                cases.append({"loops": count, "threads": way, "drawing": best(drawn), "training": best(trained)})
                print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    found = {
        "benchmark": "a small drawing, and a training step, beside endless loops",
        "command": " ".join(["python", "benchmarks/busy.py", *sys.argv[1:]]),
        "machine": machine | {"load_after": round(os.getloadavg()[0], 2)},
        "cases": cases,
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
