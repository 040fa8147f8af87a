"""Draws the synthetic scenes of a recipe, as shards of captioned pictures or encoded as latents and tokens."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from leanlens.batches.encoded import PART, ChunkEncoder, claim_parts, joined, write_parts
from leanlens.dist import Group, wait_for_all
from leanlens.files import whole_file
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.scenes.build import build
from leanlens.scenes.draw import drawn_chunks
from leanlens.scenes.icons import Library, library
from leanlens.scenes.layout import Rules
from leanlens.scenes.scene import Size
from leanlens.store import content_key
from leanlens.train.config import Scenes, TrainRecipe


def scene_shards(scenes: Scenes, recipe: TrainRecipe, group: Group, name: str) -> str:
    """The folder of shards below the run's folder; the leading process draws missing ones.

    Args:
        name: "train" or "validation", which is held out.
    """
    number, split = (scenes.num, "train") if name == "train" else (scenes.validation, "test")
    rules = rules_of(scenes)
    easier = "".join(f"-{rule}{value}" for rule, value in vars(rules).items() if value)
    folder = recipe.run.dir / "data" / f"{name}-{number}-{scenes.seed}-{scenes.size}{easier}"
    if group.leads:  # continues after a kill, and does nothing if all shards exist
        build(folder, number, scenes.seed, split, canvas_of(scenes, recipe), sources=scenes.sources, rules=rules)
    wait_for_all()
    return str(folder)


def rules_of(scenes: Scenes) -> Rules:
    """The rules of the scenes of a recipe."""
    return Rules(scenes.least, scenes.most, scenes.grid, scenes.step, scenes.tidy, scenes.facts_first)


def canvas_of(scenes: Scenes, recipe: TrainRecipe) -> Size:
    """The sizes of the scenes of a recipe."""
    if scenes.canvas == "free":
        return scenes.size
    largest = max(recipe.data.buckets, key=lambda bucket: bucket.base)
    return tuple((width, height) for height, width in largest.table)


def encoded_scenes(recipe: TrainRecipe, pipeline: LensPipeline, group: Group) -> dict[str, Tensor]:
    """The encoded scenes of a recipe; the leading process writes them to `data.cache` or the run's folder once.

    Raises:
        ValueError: the library of drawings is missing.
    """
    scenes, encoder = _scenes(recipe), _encoder(recipe, pipeline)
    icons = library(scenes.sources)
    path = (recipe.data.cache or recipe.run.dir / "data") / f"scenes-{_key(recipe, encoder, icons)[:16]}.safetensors"
    if group.leads and not path.exists():
        chunks = drawn_chunks(icons.folder, scenes.num, scenes.seed, _canvas(recipe), rules_of(scenes))
        with whole_file(path) as temporary:
            save_file(joined(list(encoder.parts(chunks))), temporary)
    wait_for_all()
    return load_file(path)


def encode_scenes(recipe: TrainRecipe, pipeline: LensPipeline, folder: Path, processes: int | None = None) -> int:
    """Encode the scenes of a recipe into a folder, part by part; continues after the parts that exist.

    Another process may train on the existing parts meanwhile (`data.encoded`).

    Args:
        processes: number of drawing processes; None uses every core.

    Returns:
        The number of scenes.

    Raises:
        ValueError: the recipe names no scenes, or the folder holds others.
    """
    scenes, encoder = _scenes(recipe), _encoder(recipe, pipeline)
    icons = library(scenes.sources)
    written = claim_parts(folder, _key(recipe, encoder, icons))
    first, rules = written * PART, rules_of(scenes)
    chunks = drawn_chunks(icons.folder, scenes.num, scenes.seed, _canvas(recipe), rules, first, processes)
    write_parts(folder, encoder.parts(chunks), written)
    return scenes.num


def _scenes(recipe: TrainRecipe) -> Scenes:
    if recipe.data.scenes is None:
        raise ValueError("data.scenes is missing; only scenes are encoded beforehand")
    return recipe.data.scenes


def _canvas(recipe: TrainRecipe) -> tuple[tuple[int, int], ...]:
    return tuple((width, height) for height, width in sorted(recipe.data.batch_sizes))


def _encoder(recipe: TrainRecipe, pipeline: LensPipeline) -> ChunkEncoder:
    return ChunkEncoder(
        pipeline.vae, pipeline.load_text_side(), recipe.data.caption_words, recipe.data.encode_precision
    )


def _key(recipe: TrainRecipe, encoder: ChunkEncoder, icons: Library) -> str:
    """Key of everything that the encoded scenes depend on."""
    scenes = _scenes(recipe)
    return content_key(
        library=icons.fingerprint,
        num=scenes.num,
        seed=scenes.seed,
        sizes=sorted(recipe.data.batch_sizes),
        rules=vars(rules_of(scenes)),
        **encoder.key,
    )
