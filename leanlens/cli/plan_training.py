"""The plan of a training run: its recipe as plain numbers, and the answer as JSON values."""

import shlex
from pathlib import Path
from typing import Any

from leanlens.cli.plan_answer import gigabytes


def plan_run(
    what: str, recipe: Path | None, changes: list[str], device: Any, count: int, price: float | None
) -> dict[str, Any]:
    """The plan of a training run as plain JSON values.

    Raises:
        ValueError: a recipe that cannot be read, is of another kind, or does not go with the number of devices.
    """
    from leanlens.config import find_recipe
    from leanlens.plan.training import plan_training

    if recipe is None:
        raise ValueError(
            f"plan {what} needs a recipe; give the path of a TOML file, or a name: leanlens train lists them"
        )
    named, recipe = recipe, find_recipe(recipe)
    wanted, run = read_run(what, recipe, changes, device, count)
    made = plan_training(run, device, count, price)
    start = f"torchrun --nproc-per-node {count} -m leanlens" if count > 1 else "leanlens"
    words = shlex.join(["train", str(named), *(word for change in changes for word in ("--set", change))])
    return {
        "machine": f"{count} x {device.name}",
        "fits": made.fits,
        "peak_vram_gb": gigabytes(made.peak),
        "vram_limit_gb": gigabytes(made.limit),
        "stages": {
            "state_gb": gigabytes(made.state),
            "text encoder and autoencoder_gb": gigabytes(made.frozen),
            "activations_gb": gigabytes(made.activations),
        },
        "largest_batch": {str(base): pictures for base, pictures in made.largest.items()},
        "seconds_per_step": made.step_seconds and float(f"{made.step_seconds:.3g}"),
        "hours": made.hours and float(f"{made.hours:.3g}"),
        "utilisation": made.utilisation and float(f"{made.utilisation:.2g}"),
        "images": made.images,
        "flops": made.flops,
        "kilowatt_hours": made.kilowatt_hours and float(f"{made.kilowatt_hours:.3g}"),
        "money": made.money and float(f"{made.money:.3g}"),
        "settings": {"precision": wanted.train.precision, "checkpointing": wanted.train.checkpointing},
        "command": f"{start} {words}" if made.fits else None,
    }


def read_run(what: str, path: Path, changes: list[str], device: Any, count: int) -> tuple[Any, Any]:
    """A recipe, and the same as plain numbers for `count` of `device`."""
    from dataclasses import replace

    from leanlens.config import read_recipe
    from leanlens.plan.memory import AutoencoderSizes, EncoderSizes, ModelSizes, part_bytes
    from leanlens.plan.training import TrainingRun
    from leanlens.presets import is_made
    from leanlens.train.config import TrainRecipe, kind_of_recipe
    from leanlens.train.memory_check import recipe_micro_batches, recipe_parameters, recipe_state_bytes
    from leanlens.weights.sizes import model_sizes

    if (kind := kind_of_recipe(path)) != "denoiser":
        trained = {"autoencoder": "an autoencoder", "language": "a language model"}[kind]
        raise ValueError(f"recipe {path} trains {trained}; a denoiser's recipe can be planned")
    recipe = read_recipe(TrainRecipe, path, changes)
    if what == "finetune" and recipe.init.start is None:
        raise ValueError(
            f"recipe {path} starts from random weights; plan train, or set init.from to what is fine-tuned"
        )
    part = recipe.model
    released = ModelSizes(part.sizes, recipe_parameters(recipe), part.num_attention_heads)
    if is_made(part.parts):
        tiny = EncoderSizes(150_000, 0, 60_000, 20_000, 4, 48, 4, 64, 4)
        model, packed = (
            replace(released, encoder=tiny, autoencoder=AutoencoderSizes(300_000, (16, 16, 32, 32), 1)),
            False,
        )
    elif Path(part.parts).is_dir():
        found, packed = model_sizes(part.parts)
        model = replace(released, encoder=found.encoder, autoencoder=found.autoencoder)
    else:
        model, packed = released, True
    # The loop opens the frozen parts in float32; experts stay packed where there are kernels for them.
    kernels = device.kind == "nvidia" and device.capability >= 7.5
    weights = part_bytes(model, "float32", packed and kernels)
    return recipe, TrainingRun(
        model,
        recipe_micro_batches(recipe, count),
        recipe.train.steps,
        recipe.train.micro_batches,
        recipe.train.precision,
        recipe_state_bytes(recipe, count),
        weights["text_encoder"] + weights["vae"],
        max(1, recipe.train.micro_batches // count) if recipe.train.pack else 1,
        recipe.data.cache is not None,
        recipe.train.checkpointing,
        recipe.train.compile,
    )
