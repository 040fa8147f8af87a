"""One process of a group: trains the tiny run for a few steps and leaves its checkpoint. Started by the tests.

python -m tests.invariants.worker FOLDER STEPS [section.key=value ...]
"""

import json
import logging
import sys
from pathlib import Path

import torch

from leanlens import dist
from leanlens.train.denoiser import train_denoiser
from tests.train.tiny import tiny_data, tiny_recipe


def main(jobs: list[dict]) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    group = dist.join("cpu")
    for job in jobs:
        recipe = tiny_recipe(Path(job["folder"]), **job["tables"])
        train_denoiser(recipe, group, None if recipe.data.resident else tiny_data(recipe, group))
    dist.leave()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
