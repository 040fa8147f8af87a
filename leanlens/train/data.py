"""Opens the data that a denoiser's `[data]` table names: micro-batches, their encoder, and held-out micro-batches."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from leanlens.batches.encode import EncodedBatch, Encoder
from leanlens.batches.encoded import by_size, read_parts
from leanlens.batches.resident import ResidentBatch, ResidentEncoder, ResidentStream, prefix_tokens
from leanlens.batches.stream import Stream
from leanlens.batches.survey import large_batches
from leanlens.dist import Group
from leanlens.log import logger
from leanlens.models.vae import token_pixels
from leanlens.pictures.sources import Source, open_source
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.store import Store
from leanlens.train.config import TrainRecipe
from leanlens.train.frozen_models import encoder_flops
from leanlens.train.resume import named
from leanlens.train.scenes import encoded_scenes, scene_shards
from leanlens.train.step import TrainingData


def open_data(recipe: TrainRecipe, pipeline: LensPipeline, group: Group) -> TrainingData:
    """Open the data of a recipe, drawing synthetic scenes first; warn if batches are larger than the data.

    Raises:
        ValueError: sources that cannot be read, are damaged or lack captions, or a table that no picture fits.
    """
    data = recipe.data
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
    if data.resident:
        return _open_resident(recipe, pipeline, group, encode)
    sources = [scene_shards(data.scenes, recipe, group, "train")] if data.scenes else data.sources
    stream = training_stream(recipe, open_sources("data.sources", sources), group)
    if group.leads:
        for sentence in large_batches(stream, recipe.train.micro_batches):
            logger.warning("%s", sentence)
    cost = _cost(pipeline, stream, cached=data.cache is not None)
    return TrainingData(stream, encode, _held_out(recipe, group), cost)


def _open_resident(recipe: TrainRecipe, pipeline: LensPipeline, group: Group, encode: Encoder) -> TrainingData:
    """Encoded scenes in the device's memory; held-out scenes are read from shards and encoded each time."""
    data = recipe.data
    tensors = read_parts(data.encoded) if data.encoded else encoded_scenes(recipe, pipeline, group)
    pictures = by_size(tensors)
    brief_share = {"brief": 1.0, "dense": 0.0, "mix": data.brief_share}[data.caption]
    stream = ResidentStream(
        pictures, data.batch_sizes, recipe.run.seed, brief_share, data.caption_dropout, group.rank, group.world_size
    )
    logger.info("%d encoded pictures are in the memory of %s", len(stream), group.device)
    side = token_pixels(pipeline.vae)
    resident = ResidentEncoder(
        pictures, pipeline.load_text_side(), group.device, side, data.text_multiple, data.encode_precision
    )

    def encode_any(batch: Any) -> EncodedBatch:
        return resident(batch) if isinstance(batch, ResidentBatch) else encode(batch)

    def cost(batch: ResidentBatch, encoded: EncodedBatch) -> float:
        """Captions are encoded each time, pictures before the first epoch."""
        height, width = batch.bucket if stream.epoch == 0 else (0, 0)
        return float(len(batch.captions) * encoder_flops(pipeline, height, width, encoded.text.mask.shape[1]))

    return TrainingData(stream, encode_any, _held_out(recipe, group), cost)


def _held_out(recipe: TrainRecipe, group: Group) -> list[Any]:
    """The micro-batches of the validation loss."""
    data = recipe.data
    if not recipe.validate_.every:
        return []
    paths = [scene_shards(data.scenes, recipe, group, "validation")] if data.scenes else data.validation
    return list(islice(iter(open_held_out(recipe, paths)), recipe.validate_.batches))


def training_stream(recipe: TrainRecipe, sources: Sequence[Source], group: Group) -> Stream:
    """The training stream of this process."""
    data = recipe.data
    return _stream(recipe, sources, data.caption_dropout, group.rank, group.world_size, data.workers)


def open_held_out(recipe: TrainRecipe, paths: Sequence[str]) -> Stream:
    """The held-out stream, the same on every process."""
    return _stream(recipe, open_sources("data.validation", paths), 0.0, 0, 1, 0)


def open_sources(key: str, paths: Sequence[str]) -> list[Source]:
    """Sources of a recipe.

    Raises:
        ValueError: one cannot be opened; the message begins with the recipe's key.
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


def _cost(pipeline: LensPipeline, stream: Stream, cached: bool) -> Callable[[Any, Any], float]:
    """FLOP of encoding a micro-batch; with a cache, pictures are encoded in the first epoch only."""
    prefix = prefix_tokens(pipeline.load_text_side())

    def cost(batch: Any, encoded: Any) -> float:
        if cached and stream.epoch > 0:
            return 0.0
        height, width = batch.bucket
        lengths = encoded.text.mask.sum(1).tolist()
        texts = [length + prefix if length else 0 for length in lengths]
        return float(sum(encoder_flops(pipeline, height, width, tokens) for tokens in texts))

    return cost
