"""Implements `leanlens model`, which lists and searches the words that a model was trained on, without opening it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leanlens.cli.options import AsJson

if TYPE_CHECKING:
    from leanlens.reason.vocabulary import Entry

app = typer.Typer(no_args_is_help=True, help="See what a model knows.")


@app.callback()
def _model() -> None:
    """Make a command group although there is only one command."""


@app.command()
def words(
    model: Annotated[
        str, typer.Argument(help="nano, or the folder of a model that states its caption_style.")
    ] = "nano",
    search: Annotated[
        list[str] | None, typer.Argument(help="Show only what this is a name of, or the beginning of one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the words that a model was trained on: things, colours, backgrounds, styles, sizes, numbers and relations.

    Other words can be asked for; what becomes of them is left to chance.
    """
    library = _library_of(model)
    from leanlens.reason.vocabulary import entries
    from leanlens.reason.vocabulary import search as look_up

    wanted = " ".join(search or []).strip()
    found = look_up(wanted, library) if wanted else list(entries(library))
    near = _nearest_to(wanted, model, library) if wanted and not found else None
    if as_json:
        told = {"model": model, "search": wanted or None, "words": [asdict(entry) for entry in found], "nearest": None}
        typer.echo(json.dumps({**told, "nearest": near and near[0]}, ensure_ascii=False))
    elif near is not None:
        typer.echo(near[1])
    else:
        typer.echo(_listed(found, with_category=bool(wanted)))


def _library_of(model: str) -> str:
    """The library of things that a model was trained on, without downloading the model.

    Raises:
        ValueError: it was not trained on a fixed list of words, or is not on this machine.
    """
    from leanlens.hub import locate
    from leanlens.presets import PRESETS
    from leanlens.reason.reasoner import caption_library

    fixed = f"{model} was not trained on a fixed list of words; nano was"
    if model in PRESETS and not PRESETS[model].is_embedded:
        raise ValueError(fixed)
    if model not in PRESETS and not Path(model).expanduser().exists():
        raise ValueError(
            f"model {model!r} is not on this machine; give nano or a model folder, "
            f"and after it what to search for: leanlens model words nano {model}"
        )
    library = caption_library(locate(model))
    if library is None:
        raise ValueError(fixed)
    return library


def _nearest_to(text: str, model: str, library: str) -> tuple[dict, str]:
    """The nearest known thing to an unknown word, as a record and as a sentence."""
    from leanlens.pipeline.reasoned import Unknown
    from leanlens.reason.nearest import nearest
    from leanlens.reason.words import known_things

    near = nearest(text)
    if near is None or near.concept not in known_things(library):
        unknown = Unknown(word=text)
    else:
        unknown = Unknown(word=text, nearest=near.concept, nearness=near.nearness)
    return unknown.model_dump(), unknown.sentence(Path(model).name)


def _listed(found: "list[Entry]", with_category: bool) -> str:
    """One line per entry, grouped by category or with its category."""
    width = max(len(entry.name) for entry in found) + 2
    kinds = max(len(entry.category) for entry in found) + 2 if with_category else 0
    lines: list[str] = []
    category = ""
    for entry in found:
        if not with_category and entry.category != category:
            category = entry.category
            lines += [""] * bool(lines) + [category]
        start = entry.category.ljust(kinds) if with_category else "  "
        lines.append(f"{start}{entry.name:{width}}{', '.join(entry.others)}".rstrip())
    return "\n".join(lines)
