"""Measures the speed of generating training data: scenes rendered, captioned, encoded and written to shards.

It prints one JSON object. Rates are for whole builds, including the start of the workers; stages run one after the
other in a single process. Each part is a function below; `--part` runs one.

    python benchmarks/data.py [--part scenes] [--num N] [--workers N] [--sources full|sample]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from machine import describe_machine

from leanlens.scenes.build import build, make_picture
from leanlens.scenes.describe import brief, dense
from leanlens.scenes.icons import Library, library
from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene

SCENE_GOALS = {"jpg": 300, "png": 150, "webp": 150}  # pictures a second of 256 px on two cores; lossless is either


def measure_scenes(options: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second of whole builds, and milliseconds of each stage."""
    shelf = library(options.sources)
    rates = {}
    for encoding, goal in SCENE_GOALS.items():
        with tempfile.TemporaryDirectory() as folder:
            start, spent = time.perf_counter(), cpu_seconds()
            manifest = build(
                Path(folder) / "out", options.num, encoding=encoding, sources=str(shelf.folder),
                workers=options.workers, per_shard=max(1, options.num // (4 * options.workers)),
            )  # fmt: skip
            seconds, spent = time.perf_counter() - start, cpu_seconds() - spent
        size = sum(row["bytes"] for row in manifest["shards"]) / options.num
        rates[encoding] = {
            "pictures_per_s": round(options.num / seconds, 1),
            "goal": goal,
            "cpu_ms_per_picture": round(1000 * spent / options.num, 2),
            "bytes_per_picture": round(size),
        }
    return {
        "library": {"styles": len(shelf.styles), "concepts": len(shelf.concepts), "fingerprint": shelf.fingerprint},
        "pictures": options.num,
        "workers": options.workers,
        "builds": rates,
        "stages_ms": time_stages(shelf, min(options.num, 1000)),
    }


def cpu_seconds() -> float:
    """CPU time of this process and the workers it waited for; a busy machine changes it less than a rate."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def time_stages(shelf: Library, num: int) -> dict[str, float]:
    """Milliseconds per picture of each stage; sprites not seen before are drawn in `render` or `sample`."""
    seeds = range(10**6, 10**6 + num)
    start = time.perf_counter()
    scenes = [sample_scene(seed, shelf, "train") for seed in seeds]
    sampled = time.perf_counter()
    for scene in scenes:
        rng = Random(scene.seed)
        brief(scene, rng), dense(scene, rng)
    described = time.perf_counter()
    for scene in scenes:
        render(scene, shelf)
    rendered = time.perf_counter()
    stages = {"sample": sampled - start, "describe": described - sampled, "render": rendered - described}
    for encoding in SCENE_GOALS:
        start = time.perf_counter()
        for scene in scenes[:200]:
            make_picture(scene, shelf, encoding)
        stages[f"render again and encode {encoding}"] = (time.perf_counter() - start) * num / len(scenes[:200])
    return {name: round(1000 * seconds / num, 3) for name, seconds in stages.items()}


PARTS = {"scenes": measure_scenes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one part only; without it all of them")
    parser.add_argument("--num", type=int, default=4000, help="pictures of each build")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--sources", help="full, sample or a folder; without it full if fetched, else the sample")
    options = parser.parse_args()
    for name in ("num", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)} is not accepted; give 1 or more")
    parts = {name: part for name, part in PARTS.items() if options.part in (None, name)}
    report = {"command": " ".join(["python", "benchmarks/data.py", *sys.argv[1:]]), "machine": describe_machine()}
    print(json.dumps({**report, **{name: part(options) for name, part in parts.items()}}, indent=2))


if __name__ == "__main__":
    main()
