"""Measures `leanlens generate` in a new process: imports, opening, generation and exit.

It prints one JSON object. It times the command itself through its entry point; the process records the start and end of
each stage, and the parent the start and exit of the process. The first of several runs reads files that later ones find
in the page cache; all are reported.

    python benchmarks/startup.py [--model nano] [--size 256] [--steps 20] [--repeat 5] [--threads N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

# Imports what the command imports, wraps what opens and what draws, runs the command, and leaves the times in a file.
CHILD = """
import json, sys, time
times = {"python": time.time()}
from leanlens.cli.imports import unneeded_left_out
from leanlens.cli.main import reduce_garbage_collection, run
from leanlens.threads import spin_briefly
reduce_garbage_collection()  # as `run` begins
spin_briefly()
with unneeded_left_out():
    from leanlens.pipeline import draw, metadata
    from leanlens.pipeline import open as opening

def timed(module, name):
    inner = getattr(module, name)
    def wrapped(*args, **options):
        times[name + "_begins"] = time.time()
        try:
            return inner(*args, **options)
        finally:
            times[name + "_ends"] = time.time()
    setattr(module, name, wrapped)

timed(opening, "open_model")
timed(draw, "draw_together")
times["imported"] = time.time()
target, sys.argv = sys.argv[1], ["leanlens", *sys.argv[2:]]
try:
    run()
finally:
    times["done"] = time.time()
    with open(target, "w") as file:
        json.dump(times, file)
"""


def run_once(words: list[str], folder: Path) -> dict[str, float]:
    """One process; its stages in seconds, whose sum is what one waits."""
    target = folder / "times.json"
    began = time.time()
    subprocess.run([sys.executable, "-c", CHILD, str(target), *words], check=True, capture_output=True)
    ended = time.time()
    at = json.loads(target.read_text())
    stages = {
        "interpreter": at["python"] - began,
        "imports": at["imported"] - at["python"],
        "open": at["open_model_ends"] - at["open_model_begins"],
        "draw": at["draw_together_ends"] - at["draw_together_begins"],
        "words and file": at["open_model_begins"]
        - at["imported"]
        + at["draw_together_begins"]
        - at["open_model_ends"]
        + at["done"]
        - at["draw_together_ends"],
        "exit": ended - at["done"],
    }
    return {name: round(seconds, 3) for name, seconds in stages.items()} | {"total": round(ended - began, 3)}


def seconds_of_help() -> float:
    began = time.time()
    subprocess.run([sys.executable, "-m", "leanlens", "--help"], check=True, capture_output=True)
    return round(time.time() - began, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["generate", "a red teapot", "--model", options.model, "--steps", str(options.steps), "--seed", "1"]
        words += ["--size", f"{options.size}x{options.size}", "-o", str(folder / "picture.png")]
        runs = [run_once(words, folder) for _ in range(options.repeat)]
    found = {
        "benchmark": "leanlens generate in a new process, and leanlens --help",
        "command": " ".join(["python", "benchmarks/startup.py", *sys.argv[1:]]),
        "machine": machine | {"load_after": round(os.getloadavg()[0], 2)},
        "best": min(runs, key=lambda run: run["total"]),
        "runs": runs,
        "help_s": min(seconds_of_help() for _ in range(options.repeat)),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
