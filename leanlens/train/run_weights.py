"""Reads the weights of a denoiser's run: the initial ones, and those of its latest checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from leanlens.config import checked
from leanlens.files import read_json
from leanlens.hub import locate
from leanlens.log import logger
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.train.checkpoint import CHECKPOINTS, intact_checkpoint, latest_checkpoint, load_tensors, read_facts
from leanlens.train.config import Init, TrainRecipe, kind_of_tables
from leanlens.train.denoiser_model import build_denoiser, freeze_unread
from leanlens.train.resume import named
from leanlens.train.snapshots import rebuilt
from leanlens.train.state import Progress, trained_weights
from leanlens.weights.layouts import identify
from leanlens.weights.load import open_transformer


def is_run(folder: Path) -> bool:
    """Whether `folder` is the folder of a run with at least one complete checkpoint."""
    return (folder / "recipe.json").is_file() and latest_checkpoint(folder / CHECKPOINTS) is not None


def run_recipe(run: Path) -> TrainRecipe:
    """The recipe that a run was started with.

    Raises:
        ValueError: `run` is not the folder of a run.
    """
    if not is_run(run):
        raise ValueError(f"{run} is not the folder of a run with a checkpoint; give the run.dir of `leanlens train`")
    values = read_json(run / "recipe.json", finite=False)
    if (kind := kind_of_tables(values)) != "denoiser":
        raise ValueError(f"{run} is the run of a recipe with [{kind}], whose export is in {run / 'export'}")
    return checked(TrainRecipe, values, stored=True)


def load_start(denoiser: LensTransformer2DModel, init: Init) -> None:
    """Overwrite the weights with those that `init.from` names.

    Raises:
        ValueError: no such run or model, or one of other sizes.
    """
    if init.start is None:
        return
    if init.std is not None and not is_run(Path(init.start)):
        raise ValueError(f"invalid init.std {init.std:g}: init.from {init.start!r} is not the folder of a run")
    with named("init.from"):
        weights = start_weights(init.start, init.std)
    own = denoiser.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name].shape != weights[name].shape]
    if wrong:
        raise ValueError(
            f"init.from {init.start!r} has other sizes than [model]: {wrong[0]} and {len(wrong) - 1} more differ"
        )
    denoiser.load_state_dict(weights)


def start_weights(start: str, std: float | None = None) -> dict[str, Tensor]:
    """The weights of a denoiser in float32, by name.

    Args:
        start: a run folder, a pipeline folder, a weight file or a preset.
        std: with a run folder, the relative width of the average.

    Raises:
        ValueError: no such run or model.
    """
    if is_run(Path(start)):
        return run_weights(Path(start), std)
    layout = identify(locate(start))
    path = layout.parts["transformer"].path if layout.component == "pipeline" else layout.path
    return open_transformer(path, torch.float32).state_dict()


def run_weights(run: Path, std: float | None = None) -> dict[str, Tensor]:
    """The denoiser's weights after a run's latest checkpoint, averaged with relative width `std`, on the CPU."""
    recipe = run_recipe(run)
    std = recipe.ema.export if std is None else std
    checkpoint = intact_checkpoint(run / CHECKPOINTS)
    assert checkpoint is not None
    tracked = recipe.ema.stds
    trained = _trained(recipe)
    last = {name: torch.empty(weight.shape) for name, weight in trained.items()}
    averages = {f"{one:g}": {name: torch.empty_like(value) for name, value in last.items()} for one in tracked}
    load_tensors(checkpoint, {"model": last, "averages": averages})
    if std == 0:
        found = last
    elif std in tracked:
        found = averages[f"{std:g}"]
    else:
        progress = Progress.of_facts(read_facts(checkpoint)["progress"])
        found = rebuilt(run, std, averages, tracked, progress.samples)
    return whole_denoiser(recipe, found).state_dict()


def whole_denoiser(recipe: TrainRecipe, trained: Mapping[str, Tensor]) -> LensTransformer2DModel:
    """The denoiser with the `trained` weights, and the initial values of all others.

    No output depends on the others, so a start that no longer exists is only a warning.
    """
    denoiser = build_denoiser(recipe.model, recipe.run.seed)
    try:
        load_start(denoiser, recipe.init)
    except (ValueError, OSError) as error:
        logger.warning("%s; weights that no output depends on stay random", error)
    denoiser.load_state_dict({**denoiser.state_dict(), **trained})
    return denoiser


def _trained(recipe: TrainRecipe) -> dict[str, nn.Parameter]:
    model = build_denoiser(recipe.model, 0, device="meta")
    freeze_unread(model)
    return trained_weights(model)
