"""Opens and checks everything that a run needs before its first step, and writes nothing.

Of synthetic scenes it draws one, in memory.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from leanlens.batches.survey import large_batches, survey, survey_lines
from leanlens.dist import Group
from leanlens.files import read_json
from leanlens.plan.compute import MEAN_TEXT_TOKENS
from leanlens.plan.training import checkpoint_bytes, flops_per_step, images_per_step
from leanlens.presets import is_made
from leanlens.train.autoencoder import open_autoencoder
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.autoencoder_losses import LossNetworks
from leanlens.train.checkpoint import CHECKPOINTS, is_begun, latest_checkpoint
from leanlens.train.config import Model, Scenes, TrainRecipe
from leanlens.train.crops import pictures_of_sources
from leanlens.train.data import open_held_out, open_sources, training_stream
from leanlens.train.denoiser import open_models, require_startable
from leanlens.train.language import build_language, places_of
from leanlens.train.language_config import LanguageRecipe
from leanlens.train.lock import require_folder, require_free
from leanlens.train.memory_check import recipe_micro_batches, recipe_parameters, recipe_state_bytes
from leanlens.train.resume import require_same_run
from leanlens.train.scenes import canvas_of, rules_of

TOY_SIZES = (32, 48, 4)  # channels of the latents, width and layers of the text encoder; see `pipeline/toy.py`


def dry_run(recipe: TrainRecipe, group: Group) -> Iterator[str]:
    """Open everything that a denoiser's run needs, and yield lines about its plan and its data.

    Raises:
        ValueError: anything that training would refuse, after the lines before it.
    """
    yield summary(recipe)
    _require_place(recipe)
    require_startable(recipe, group)
    data = recipe.data
    if data.scenes is not None:
        yield _try_scene(data.scenes, recipe)
    else:
        yield from _surveyed(recipe, group)
    open_models(recipe, is_begun(recipe.run.dir))
    yield f"{'device':12} {group.device}; frozen models and weights can be opened"


def summary(recipe: TrainRecipe) -> str:
    """The plan of a run as text, one fact on each line.

    Raises:
        ValueError: a run.dir that is a file, or sizes that do not fit the frozen models, if these are "toy" or a local
            folder.
    """
    require_folder(recipe.run.dir)
    recipe.model.require_frozen_sizes(*frozen_sizes(recipe.model))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    batches, parameters = recipe_micro_batches(recipe, processes), recipe_parameters(recipe)
    images = images_per_step(recipe.train.micro_batches, batches)
    per_step = flops_per_step(recipe.model.sizes, recipe.train.micro_batches, batches)
    latest = latest_checkpoint(recipe.run.dir / CHECKPOINTS)
    optim = recipe.optim
    start = f"continue after {latest.name}" if latest else recipe.init.start or "random weights"
    rows = {
        "run": f"{recipe.run.dir}, seed {recipe.run.seed}, {start}",
        "denoiser": f"{parameters:,} parameters, {recipe.model.num_layers} blocks of width "
        f"{recipe.model.width}; parts {recipe.model.parts}",
        "step": f"{recipe.train.micro_batches} micro-batch{'es' * (recipe.train.micro_batches > 1)} over "
        f"{processes} process{'es' * (processes > 1)}, about {images:.0f} images, "
        f"{per_step:.3g} FLOP with {MEAN_TEXT_TOKENS} text tokens",
        "stops": f"after {recipe.train.steps} steps: {recipe.train.steps * images:.3g} images, "
        f"{recipe.train.steps * per_step:.3g} FLOP, encoders apart",
        "optimiser": f"{optim.matrices}, rate {optim.lr:g}, {optim.schedule} after {optim.warmup} warm-up steps, "
        f"clip {optim.clip:g}, decay {optim.weight_decay:g}",
        "precision": f"{recipe.train.precision}{', compiled' * recipe.train.compile}"
        f"{', recomputed blocks' * recipe.train.checkpointing}",
        "averages": f"widths {', '.join(f'{std:g}' for std in recipe.ema.stds)}; exports {recipe.ema.export:g}",
        "checkpoints": f"every {recipe.save.every} steps, the last {recipe.save.keep} and the best, "
        f"{checkpoint_bytes(parameters, len(recipe.ema.stds)) / 1e9:.2f} GB each",
        "memory": f"{recipe_state_bytes(recipe, processes) / 1e9:.2f} GB of state on each device",
    }
    lines = [f"{name:12} {value}" for name, value in rows.items()]
    for bucket, batch in zip(recipe.data.buckets, batches, strict=True):
        sizes = " ".join(f"{height}x{width}" for height, width in bucket.table)
        gigabytes = batch.pictures * batch.activations / 1e9
        lines.append(f"{'bucket ' + str(bucket.base):12} {bucket.batch} pictures, about {gigabytes:.2f} GB: {sizes}")
    return "\n".join(lines)


def frozen_sizes(model: Model) -> tuple[int | None, int | None, int | None]:
    """Channels of the latents, width and layers of the text encoder; None if they would have to be downloaded."""
    if is_made(model.parts):
        return TOY_SIZES
    vae, text = (_config(Path(model.parts) / part) for part in ("vae", "text_encoder"))
    return vae.get("latent_channels"), text.get("hidden_size"), text.get("num_hidden_layers")


def _config(part: Path) -> dict[str, Any]:
    path = part / "config.json"
    return read_json(path) if path.is_file() else {}


def _surveyed(recipe: TrainRecipe, group: Group) -> Iterator[str]:
    """Lines about the content of the sources; opens the stream as training does."""
    data = recipe.data
    sources = open_sources("data.sources", data.sources)
    lenient = recipe
    if data.missing_caption == "error":  # count all pictures before refusing
        lenient = recipe.model_copy(update={"data": data.model_copy(update={"missing_caption": "skip"})})
    refused = False
    try:
        stream = training_stream(lenient, sources, group)
        yield from survey_lines(survey(stream), stream.batch_sizes)
        yield from (f"{'note':12} {sentence}" for sentence in large_batches(stream, recipe.train.micro_batches))
        refused = lenient is not recipe and bool(stream.uncaptioned)
    except ValueError:
        refused = True
    if refused:
        training_stream(recipe, sources, group)  # raises the reason; without one it would only repeat its warnings
    if recipe.validate_.every and data.validation:
        held_out = open_held_out(recipe, data.validation)
        yield f"{'held out':12} {len(held_out)} pictures"


def _try_scene(scenes: Scenes, recipe: TrainRecipe) -> str:
    from leanlens.scenes.build import make_picture
    from leanlens.scenes.draw import SEED_STEP
    from leanlens.scenes.icons import library
    from leanlens.scenes.scene import sample_scene

    shelf = library(scenes.sources)
    scene = sample_scene(scenes.seed * SEED_STEP, shelf, "train", canvas_of(scenes, recipe), rules_of(scenes))
    make_picture(scene, shelf, "jpg")
    return f"{'scenes':12} {scenes.num} to train on and {scenes.validation} held out, drawn when the run starts"


def dry_run_autoencoder(recipe: AutoencoderRecipe, group: Group) -> Iterator[str]:
    """`dry_run` for an autoencoder."""
    _require_place(recipe)
    if recipe.crops.scenes is None:
        pictures_of_sources(recipe)
    LossNetworks(recipe, group.device)
    weights = sum(weight.numel() for weight in open_autoencoder(recipe).parameters())
    yield f"{'autoencoder':12} {weights:,} parameters"
    if scenes := recipe.crops.scenes:
        from leanlens.scenes.icons import library

        yield f"{'scenes':12} {scenes.num} of {library(scenes.sources).folder}, drawn when the run starts"
    yield from _sources_lines("crops.sources", recipe.crops.sources)
    yield from _sources_lines("crops.validation", recipe.crops.validation)
    yield _stops(recipe, recipe.crops.pictures * recipe.crops.crops, "crops")


def dry_run_language(recipe: LanguageRecipe, group: Group) -> Iterator[str]:
    """`dry_run` for a language model."""
    _require_place(recipe)
    places = places_of(recipe)
    weights = sum(weight.numel() for weight in build_language(recipe, recipe.language.vocabulary).parameters())
    yield f"{'language':12} {weights:,} parameters"
    yield from _sources_lines("captions.sources", recipe.captions.sources)
    source, number, kinds = places[Random(0).randrange(len(places))]
    yield f"{'captions':12} {len(places)} pictures with one, such as {source.captions(number)[kinds[0]][:80]!r}"
    yield _stops(recipe, recipe.captions.batch, "captions")


def _require_place(recipe: Any) -> None:
    """The checks of the run's folder; leaves no trace in it."""
    require_folder(recipe.run.dir)
    require_free(recipe.run.dir)
    if is_begun(recipe.run.dir):
        require_same_run(recipe)


def _sources_lines(key: str, paths: tuple[str, ...]) -> Iterator[str]:
    for source in open_sources(key, paths):
        skipped = "; ".join(f"{name}: {why}" for name, why in list(source.skipped.items())[:5])
        left = f", {len(source.skipped)} skipped ({skipped})" if skipped else ""
        yield f"{'pictures':12} {len(source.index())} in {source.name}{left}"


def _stops(recipe: Any, samples: int, unit: str) -> str:
    minutes = "" if recipe.train.minutes is None else f" or {recipe.train.minutes:g} minutes"
    return f"{'stops':12} after {recipe.train.steps} steps of {samples} {unit}{minutes}"
