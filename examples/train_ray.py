"""Train on a Ray cluster: python examples/train_ray.py recipes/examples/smoke.toml 2 [a.b=c ...]

Ray places the processes and restarts them where a machine fails; each then continues the run from its last checkpoint.
`run.dir` must lie where every machine sees it.
"""

import sys
from pathlib import Path

from leanlens import dist
from leanlens.config import read_recipe
from leanlens.train.config import TrainRecipe
from leanlens.train.denoiser import train_denoiser


def work(config: dict) -> None:
    """One process; Ray has set the variables that `dist.join` reads, and made the group."""
    recipe = read_recipe(TrainRecipe, config["recipe"], config["changes"])
    train_denoiser(recipe, dist.join(recipe.run.device))


def main() -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    recipe, processes, *changes = sys.argv[1:]
    config = {"recipe": str(Path(recipe).resolve()), "changes": changes}
    on_gpu = read_recipe(TrainRecipe, recipe, changes).run.device != "cpu"
    TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=int(processes), use_gpu=on_gpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    ).fit()


if __name__ == "__main__":
    main()
