"""Implements `leanlens scenes`, which writes synthetic training and test data, previews it and downloads icon sets."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make images with exact captions, drawn from open icon sets.")

Seed = Annotated[int, typer.Option(help="Seed of the whole set, 0 to 1048575; the same seed gives the same bytes.")]
Split = Annotated[
    str,
    typer.Option(help="Scenes: train, test (each has something held out from train), or any.", metavar="SPLIT"),
]
Sources = Annotated[
    str | None,
    typer.Option(
        help="Icons: full, common (the part that nano was trained on), everyday (a smaller part), sample, or the "
        "folder of a library. Default: full if downloaded, else the sample."
    ),
]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder to make, or to continue.")],
    num: Annotated[int, typer.Option(help="Number of images.")],
    seed: Seed = 0,
    split: Split = "train",
    size: Annotated[int, typer.Option(help="Side of the square of the same area, a multiple of 16.")] = 256,
    encoding: Annotated[str, typer.Option(help="File format: jpg (quality 95), png or webp (lossless).")] = "jpg",
    per_shard: Annotated[int, typer.Option(help="Number of images in each shard.")] = 1000,
    sources: Sources = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes. Default: one for each core.")] = None,
) -> None:
    """Write WebDataset shards with a manifest and checksums. Run the command again to resume."""
    wanted = _split(split)
    from leanlens.scenes.build import build as make

    manifest = make(out, num, seed, wanted, size, encoding, per_shard, sources, workers, progress=True)
    typer.echo(f"{manifest['count']} pictures in {len(manifest['shards'])} shard(s): {out}")


@app.command()
def preview(
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file to write.")] = Path("scenes.png"),
    num: Annotated[int, typer.Option(help="Number of images on the sheet, at most 600.")] = 24,
    seed: Seed = 0,
    split: Split = "train",
    sources: Sources = None,
) -> None:
    """Draw a contact sheet with brief captions."""
    wanted = _split(split)
    from leanlens.scenes.build import make_preview

    make_preview(out, num, seed, wanted, sources)
    typer.echo(out)


@app.command()
def encode(
    recipe: Annotated[Path, typer.Argument(help="Recipe of a denoiser that trains on scenes, or the name of one.")],
    out: Annotated[Path, typer.Option(help="Folder to make, or to continue.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key of the recipe. Repeatable.", metavar="A.B=C")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that draw. Default: one for each core.")] = None,
) -> None:
    """Draw and encode the scenes of a recipe, for training with data.encoded. Run the command again to resume."""
    from leanlens.config import find_recipe, read_recipe
    from leanlens.dist import join
    from leanlens.train.config import TrainRecipe
    from leanlens.train.denoiser_model import build_denoiser
    from leanlens.train.frozen_models import open_frozen_models
    from leanlens.train.scenes import encode_scenes

    wanted = read_recipe(TrainRecipe, find_recipe(recipe), changes or [])
    pipeline = open_frozen_models(wanted.model, build_denoiser(wanted.model, wanted.run.seed))
    pipeline.vae.to(join(wanted.run.device).device)
    typer.echo(f"{encode_scenes(wanted, pipeline, out, workers)} scenes: {out}")


@app.command()
def sources(
    packages: Annotated[
        Path | None, typer.Option(help="Folder with the npm packages. Default: they are downloaded with npm.")
    ] = None,
) -> None:
    """Download the icon sets, verify their checksums, draw them into the cache folder, and list styles and licences."""
    from leanlens.scenes.icons import make_full_library
    from leanlens.scenes.sources import STYLES

    made = make_full_library(packages)
    for style in STYLES:
        if style.name in made.styles:
            count = len(made.bitmaps[style.name])
            typer.echo(f"{style.name:18} {count:4} drawings  {style.licence:10}  {style.phrase}")
    typer.echo(f"{len(made.concepts)} concepts: {made.folder}")


def _split(name: str) -> str | None:
    if name not in ("train", "test", "any"):
        raise ValueError(f"invalid --split {name}: expected train, test or any")
    return None if name == "any" else name
