"""Exports a denoiser's run as a pipeline folder, which `LensPipeline.from_pretrained` opens."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from leanlens.files import read_json, replaced_folder, whole_file, whole_folder
from leanlens.hub import model_folder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.scenes.icons import PARTS
from leanlens.train.config import WIDEST, TrainRecipe
from leanlens.train.denoiser_model import build_denoiser
from leanlens.train.frozen_models import open_frozen_models
from leanlens.train.run_weights import run_recipe, run_weights


def require_width(std: float | None) -> None:
    """Check the relative width of an average; None stands for the recipe's.

    Raises:
        ValueError: there is no average of this width.
    """
    if std is not None and not 0 <= std < WIDEST:
        raise ValueError(f"invalid std {std:g}: expected a width from 0 (the last weights) to below {WIDEST:g}")


def export_run(run: Path, output: Path, std: float | None = None) -> LensTransformer2DModel:
    """Write the pipeline folder of a run's latest checkpoint to `output`.

    Args:
        run: the run's folder.
        output: a path that does not exist, or an empty folder.
        std: relative width of the average; 0 is the last weights, None the recipe's `ema.export`. Widths that were not
            tracked are rebuilt from snapshots.

    Raises:
        ValueError: no run, no checkpoint, an occupied `output`, or a width that no snapshots can give.
    """
    require_width(std)
    recipe = run_recipe(run)
    denoiser = build_denoiser(recipe.model, recipe.run.seed)
    denoiser.load_state_dict(run_weights(run, std))
    write_pipeline(recipe, denoiser, output)
    return denoiser


def write_pipeline(recipe: TrainRecipe, denoiser: LensTransformer2DModel, output: Path) -> None:
    """Write the frozen models and `denoiser` as one new folder, completely or not at all."""
    with whole_folder(output) as temporary:
        _fill(temporary, recipe, denoiser)


def replace_pipeline(recipe: TrainRecipe, denoiser: LensTransformer2DModel, output: Path) -> None:
    """`write_pipeline`, which replaces an older export once the new one is complete."""
    with replaced_folder(output) as temporary:
        _fill(temporary, recipe, denoiser)


def _fill(folder: Path, recipe: TrainRecipe, denoiser: LensTransformer2DModel) -> None:
    """Link or copy the files of the frozen models. The default image size becomes the largest resolution of the
    training data."""
    side = max(bucket.base for bucket in recipe.data.buckets)
    denoiser.eval()
    source = model_folder(recipe.model.parts)
    if source is None:
        open_frozen_models(recipe.model, denoiser).save_pretrained(folder)
    else:
        others = shutil.ignore_patterns("transformer", ".*")
        shutil.copytree(source, folder, ignore=others, copy_function=_link_or_copy, dirs_exist_ok=True)
        denoiser.save_pretrained(folder / "transformer")
    _change_json(folder / "vae" / "config.json", sample_size=side)
    _change_json(folder / "model_index.json", caption_style=caption_style(recipe))


def caption_style(recipe: TrainRecipe) -> str | None:
    """Name of the captions that a run was trained on, into which prompts are rewritten; None without a name.

    Only the captions of scenes have one.
    """
    scenes = recipe.data.scenes
    return f"scenes/{scenes.sources}" if scenes is not None and scenes.sources in PARTS else None


def _change_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file; None removes one. Writes a new file: the old one may be linked from the parts."""
    before = read_json(path)
    values = {**before, **changes}
    values = {name: value for name, value in values.items() if name not in changes or value is not None}
    if values == before:
        return
    with whole_file(path) as fresh:
        fresh.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
