"""From a run to a pipeline folder.

Comes in: a run's folder, or the state of a run in progress. Goes out: a folder that `LensPipeline.from_pretrained`
opens, with averaged weights of any length, and the snapshots from which lengths are chosen afterwards.

Files: `run/ema/step-00001000-0.05.safetensors`, one for each snapshot and tracked width, float32, with the number of
pictures seen in its metadata.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from leanlens.config import checked
from leanlens.files import read_json, sync, whole_file, whole_folder
from leanlens.hub import locate
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.scenes.icons import PARTS
from leanlens.train.best_effort import best_effort
from leanlens.train.checkpoint import intact_checkpoint, latest_checkpoint, load_tensors, read_facts
from leanlens.train.config import WIDEST, TrainRecipe
from leanlens.train.denoiser_model import build_denoiser
from leanlens.train.ema import Averages, mixture
from leanlens.train.frozen_models import open_frozen_models


def require_width(std: float | None) -> None:
    """Check the relative width of an average; None stands for the recipe's.

    Raises:
        ValueError: there is no average of this width.
    """
    if std is not None and not 0 <= std < WIDEST:
        raise ValueError(f"std {std:g} is not accepted; give a width from 0 (the last weights) to below {WIDEST:g}")


def is_run(folder: Path) -> bool:
    """Whether `folder` is that of a run with at least one whole checkpoint."""
    return (folder / "recipe.json").is_file() and latest_checkpoint(folder / "checkpoints") is not None


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
    """The frozen parts and `denoiser` as one folder, whole or not there.

    The parts' own files are linked or copied as they are. Where a picture's size is not asked for, it will be drawn at
    the largest resolution that was trained.
    """
    side = max(bucket.base for bucket in recipe.data.buckets)
    denoiser.eval()
    with whole_folder(output) as temporary:
        if recipe.model.parts == "toy":
            open_frozen_models(recipe.model, denoiser).save_pretrained(temporary)
        else:
            source = locate(recipe.model.parts)
            others = shutil.ignore_patterns("transformer", ".*")
            shutil.copytree(source, temporary, ignore=others, copy_function=_link_or_copy, dirs_exist_ok=True)
            denoiser.save_pretrained(temporary / "transformer")
        _change_json(temporary / "vae" / "config.json", sample_size=side)
        _change_json(temporary / "model_index.json", caption_style=caption_style(recipe))


def caption_style(recipe: TrainRecipe) -> str | None:
    """The captions that a run learnt from, by the name that its folder states, so that prompts are rewritten into them.

    Only those of scenes have one; whoever trains on captions of their own is asked as they caption.
    """
    scenes = recipe.data.scenes
    return f"scenes/{scenes.sources}" if scenes is not None and scenes.sources in PARTS else None


def _change_json(path: Path, **changes: Any) -> None:
    """Change values of a file of JSON, or with None take them out. A new file: the old one may be the parts' own."""
    before = read_json(path)
    values = {**before, **changes}
    values = {name: value for name, value in values.items() if name not in changes or value is not None}
    if values == before:
        return
    with whole_file(path) as fresh:
        fresh.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def replace_pipeline(recipe: TrainRecipe, denoiser: LensTransformer2DModel, output: Path) -> None:
    """`write_pipeline` where an older export may lie, which goes only when the new one is whole."""
    fresh, old = output.with_name(f".{output.name}-new"), output.with_name(f".{output.name}-old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write_pipeline(recipe, denoiser, fresh)
    if output.exists():
        os.replace(output, old)
    os.replace(fresh, output)
    sync(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def run_recipe(run: Path) -> TrainRecipe:
    """The recipe that a run was started with.

    Raises:
        ValueError: `run` is not the folder of a run.
    """
    if not is_run(run):
        raise ValueError(f"{run} is not the folder of a run with a checkpoint; give the run.dir of `leanlens train`")
    return checked(TrainRecipe, read_json(run / "recipe.json", finite=False), stored=True)


def run_weights(run: Path, std: float | None = None) -> dict[str, Tensor]:
    """The denoiser's weights after a run's latest checkpoint, averaged with relative width `std`, on the CPU."""
    recipe = run_recipe(run)
    std = recipe.ema.export if std is None else std
    checkpoint = intact_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    tracked = recipe.ema.stds
    model: dict[str, Any] = build_denoiser(recipe.model, recipe.run.seed).state_dict()
    averages = {f"{one:g}": {name: torch.empty_like(model[name]) for name in _trained(recipe)} for one in tracked}
    load_tensors(checkpoint, {"model": model, "averages": averages})
    if std == 0:
        return model
    if std in tracked:
        return {**model, **averages[f"{std:g}"]}
    return {**model, **_rebuilt(run, std, averages, tracked, read_facts(checkpoint)["progress"]["images"])}


def write_snapshots(run: Path, step: int, images: int, averages: Averages, leads: bool) -> None:
    """Store every tracked average; all processes take part, the leading one writes. A full disk is a warning."""
    for std, copy in averages.copies.items():
        whole = {name: full(weight) for name, weight in copy.items()}
        path = run / "ema" / f"step-{step:08d}-{std:g}.safetensors"
        if leads:
            with best_effort(path), whole_file(path) as temporary:
                save_file(whole, temporary, metadata={"images": str(images), "std": f"{std:g}", "step": str(step)})


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight of a model that may be sharded, on the CPU; all processes take part."""
    return {name: full(weight) for name, weight in model.state_dict().items()}


def full(weight: Tensor) -> Tensor:
    """A whole tensor on the CPU from one that may be sharded; a copy, which later training does not change."""
    weight = weight.detach()
    whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return whole.to("cpu", copy=True).contiguous()


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def _rebuilt(
    run: Path, std: float, averages: dict[str, dict[str, Tensor]], tracked: tuple[float, ...], images: int
) -> dict[str, Tensor]:
    """The average of a width that was not tracked, from every snapshot and the checkpoint's own averages."""
    stored = [((images, float(name)), copy) for name, copy in averages.items()]
    files = {}
    for path in sorted((run / "ema").glob("step-*.safetensors")):
        file = safe_open(path, "pt")
        profile = (int(file.metadata()["images"]), float(file.metadata()["std"]))
        if profile[0] < images:
            files[profile] = file
    if len(stored) + len(files) < 2:
        raise ValueError(
            f"std {std} was not tracked and there are no snapshots to rebuild it from; "
            f"this run has {', '.join(f'{one:g}' for one in tracked)}, and 0 for its last weights"
        )
    profiles = [profile for profile, _ in stored] + list(files)
    weights = mixture(profiles, (images, std))
    rebuilt = {}
    for name in stored[0][1]:
        values = [copy[name] for _, copy in stored] + [file.get_tensor(name) for file in files.values()]
        rebuilt[name] = sum(w * value.double() for w, value in zip(weights, values, strict=True)).float()
    return rebuilt


def _trained(recipe: TrainRecipe) -> list[str]:
    from leanlens.train.denoiser_model import freeze_unread

    model = build_denoiser(recipe.model, 0, device="meta")
    freeze_unread(model)
    return [name for name, weight in model.named_parameters() if weight.requires_grad]
