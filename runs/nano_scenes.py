"""Draws scenes with every core and encodes them on the device as they come (runs/nano_gpu.sh). Live.

    python runs/nano_scenes.py RECIPE FOLDER [--processes N] [--set A.B=C]...

writes what runs/nano_train.py learns from into a folder, a part at a time, each whole or not at all, while training on
the parts that are there may go on already (`--encoded FOLDER`). What a folder holds is not drawn again.

Shapes: N pictures of one size, K = 2 captions of each (brief, dense), S text tokens, L image tokens, C packed latent
channels.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from leanlens.batches.encode import ENCODING, checksum
from leanlens.batches.stream import cut_caption
from leanlens.config import read_recipe
from leanlens.dist import join
from leanlens.files import whole_file
from leanlens.models import vae as autoencoder
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.tokens import MAX_SEQUENCE_LENGTH, template_named
from leanlens.scenes.build import SEED_STEP
from leanlens.scenes.describe import brief, dense
from leanlens.scenes.icons import Library, library, open_library
from leanlens.scenes.layout import Rules
from leanlens.scenes.render import render
from leanlens.scenes.scene import NO_RULES, sample_scene
from leanlens.store import content_key
from leanlens.train.config import TrainRecipe
from leanlens.train.data import rules_of
from leanlens.train.denoiser_model import build_denoiser
from leanlens.train.frozen_models import open_frozen_models

Bucket = tuple[int, int]  # (height, width), pixels
# Size -> pixels (n, H, W, 3) uint8, captions of each picture.
Chunk = dict[Bucket, tuple[np.ndarray, list[list[str]]]]
CHUNK = 250  # scenes that a process draws at a time
AHEAD = 3  # chunks in the queue for each process
PART = 8 * CHUNK  # scenes in a file of a folder, at least
AT_ONCE = {"cuda": 125, "cpu": 16}  # pictures of one size that the autoencoder encodes together, at most
CAPTIONS = 2  # of each picture: brief and dense
SILENT = 180  # seconds without a new part after which nobody is drawing any more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, help="that draw; one for each core without it")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    given = parser.parse_args()
    recipe = read_recipe(TrainRecipe, given.recipe, given.changes)
    torch.set_float32_matmul_precision("high")
    began, group = time.monotonic(), join(recipe.run.device)
    pipeline = open_frozen_models(recipe.model, build_denoiser(recipe.model, recipe.run.seed))
    pipeline.vae.to(group.device, memory_format=torch.channels_last)
    scenes = write_parts(recipe, pipeline, given.folder, given.processes)
    print(f"{given.folder}  {scenes} scenes after {time.monotonic() - began:.0f} s")


@dataclass(frozen=True)
class Shelf:
    """Encoded pictures of one size: latents (N, L, C) float16, tokens (N, K, S) int32 and their numbers (N, K)."""

    latents: Tensor
    tokens: Tensor
    lengths: Tensor


def write_parts(recipe: TrainRecipe, pipeline: LensPipeline, folder: Path, processes: int | None = None) -> int:
    """Encode the scenes of a recipe into a folder, part by part, and leave a file `whole` at the end.

    Returns:
        The number of scenes.

    Raises:
        ValueError: the recipe names no scenes, or the folder holds others.
    """
    if recipe.data.scenes is None:
        raise ValueError("data.scenes is missing; only scenes are drawn here")
    icons = library(recipe.data.scenes.sources)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, scenes_key(recipe, pipeline, icons))
    written = len(list(folder.glob("part-*.safetensors")))
    for number, part in enumerate(encoded_parts(recipe, pipeline, icons, written * PART, processes), written):
        with whole_file(folder / f"part-{number:05d}.safetensors") as temporary:
            save_file(part, temporary)
    (folder / "whole").touch()
    return recipe.data.scenes.num


def claim(folder: Path, key: str) -> None:
    """Write into the folder what its scenes are made of.

    Raises:
        ValueError: it holds others.
    """
    named = folder / "key"
    if not named.exists():
        with whole_file(named) as temporary:
            temporary.write_text(key, encoding="utf-8")
    elif named.read_text(encoding="utf-8") != key:
        raise ValueError(f"{folder} holds scenes of another recipe, library or autoencoder; give another folder")


def read_parts(folders: Sequence[Path], at_least: int, device: torch.device) -> dict[Bucket, Shelf]:
    """What is in some folders by now, latents and tokens on the device; waits until there are `at_least` scenes.

    Raises:
        ValueError: nobody writes any more, and there are fewer.
    """
    since, before = time.monotonic(), -1
    while (found := sum(len(list(folder.glob("part-*.safetensors"))) for folder in folders)) * PART < at_least:
        if all((folder / "whole").exists() for folder in folders):
            break
        if found != before:
            since, before = time.monotonic(), found
        if time.monotonic() - since > SILENT:
            raise ValueError(f"{found * PART} scenes are in {', '.join(map(str, folders))}, none new in {SILENT} s")
        time.sleep(0.5)
    paths = sorted(path for folder in folders for path in folder.glob("part-*.safetensors"))
    if not paths:
        raise ValueError(f"no scenes are in {', '.join(map(str, folders))}; run runs/nano_scenes.py first")
    return _shelves(joined([load_file(path) for path in paths], device))


def open_shelves(recipe: TrainRecipe, pipeline: LensPipeline, icons: Library) -> dict[Bucket, Shelf]:
    """Encoded scenes of every size of the recipe, on the CPU; found again under `data.cache` where that is given."""
    key = scenes_key(recipe, pipeline, icons)
    path = recipe.data.cache / f"scenes-{key[:16]}.safetensors" if recipe.data.cache else None
    if path is not None and path.exists():
        return _shelves(load_file(path))
    found = joined(list(encoded_parts(recipe, pipeline, icons)), torch.device("cpu"))
    if path is not None:
        with whole_file(path) as temporary:
            save_file(found, temporary)
    return _shelves(found)


def scenes_key(recipe: TrainRecipe, pipeline: LensPipeline, icons: Library) -> str:
    """What encoded scenes depend on, as one name."""
    scenes = recipe.data.scenes
    assert scenes is not None
    return content_key(
        library=icons.fingerprint, num=scenes.num, seed=scenes.seed, sizes=sorted(recipe.data.batch_sizes),
        rules=vars(rules_of(scenes)), words=recipe.data.caption_words, vae=checksum(pipeline.vae, ENCODING),
        tokens=pipeline.tokenizer.backend_tokenizer.to_str(),
    )  # fmt: skip


def _shelves(tensors: Mapping[str, Tensor]) -> dict[Bucket, Shelf]:
    buckets = sorted({tuple(int(side) for side in name.split(".")[0].split("x")) for name in tensors})
    kinds = ("latents", "tokens", "lengths")
    return {(h, w): Shelf(*(tensors[f"{h}x{w}.{kind}"] for kind in kinds)) for h, w in buckets}


@torch.no_grad()
def encoded_parts(
    recipe: TrainRecipe, pipeline: LensPipeline, icons: Library, first: int = 0, processes: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Draw by every core and encode on the device meanwhile, from scene number `first` on: `HxW.latents`, `HxW.tokens`,
    `HxW.lengths` of `PART` scenes at a time."""
    scenes = recipe.data.scenes
    assert scenes is not None
    canvas = tuple((width, height) for height, width in sorted(recipe.data.batch_sizes))
    chunks = drawn_chunks(icons.folder, scenes.num, scenes.seed, canvas, rules_of(scenes), first, processes)
    while taken := list(islice(chunks, PART // CHUNK)):
        yield encode_chunks(taken, recipe, pipeline)


def encode_chunks(chunks: Sequence[Chunk], recipe: TrainRecipe, pipeline: LensPipeline) -> dict[str, Tensor]:
    """Latents and tokens of drawn scenes, by size, on the CPU."""
    device = pipeline.vae.device
    latents: dict[Bucket, list[Tensor]] = {}
    words: dict[Bucket, list[list[int]]] = {}
    for chunk in chunks:
        for bucket, (pixels, captions) in chunk.items():
            for part in torch.from_numpy(pixels).split(AT_ONCE[device.type]):
                scaled = part.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
                with rounded(device, recipe.data.encode_precision):
                    latents.setdefault(bucket, []).append(autoencoder.encode(pipeline.vae, scaled).half().cpu())
            words.setdefault(bucket, []).extend(_tokens(captions, recipe, pipeline))
    found: dict[str, Tensor] = {}
    for bucket, parts in latents.items():
        name = f"{bucket[0]}x{bucket[1]}"
        found[f"{name}.latents"] = torch.cat(parts)
        found[f"{name}.tokens"], found[f"{name}.lengths"] = _padded(words[bucket])
    return found


def joined(parts: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Parts one after another; latents and tokens on the device, the lengths of captions on the CPU."""
    whole: dict[str, Tensor] = {}
    for name in sorted({name for part in parts for name in part}):
        rows = [part[name] for part in parts if name in part]
        if name.endswith(".tokens"):
            longest = max(row.shape[2] for row in rows)
            rows = [torch.nn.functional.pad(row, (0, longest - row.shape[2])) for row in rows]
        whole[name] = torch.cat([row if name.endswith(".lengths") else row.to(device) for row in rows])
    return whole


def rounded(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The products of the frozen parts, as `data.encode_precision` has them."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def _tokens(captions: Sequence[Sequence[str]], recipe: TrainRecipe, pipeline: LensPipeline) -> list[list[int]]:
    """Tokens of every caption of every picture, in order: as `pipeline.tokens.tokenize` has them, all at once."""
    template = template_named(pipeline.load_text_side().template)
    cut = [template.render(cut_caption(text, recipe.data.caption_words)) for both in captions for text in both]
    return [row[:MAX_SEQUENCE_LENGTH] for row in pipeline.tokenizer(cut)["input_ids"]]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens (N, K, S) int32 of all pictures, with zeros up to the longest caption, and their numbers (N, K)."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = np.zeros((len(rows), int(lengths.max())), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return torch.from_numpy(ids).unflatten(0, (-1, CAPTIONS)), lengths.unflatten(0, (-1, CAPTIONS))


def drawn_chunks(
    folder: Path,
    num: int,
    seed: int,
    canvas: tuple[Bucket, ...],
    rules: Rules = NO_RULES,
    first: int = 0,
    processes: int | None = None,
    backgrounds: tuple[str, ...] = (),
) -> Iterator[Chunk]:
    """Scenes `first` to `num` - 1 of the split "train", in order, and of these only such as have one of the kinds of
    `backgrounds`, where it names any; `canvas` holds (width, height). Without `processes` every core draws."""
    firsts = iter(range(first, num, CHUNK))
    workers = max(1, min(processes or cpu_count() or 1, -(-(num - first) // CHUNK)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def begin(start: int) -> Future[Chunk]:
            count = min(CHUNK, num - start)
            return pool.submit(draw_chunk, str(folder), start, count, seed, canvas, rules, backgrounds)

        waiting = deque(begin(start) for start in islice(firsts, AHEAD * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(begin(start) for start in islice(firsts, 1))


def draw_chunk(
    folder: str,
    first: int,
    count: int,
    seed: int,
    canvas: tuple[Bucket, ...],
    rules: Rules = NO_RULES,
    backgrounds: tuple[str, ...] = (),
) -> Chunk:
    """Scenes first .. first + count - 1, by size; no two neighbours have captions of one template."""
    icons, brief_template, dense_template = _opened(folder), "", ""
    pixels: dict[Bucket, list[np.ndarray]] = {}
    captions: dict[Bucket, list[list[str]]] = {}
    for number in range(seed * SEED_STEP + first, seed * SEED_STEP + first + count):
        scene = sample_scene(number, icons, "train", canvas, rules)
        if backgrounds and scene.background.kind not in backgrounds:
            continue
        rng = Random(f"captions {number}")
        short, long = brief(scene, rng, brief_template), dense(scene, rng, dense_template, rules.facts_first)
        brief_template, dense_template = short.template, long.template
        pixels.setdefault((scene.height, scene.width), []).append(np.asarray(render(scene, icons)))
        captions.setdefault((scene.height, scene.width), []).append([short.text, long.text])
    return {bucket: (np.stack(rows), captions[bucket]) for bucket, rows in pixels.items()}


@lru_cache(maxsize=1)
def _opened(folder: str) -> Library:
    return open_library(Path(folder))


if __name__ == "__main__":
    main()
