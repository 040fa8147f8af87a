"""Implements `leanlens train`, which trains a recipe, and `leanlens export`, which writes a run's pipeline folder."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.options import Changes


def train(
    recipe: Annotated[
        Path | None, typer.Argument(help="A TOML recipe, or the name of one. Default: list the names.")
    ] = None,
    changes: Changes = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run/--no-dry-run", help="Open and check everything, print the plan of the run, and stop."),
    ] = False,
) -> None:
    """Train a denoiser, an autoencoder or a small language model, from a recipe, or continue a run.

    A run.dir that holds a checkpoint is continued. Several processes: torchrun --nproc-per-node 8 -m leanlens train ...
    Ctrl-C and SIGTERM save the run and end it with exit code 75; a finished run ends with 0.
    """
    if recipe is None:
        print(_listed())
        return
    code = _one_error(lambda: _train(recipe, changes or [], dry_run))
    if code:
        raise typer.Exit(code)


def _train(recipe: Path, changes: list[str], dry_run: bool) -> int:
    """The exit code of a run."""
    from leanlens.config import find_recipe, read_recipe
    from leanlens.train.config import TrainRecipe, kind_of_recipe

    recipe = find_recipe(recipe)
    kind = kind_of_recipe(recipe)
    if kind != "denoiser":
        return (_train_autoencoder if kind == "autoencoder" else _train_language)(recipe, changes, dry_run)
    wanted = read_recipe(TrainRecipe, recipe, changes)
    from leanlens import dist

    group = dist.join(wanted.run.device)
    if dry_run:
        from leanlens.train.dry_run import dry_run as rehearse

        return _print_lines(rehearse(wanted, group), group)
    from leanlens.train.denoiser import train_denoiser
    from leanlens.train.signals import exit_code

    progress = train_denoiser(wanted, group)
    if group.leads:
        _report(wanted.run.dir, progress)
    return exit_code(progress.stopped, group.leads)


def _print_lines(lines: Iterator[str], group: Any) -> int:
    """Print each line as soon as it is known, on the leading process only; an error comes after the lines before it."""
    for line in lines:
        if group.leads:
            print(line, flush=True)
    return 0


def _listed() -> str:
    """The recipes by name, each with the first sentence of its file."""
    from leanlens.config import recipe_names

    rows = ["Recipes (leanlens train NAME, or the path of your own):"]
    for name, path in recipe_names().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        rows.append(f"  {name:22} {first.partition('. ')[0]}")
    return "\n".join(rows)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of the training run (its run.dir).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Pipeline folder to make.")],
    std: Annotated[
        float | None,
        typer.Option(help="Relative width of the averaged weights; 0 exports the last weights. Default: the recipe's."),
    ] = None,
) -> None:
    """Export the latest checkpoint of a run as a pipeline folder."""
    from leanlens.train.export import export_run

    export_run(run, output, std)
    print(output)


def _report(folder: Path, progress: Any) -> None:
    done = f"step {progress.step}, {progress.samples} images, {progress.flops:.3g} FLOP, {progress.seconds:.0f} s"
    print(f"{folder}  {done}")


def _train_autoencoder(recipe: Path, changes: list[str], dry_run: bool) -> int:
    from leanlens.config import read_recipe
    from leanlens.train.autoencoder import train_autoencoder
    from leanlens.train.autoencoder_config import AutoencoderRecipe

    wanted = read_recipe(AutoencoderRecipe, recipe, changes)
    group = _join_alone("an autoencoder", wanted)
    if dry_run:
        from leanlens.train.dry_run import dry_run_autoencoder

        return _print_lines(dry_run_autoencoder(wanted, group), group)
    return _report_alone(wanted, "crops", train_autoencoder(wanted, group))


def _train_language(recipe: Path, changes: list[str], dry_run: bool) -> int:
    from leanlens.config import read_recipe
    from leanlens.train.language import train_language
    from leanlens.train.language_config import LanguageRecipe

    wanted = read_recipe(LanguageRecipe, recipe, changes)
    group = _join_alone("a language model", wanted)
    if dry_run:
        from leanlens.train.dry_run import dry_run_language

        return _print_lines(dry_run_language(wanted, group), group)
    return _report_alone(wanted, "captions", train_language(wanted, group))


def _join_alone(what: str, recipe: Any) -> Any:
    """The group of a run that takes one process only."""
    from leanlens import dist

    group = dist.join(recipe.run.device)
    if group.world_size > 1:
        raise ValueError(f"{what} is trained by one process, not {group.world_size}: run it without torchrun")
    return group


def _report_alone(recipe: Any, samples: str, progress: Any) -> int:
    from leanlens.train.signals import exit_code

    print(f"{recipe.run.dir}  step {progress.step}, {progress.samples} {samples}, {progress.seconds:.0f} s")
    return exit_code(progress.stopped)


def _one_error(act: Callable[[], int]) -> int:
    """The result of `act`. If several processes fail, only the first raises its error."""
    from leanlens.dist import is_first_to_fail, leads_here, leave
    from leanlens.train.signals import Interrupted, exit_code

    try:
        return act()
    except Interrupted:
        if leads_here():
            print("stopped before the first step; there was nothing to save", file=sys.stderr)
        return exit_code(True, leads_here())
    except KeyboardInterrupt:
        print("stopped at once; what came after the last save is lost", file=sys.stderr, flush=True)
        os._exit(130)  # without waiting for a checkpoint that is being written
    except Exception:
        if is_first_to_fail():
            raise
        return 2
    finally:
        leave()
