"""What a recipe would do, without doing it.

Comes in: a recipe. Goes out: lines to read: sizes, cost, memory, buckets. Arithmetic; nothing is built or opened.
"""

import os
from pathlib import Path
from typing import Any

from leanlens.files import read_json
from leanlens.plan.compute import DenoiserSizes, training_flops
from leanlens.train.checkpoint import latest_checkpoint
from leanlens.train.config import Model, TrainRecipe
from leanlens.train.fit import activation_bytes, denoiser_parameters, state_bytes
from leanlens.train.run import require_folder

TEXT_TOKENS = 165  # the paper's mean caption with what follows it in the template
TOY_PARTS = (32, 48, 4)  # channels of the latents, width and layers of the text encoder; see `pipeline/toy.py`


def outline(recipe: TrainRecipe) -> str:
    """The plan of a run as text, one fact on each line.

    Raises:
        ValueError: what the run would refuse: a run.dir that is a file, or sizes that are not those of the parts, where
            these are "toy" or a folder here.
    """
    require_folder(recipe.run.dir)
    recipe.model.require_parts(*parts_sizes(recipe.model))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    images = images_per_step(recipe)
    per_step = flops_per_step(recipe)
    latest = latest_checkpoint(recipe.run.dir / "checkpoints")
    optim = recipe.optim
    start = f"continue after {latest.name}" if latest else recipe.init.start or "random weights"
    rows = {
        "run": f"{recipe.run.dir}, seed {recipe.run.seed}, {start}",
        "denoiser": f"{denoiser_parameters(recipe.model):,} parameters, {recipe.model.num_layers} blocks of width "
        f"{recipe.model.width}; parts {recipe.model.parts}",
        "step": f"{recipe.train.micro_batches} micro-batch{'es' * (recipe.train.micro_batches > 1)} over "
        f"{processes} process{'es' * (processes > 1)}, about {images:.0f} images, "
        f"{per_step:.3g} FLOP with {TEXT_TOKENS} text tokens",
        "stops": f"after {recipe.train.steps} steps: {recipe.train.steps * images:.3g} images, "
        f"{recipe.train.steps * per_step:.3g} FLOP, encoders apart",
        "optimiser": f"{optim.matrices}, rate {optim.lr:g}, {optim.schedule} after {optim.warmup} warm-up steps, "
        f"clip {optim.clip:g}, decay {optim.weight_decay:g}",
        "precision": f"{recipe.train.precision}{', compiled' * recipe.train.compile}"
        f"{', recomputed blocks' * recipe.train.checkpointing}",
        "averages": f"widths {', '.join(f'{std:g}' for std in recipe.ema.stds)}; exports {recipe.ema.export:g}",
        "checkpoints": f"every {recipe.save.every} steps, the last {recipe.save.keep} and the best, "
        f"{state_bytes(recipe, 1) * (3 + len(recipe.ema.stds)) / (4 + len(recipe.ema.stds)) / 1e9:.2f} GB each",
        "memory": f"{state_bytes(recipe, processes) / 1e9:.2f} GB of state on each device",
    }
    lines = [f"{name:12} {value}" for name, value in rows.items()]
    for bucket in recipe.data.buckets:
        sizes = " ".join(f"{height}x{width}" for height, width in bucket.table)
        gigabytes = bucket.batch * activation_bytes(recipe, bucket, processes) / 1e9
        lines.append(f"{'bucket ' + str(bucket.base):12} {bucket.batch} pictures, about {gigabytes:.2f} GB: {sizes}")
    return "\n".join(lines)


def parts_sizes(model: Model) -> tuple[int | None, int | None, int | None]:
    """Channels of the latents, width and layers of the text encoder; None where finding out would mean a download."""
    if model.parts == "toy":
        return TOY_PARTS
    vae, text = (_config(Path(model.parts) / part) for part in ("vae", "text_encoder"))
    return vae.get("latent_channels"), text.get("hidden_size"), text.get("num_hidden_layers")


def _config(part: Path) -> dict[str, Any]:
    path = part / "config.json"
    return read_json(path) if path.is_file() else {}


def images_per_step(recipe: TrainRecipe) -> float:
    """Pictures in one step if every resolution is as frequent as the others."""
    buckets = recipe.data.buckets
    return recipe.train.micro_batches * sum(bucket.batch for bucket in buckets) / len(buckets)


def flops_per_step(recipe: TrainRecipe) -> float:
    """FLOP of the denoiser in one such step, forward and backward."""
    model = recipe.model
    sizes = DenoiserSizes(
        model.num_layers, model.width, 4 * model.out_channels, model.enc_hidden_dim * len(model.selected_layer_index)
    )
    costs = [bucket.batch * training_flops(sizes, bucket.base**2 // 256, TEXT_TOKENS) for bucket in recipe.data.buckets]
    return recipe.train.micro_batches * sum(costs) / len(costs)
