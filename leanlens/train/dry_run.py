"""A run up to its first step: everything is opened and checked as training does it, nothing is written.

Comes in: a recipe. Goes out: lines to read, one after the other, and then the error that training would end with, if
there is one. Data that would be synthetic scenes is not drawn: one scene is, in memory.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from leanlens.batches.survey import large_batches, survey, survey_lines
from leanlens.dist import Group
from leanlens.train.alone import is_begun
from leanlens.train.autoencoder import AutoencoderRecipe, Heads, open_autoencoder, pictures_of_sources
from leanlens.train.config import Scenes, TrainRecipe
from leanlens.train.data import canvas_of, learnt_stream, open_held_out, open_sources, rules_of
from leanlens.train.export import is_run
from leanlens.train.language import LanguageRecipe, build_language, places_of
from leanlens.train.loop import open_models, require_startable
from leanlens.train.outline import outline
from leanlens.train.resume import require_same_run
from leanlens.train.run import require_folder, require_free


def dry_run(recipe: TrainRecipe, group: Group) -> Iterator[str]:
    """The plan of a denoiser's run, and what its data is.

    Raises:
        ValueError: what training would refuse, after the lines that could be said.
    """
    yield outline(recipe)
    _require_place(recipe, is_run(recipe.run.dir))
    require_startable(recipe, group)
    data = recipe.data
    if data.scenes is not None:
        yield _try_scene(data.scenes, recipe)
    else:
        yield from _surveyed(recipe, group)
    open_models(recipe)
    yield f"{'device':12} {group.device}; parts and weights are opened"


def _surveyed(recipe: TrainRecipe, group: Group) -> Iterator[str]:
    """What the sources hold; then they become a stream as they do in training."""
    data = recipe.data
    sources = open_sources("data.sources", data.sources)
    lenient = recipe
    if data.missing_caption == "error":  # count all of it before refusing
        lenient = recipe.model_copy(update={"data": data.model_copy(update={"missing_caption": "skip"})})
    refused = False
    try:
        stream = learnt_stream(lenient, sources, group)
        yield from survey_lines(survey(stream), stream.batch_sizes)
        yield from (f"{'note':12} {sentence}" for sentence in large_batches(stream, recipe.train.micro_batches))
        refused = lenient is not recipe and bool(stream.uncaptioned)
    except ValueError:
        refused = True
    if refused:
        learnt_stream(recipe, sources, group)  # says why; where nothing is refused, it would only repeat its warnings
    if recipe.validate_.every and data.validation:
        held_out = open_held_out(recipe, data.validation)
        yield f"{'held out':12} {len(held_out)} pictures"


def _try_scene(scenes: Scenes, recipe: TrainRecipe) -> str:
    from leanlens.scenes.build import SEED_STEP, make_picture
    from leanlens.scenes.icons import library
    from leanlens.scenes.scene import sample_scene

    shelf = library(scenes.sources)
    scene = sample_scene(scenes.seed * SEED_STEP, shelf, "train", canvas_of(scenes, recipe), rules_of(scenes))
    make_picture(scene, shelf, "jpg")
    return f"{'scenes':12} {scenes.num} to learn from and {scenes.validation} held out, drawn when the run begins"


def dry_run_autoencoder(recipe: AutoencoderRecipe, group: Group) -> Iterator[str]:
    """The same of an autoencoder's run."""
    _require_place(recipe, is_begun(recipe.run.dir))
    pictures_of_sources(recipe)
    Heads(recipe, group.device)
    weights = sum(weight.numel() for weight in open_autoencoder(recipe).parameters())
    yield f"{'autoencoder':12} {weights:,} parameters"
    yield from _sources_lines("crops.sources", recipe.crops.sources)
    yield from _sources_lines("crops.validation", recipe.crops.validation)
    yield _stops(recipe, recipe.crops.pictures * recipe.crops.crops, "crops")


def dry_run_language(recipe: LanguageRecipe, group: Group) -> Iterator[str]:
    """The same of a language model's run."""
    _require_place(recipe, is_begun(recipe.run.dir))
    places = places_of(recipe)
    weights = sum(weight.numel() for weight in build_language(recipe, recipe.language.vocabulary).parameters())
    yield f"{'language':12} {weights:,} parameters"
    yield from _sources_lines("captions.sources", recipe.captions.sources)
    source, number, kinds = places[Random(0).randrange(len(places))]
    yield f"{'captions':12} {len(places)} pictures with one, such as {source.captions(number)[kinds[0]][:80]!r}"
    yield _stops(recipe, recipe.captions.batch, "captions")


def _require_place(recipe: Any, begun: bool) -> None:
    """The checks of the run's folder, without a trace in it."""
    require_folder(recipe.run.dir)
    require_free(recipe.run.dir)
    if begun:
        require_same_run(recipe)


def _sources_lines(key: str, paths: tuple[str, ...]) -> Iterator[str]:
    for source in open_sources(key, paths):
        skipped = "; ".join(f"{name}: {why}" for name, why in list(source.skipped.items())[:5])
        left = f", {len(source.skipped)} skipped ({skipped})" if skipped else ""
        yield f"{'pictures':12} {len(source.index())} in {source.name}{left}"


def _stops(recipe: Any, samples: int, unit: str) -> str:
    minutes = "" if recipe.train.minutes is None else f" or {recipe.train.minutes:g} minutes"
    return f"{'stops':12} after {recipe.train.steps} steps of {samples} {unit}{minutes}"
