"""Measures the speed-up of the approximate modes and how much they change the images.

It prints one JSON object: the speed-up of each mode over the exact one, and the peak signal-to-noise ratio (dB) of its
images against the exact ones, over all images and for the worst; higher is closer. All modes use the same prompts and
seeds, in turns; the faster half of the times counts.

    python benchmarks/prices.py [--model nano] [--size 256] [--steps 20] [--pictures 8] [--threads N]
"""

import argparse
import json
import math
import os
import sys
import time

import numpy as np
import torch
from machine import describe_machine

from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.pipeline.speed import Speed

PROMPTS = (
    "A flat drawing of a red teapot on a plain light background.",
    "A yellow lemon to the left of a blue cup.",
    "Three green pears in a row.",
    "A rounded cartoon of an orange cat on a purple chair.",
    "A black bicycle in front of a white wall.",
    "A small pink house under a dark blue sky.",
    "Two brown owls, one above the other.",
    "A silver key and a golden bell on a wooden table.",
)
MODES = {
    "plain": Speed(),
    "guided_share 0.75": Speed(guided_share=0.75),
    "guided_share 0.5": Speed(guided_share=0.5),
    "cache first-block:0.05": Speed(cache="first-block:0.05"),
    "cache first-block:0.1": Speed(cache="first-block:0.1"),
    "cache taylor:2": Speed(cache="taylor:2"),
    "cache taylor-lite:2": Speed(cache="taylor-lite:2"),
    "guided_share 0.75, cache taylor:2": Speed(guided_share=0.75, cache="taylor:2"),
}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB, of uint8 values; 99 where nothing differs."""
    error = float(np.square(one.astype(float) - other).mean())
    return 99.0 if error == 0 else round(10 * math.log10(255**2 / error), 1)


def drawn(opened: OpenedModel, request: ImageRequest) -> tuple[np.ndarray, float]:
    """A picture and the seconds it took, its text encoded before."""
    opened.features(request)
    began = time.perf_counter()
    picture = draw(opened, request).image
    return np.asarray(picture), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    machine = describe_machine()
    models = {name: open_model(options.model, speed=speed) for name, speed in MODES.items()}
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in MODES}
    taken: dict[str, list[float]] = {name: [] for name in MODES}
    for index in range(options.pictures):
        request = ImageRequest.checked(
            prompt=PROMPTS[index % len(PROMPTS)], width=options.size, height=options.size, seed=index,
            num_inference_steps=options.steps, guidance_scale=5.0,
        )  # fmt: skip
        for name, opened in models.items():
            picture, seconds = drawn(opened, request)
            pictures[name].append(picture)
            taken[name].append(seconds)
    plain = sum(sorted(taken["plain"])[: (options.pictures + 1) // 2])
    found = {
        "benchmark": "modes that are faster at a price: their time and their distance from the plain picture",
        "command": " ".join(["python", "benchmarks/prices.py", *sys.argv[1:]]),
        "machine": machine | {"load_after": round(os.getloadavg()[0], 2)},
        "request": {"model": options.model, "size": options.size, "steps": options.steps, "guidance": 5.0},
        "modes": {
            name: {
                "times_as_fast": round(plain / sum(sorted(taken[name])[: (options.pictures + 1) // 2]), 2),
                "psnr_db": psnr(np.stack(pictures[name]), np.stack(pictures["plain"])),
                "worst_psnr_db": min(
                    psnr(one, other) for one, other in zip(pictures[name], pictures["plain"], strict=True)
                ),
            }
            for name in MODES
        },
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
