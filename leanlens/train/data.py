"""The data of a run: the recipe's `[data]` table to micro-batches, their encoder, and the held-out ones.

Comes in: the recipe, the pipeline whose frozen parts encode, the process group. Goes out: `TrainingData`. Knows nothing
of models that are trained.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from leanlens.batches.encode import Encoder
from leanlens.batches.stream import Stream
from leanlens.batches.survey import large_batches
from leanlens.dist import Group, wait_for_all
from leanlens.log import logger
from leanlens.pictures.sources import Source, open_source
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.tokens import template_named
from leanlens.scenes.build import build
from leanlens.scenes.layout import Rules
from leanlens.scenes.scene import Size
from leanlens.store import Store
from leanlens.train.config import Scenes, TrainRecipe
from leanlens.train.frozen_models import encoder_flops
from leanlens.train.resume import named
from leanlens.train.step import TrainingData


def open_data(recipe: TrainRecipe, pipeline: LensPipeline, group: Group) -> TrainingData:
    """Open, or for synthetic scenes first draw, what the recipe names, and say where batches are larger than the data.

    Raises:
        ValueError: sources that cannot be read, are damaged or lack captions, or a table that no picture fits.
    """
    data = recipe.data
    learnt, held_out = _scenes(data.scenes, recipe, group) if data.scenes else (data.sources, data.validation)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.to(group.device)
    encode = Encoder(
        pipeline.vae,
        pipeline.load_text_side(),
        Store(data.cache) if data.cache else None,
        at_once=data.encode_at_once,
        text_multiple=data.text_multiple,
        precision=data.encode_precision,
    )
    stream = learnt_stream(recipe, open_sources("data.sources", learnt), group)
    if group.leads:
        for sentence in large_batches(stream, recipe.train.micro_batches):
            logger.warning("%s", sentence)
    validation: list[Any] = []
    if recipe.validate_.every and held_out:
        validation = list(islice(iter(open_held_out(recipe, held_out)), recipe.validate_.batches))
    return TrainingData(stream, encode, validation, _cost(pipeline, stream, cached=data.cache is not None))


def learnt_stream(recipe: TrainRecipe, sources: Sequence[Source], group: Group) -> Stream:
    """What is learnt from."""
    data = recipe.data
    return _stream(recipe, sources, data.caption_dropout, group.rank, group.world_size, data.workers)


def open_held_out(recipe: TrainRecipe, paths: Sequence[str]) -> Stream:
    """What is measured on, the same on every process."""
    return _stream(recipe, open_sources("data.validation", paths), 0.0, 0, 1, 0)


def open_sources(key: str, paths: Sequence[str]) -> list[Source]:
    """Sources of a recipe.

    Raises:
        ValueError: one cannot be opened; the sentence begins with the recipe's key.
    """
    with named(key):
        return [open_source(path) for path in paths]


def _stream(
    recipe: TrainRecipe, sources: Sequence[Source], dropout: float, rank: int, world_size: int, workers: int
) -> Stream:
    data = recipe.data
    return Stream(
        sources,
        {bucket.base: bucket.table for bucket in data.buckets},
        data.batch_sizes,
        seed=recipe.run.seed,
        caption_kind=data.caption,
        caption_dropout=dropout,
        rank=rank,
        world_size=world_size,
        max_upscale=data.max_upscale,
        workers=workers,
        resolution=data.resolution,
        caption_words=data.caption_words,
        full_batches=data.full_batches,
        brief_share=data.brief_share,
        missing_caption=data.missing_caption,
    )


def _scenes(scenes: Scenes, recipe: TrainRecipe, group: Group) -> tuple[list[str], list[str]]:
    """Shards of scenes in the run's folder: to learn from, and held out. The leading process draws what is missing."""
    folders: list[Path] = []
    rules = rules_of(scenes)
    for name, number, split in (("train", scenes.num, "train"), ("validation", scenes.validation, "test")):
        easier = "".join(f"-{rule}{value}" for rule, value in vars(rules).items() if value)
        folder = recipe.run.dir / "data" / f"{name}-{number}-{scenes.seed}-{scenes.size}{easier}"
        if group.leads:  # goes on where a kill stopped it, and does nothing where all is there
            build(folder, number, scenes.seed, split, canvas_of(scenes, recipe), sources=scenes.sources, rules=rules)
        folders.append(folder)
    wait_for_all()
    return [str(folders[0])], [str(folders[1])]


def rules_of(scenes: Scenes) -> Rules:
    """What the scenes of a recipe keep to."""
    return Rules(scenes.least, scenes.most, scenes.grid, scenes.step, scenes.tidy, scenes.facts_first)


def canvas_of(scenes: Scenes, recipe: TrainRecipe) -> Size:
    """The sizes that the scenes of a recipe are drawn in."""
    if scenes.canvas == "free":
        return scenes.size
    largest = max(recipe.data.buckets, key=lambda bucket: bucket.base)
    return tuple((width, height) for height, width in largest.table)


def _cost(pipeline: LensPipeline, stream: Stream, cached: bool) -> Callable[[Any, Any], float]:
    """FLOP of encoding a micro-batch; with a cache, pictures are encoded in the first epoch only."""
    prefix = _prefix_tokens(pipeline)

    def cost(batch: Any, encoded: Any) -> float:
        if cached and stream.epoch > 0:
            return 0.0
        height, width = batch.bucket
        lengths = encoded.text.mask.sum(1).tolist()
        texts = [length + prefix if length else 0 for length in lengths]
        return float(sum(encoder_flops(pipeline, height, width, tokens) for tokens in texts))

    return cost


def _prefix_tokens(pipeline: LensPipeline) -> int:
    """Tokens of the template that are encoded before every caption and carry no feature."""
    prefix = template_named(pipeline.load_text_side().template).prefix()
    return len(pipeline.tokenizer(prefix, add_special_tokens=False)["input_ids"])
