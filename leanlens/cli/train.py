"""`leanlens train` and `leanlens export`: a recipe to a run, and a run to a pipeline folder."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.options import Changes


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; see recipes/.")],
    changes: Changes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--no-dry-run", help="Print what the run would be, and stop.")
    ] = False,
) -> None:
    """Train a denoiser, an autoencoder or a small language model, as the recipe says, or continue a run.

    A run.dir that holds a checkpoint is continued. Several processes: torchrun --nproc-per-node 8 -m leanlens train ...
    Ctrl-C and SIGTERM save the run and end it with exit code 75; a run that is done ends with 0.
    """
    code = _one_error(lambda: _train(recipe, changes or [], dry_run))
    if code:
        raise typer.Exit(code)


def _train(recipe: Path, changes: list[str], dry_run: bool) -> int:
    """The exit code of a run."""
    from leanlens.config import read_recipe
    from leanlens.train.config import TrainRecipe, kind_of_recipe

    kind = kind_of_recipe(recipe)
    if kind != "denoiser":
        return (_train_autoencoder if kind == "autoencoder" else _train_language)(recipe, changes, dry_run)
    wanted = read_recipe(TrainRecipe, recipe, changes)
    if dry_run:
        from leanlens.train.outline import outline

        print(outline(wanted))
        return 0
    from leanlens import dist
    from leanlens.train.loop import train as run
    from leanlens.train.run import exit_code

    group = dist.join(wanted.run.device)
    try:
        progress = run(wanted, group)
        if group.leads:
            _report(wanted.run.dir, progress)
        return exit_code(progress.stopped, group.leads)
    finally:
        dist.leave()


def export(
    run: Annotated[Path, typer.Argument(help="Folder of the training run (its run.dir).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Pipeline folder to make.")],
    std: Annotated[
        float | None,
        typer.Option(help="Width of the averaged weights; 0 exports the last weights. Default: the recipe's."),
    ] = None,
) -> None:
    """Export the latest checkpoint of a run as a pipeline folder."""
    from leanlens.train.export import export_run

    export_run(run, output, std)
    print(output)


def _report(folder: Path, progress: Any) -> None:
    done = f"step {progress.step}, {progress.images} images, {progress.flops:.3g} FLOP, {progress.seconds:.0f} s"
    print(f"{folder}  {done}")


def _train_autoencoder(recipe: Path, changes: list[str], dry_run: bool) -> int:
    from leanlens.config import read_recipe
    from leanlens.train.autoencoder import AutoencoderRecipe, open_autoencoder, train_autoencoder

    wanted = read_recipe(AutoencoderRecipe, recipe, changes)
    if dry_run:
        print(f"{sum(weight.numel() for weight in open_autoencoder(wanted).parameters()):,} parameters")
        return 0
    return _report_alone(wanted, "crops", _alone("an autoencoder", wanted, train_autoencoder))


def _train_language(recipe: Path, changes: list[str], dry_run: bool) -> int:
    from leanlens.config import read_recipe
    from leanlens.train.language import LanguageRecipe, build_language, train_language

    wanted = read_recipe(LanguageRecipe, recipe, changes)
    if dry_run:
        model = build_language(wanted, wanted.language.vocabulary)
        print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")
        return 0
    return _report_alone(wanted, "captions", _alone("a language model", wanted, train_language))


def _alone(what: str, recipe: Any, train: Callable[[Any, Any], Any]) -> Any:
    """The progress of a run that is one process's."""
    from leanlens import dist

    group = dist.join(recipe.run.device)
    try:
        if group.world_size > 1:
            raise ValueError(f"{what} is trained by one process, not {group.world_size}; run without torchrun")
        return train(recipe, group.device)
    finally:
        dist.leave()


def _report_alone(recipe: Any, samples: str, progress: Any) -> int:
    from leanlens.train.run import exit_code

    print(f"{recipe.run.dir}  step {progress.step}, {progress.samples} {samples}, {progress.seconds:.0f} s")
    return exit_code(progress.stopped)


def _one_error(act: Callable[[], int]) -> int:
    """What `act` returns. Of several processes that fail only the first raises its error; the others say nothing."""
    from leanlens.dist import is_first_to_fail, leave
    from leanlens.train.run import Interrupted, exit_code

    try:
        return act()
    except Interrupted:
        print("stopped before the first step; there was nothing to save", file=sys.stderr)
        return exit_code(True)
    except KeyboardInterrupt:
        print("stopped at once; what came after the last save is lost", file=sys.stderr, flush=True)
        os._exit(130)  # not after a checkpoint that is being written
    except Exception:
        if is_first_to_fail():
            raise
        return 2
    finally:
        leave()
