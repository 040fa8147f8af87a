"""Train a small denoiser as fast as a large GPU computes: pictures and captions lie on the device, encoded once.

    python runs/nano_train.py RECIPE [--until T | --minutes M] [--set A.B=C]...

`leanlens train` reads, decodes and encodes while it trains, which keeps up with a large model. One of 17 million
parameters on one large GPU would wait for it. Here every core draws scenes, never as files, and the device encodes them
as they come; then their latents and their captions' tokens stay in the device's memory, and the few layers of the
language model that are read are computed in each step. Loop, losses, averages, checkpoints and export are those of
`leanlens train`, and so is the recipe, whose `data.scenes`, `data.buckets` and caption keys count here.

With --until, a Unix time, a short run that is thrown away measures the pace; `train.steps` and the schedule become what
fits before then. With --minutes they become what fits into that time, once the pictures are there.

Shapes: N pictures of one size, K = 2 captions of each (brief, dense), S text tokens, B pictures in a micro-batch, L
image tokens, C packed latent channels.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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

from leanlens.batches.encode import ENCODING, EncodedBatch, checksum
from leanlens.batches.stream import cut_caption
from leanlens.config import checked, plain, read_recipe
from leanlens.dist import Group, join
from leanlens.files import whole_file
from leanlens.log import logger
from leanlens.models import vae as autoencoder
from leanlens.models.text_encoder import layer_features
from leanlens.pipeline.features import TextFeatures
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
from leanlens.train.denoiser import build_denoiser
from leanlens.train.loop import train
from leanlens.train.parts import encoder_flops, open_parts
from leanlens.train.step import TrainingData

Bucket = tuple[int, int]  # (height, width), pixels
CHUNK = 250  # scenes that a process draws at a time
AHEAD = 3  # chunks in the queue for each process
AT_ONCE = {"cuda": 125, "cpu": 16}  # pictures of one size that the autoencoder encodes together, at most
PROBE_STEPS = 24  # of the short run; its last third is timed
KEPT_BACK = 0.03  # of the time, for what the short run did not show
CAPTIONS = 2  # of each picture: brief and dense
NO_CAPTION = -1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--until", type=float, help="Unix time by which the last step should be made")
    parser.add_argument("--minutes", type=float, help="of training, once the pictures are there")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    given = parser.parse_args()
    recipe = read_recipe(TrainRecipe, given.recipe, given.changes)
    torch.set_float32_matmul_precision("high")  # the frozen parts stay in float32, with fast products
    began, group = time.monotonic(), join(recipe.run.device)
    data = open_resident(recipe, group)
    logger.info("%d pictures on %s after %.0f s", len(data.stream), group.device, time.monotonic() - began)
    until = time.time() + 60 * given.minutes if given.minutes is not None else given.until
    if until is not None:
        recipe = fitted(recipe, group, data, until)
    progress = train(recipe, group, data)
    print(f"{recipe.run.dir}  step {progress.step}, {progress.images} images, {progress.flops:.3g} FLOP")


def open_resident(recipe: TrainRecipe, group: Group) -> TrainingData:
    """Everything that a run of this recipe learns from, on the device.

    Raises:
        ValueError: the recipe names no scenes to draw, or this is one of several processes.
    """
    if recipe.data.scenes is None:
        raise ValueError("data.scenes is missing; pictures of other sources are trained on with `leanlens train`")
    if group.world_size > 1:
        raise ValueError(f"{group.world_size} processes are not accepted; run without torchrun")
    pipeline = open_parts(recipe.model, build_denoiser(recipe.model, recipe.run.seed))
    pipeline.vae.to(group.device, memory_format=torch.channels_last)
    pipeline.text_encoder.to(group.device)
    shelves = open_shelves(recipe, pipeline, library(recipe.data.scenes.sources))
    counts = {bucket: len(shelf.latents) for bucket, shelf in shelves.items()}
    settings = recipe.data
    brief = {"brief": 1.0, "dense": 0.0, "mix": settings.brief_share}[settings.caption]
    stream = Shuffled(counts, settings.batch_sizes, recipe.run.seed, brief, settings.caption_dropout)
    resident = Resident(shelves, pipeline, recipe.data.text_multiple, group.device, settings.encode_precision)

    def cost(turn: Turn, encoded: EncodedBatch) -> float:
        """Captions are encoded each time, pictures in the first epoch alone."""
        height, width = turn.bucket if stream.epoch == 0 else (0, 0)
        return float(len(turn.captions) * encoder_flops(pipeline, height, width, encoded.text.mask.shape[1]))

    return TrainingData(stream, resident, cost=cost)


def fitted(recipe: TrainRecipe, group: Group, data: TrainingData, until: float) -> TrainRecipe:
    """The recipe with as many steps as can be made until a Unix time, by the pace of a short run."""
    place = data.stream.state_dict()
    folder = recipe.run.dir.with_name(f"{recipe.run.dir.name}-probe")
    shutil.rmtree(folder, ignore_errors=True)
    train(with_steps(recipe, PROBE_STEPS, folder), group, data)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-PROBE_STEPS // 3 :]
    pace = statistics.median(images_of_step(recipe) / json.loads(line)["images_per_s"] for line in lines)
    shutil.rmtree(folder)
    data.stream.load_state_dict(place)
    left = until - time.time()
    steps = max(1, int(left * (1 - KEPT_BACK) / pace))
    logger.info("a step takes %.3f s; %d steps fit into %.0f s", pace, steps, left)
    return with_steps(recipe, steps, recipe.run.dir)


def images_of_step(recipe: TrainRecipe) -> float:
    """Pictures in one step, on average over the sizes."""
    return recipe.train.micro_batches * statistics.mean(recipe.data.batch_sizes.values())


def with_steps(recipe: TrainRecipe, steps: int, folder: Path) -> TrainRecipe:
    """The recipe over so many steps, its whole schedule with it, in another folder."""
    values = plain(recipe)
    values["run"]["dir"] = str(folder)
    values["train"]["steps"] = values["optim"]["length"] = steps
    values["optim"]["warmup"] = min(recipe.optim.warmup, steps // 10)
    return checked(TrainRecipe, values)


# ------------------------------------------------------------------------------------------------ what is learnt from


@dataclass(frozen=True)
class Turn:
    """A micro-batch: numbers of pictures of one size (B,), and which caption each has: 0, 1 or NO_CAPTION."""

    bucket: Bucket
    rows: np.ndarray
    captions: np.ndarray


class Shuffled:
    """Micro-batches without end, each of one size and full: in an epoch every picture comes once, but for a rest.
    All captions of one are of one kind, so that brief ones are not padded to the length of dense ones.

    Args:
        counts: pictures of each size.
        batch_sizes: size -> pictures in a micro-batch.
        seed: decides order, captions and dropout, together with the epoch.
        brief: the share of micro-batches with brief captions.
        dropout: the share of pictures without a caption.

    Raises:
        ValueError: no size has enough pictures for one micro-batch.
    """

    def __init__(
        self, counts: Mapping[Bucket, int], batch_sizes: Mapping[Bucket, int], seed: int, brief: float, dropout: float
    ):
        if all(count < batch_sizes[bucket] for bucket, count in counts.items()):
            raise ValueError(f"{sum(counts.values())} pictures fill no micro-batch; give more, or a smaller batch")
        self.counts, self.batch_sizes, self.seed = dict(counts), dict(batch_sizes), seed
        self.brief, self.dropout = brief, dropout
        self.epoch = self._turn = 0

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Turn]:
        while True:
            for turn in islice(self._turns(self.epoch), self._turn, None):
                self._turn += 1
                yield turn
            self.epoch, self._turn = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "turn": self._turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self._turn = state["epoch"], state["turn"]

    def _turns(self, epoch: int) -> list[Turn]:
        rng = np.random.default_rng([self.seed, epoch])
        turns = []
        for bucket, count in sorted(self.counts.items()):
            order, size = rng.permutation(count), self.batch_sizes[bucket]
            dropped = rng.random(count) < self.dropout
            for first in range(0, count // size * size, size):
                rows = order[first : first + size]
                kind = int(rng.random() >= self.brief)
                turns.append(Turn(bucket, rows, np.where(dropped[rows], NO_CAPTION, kind)))
        return [turns[place] for place in rng.permutation(len(turns))]


@dataclass(frozen=True)
class Shelf:
    """Encoded pictures of one size: latents (N, L, C) float16, tokens (N, K, S) int32 and their numbers (N, K)."""

    latents: Tensor
    tokens: Tensor
    lengths: Tensor


class Resident:
    """`Turn` -> `EncodedBatch`, from tensors on the device. On a processor the features of a caption are kept from its
    first turn on, in 16 bits: the language model takes a seventh of a step, and memory is plenty."""

    def __init__(
        self,
        shelves: Mapping[Bucket, Shelf],
        pipeline: LensPipeline,
        text_multiple: int,
        device: torch.device,
        precision: str = "float32",
    ):
        self.shelves = {
            bucket: Shelf(shelf.latents.to(device), shelf.tokens.to(device), shelf.lengths)
            for bucket, shelf in shelves.items()
        }
        self.side, self.prefix = pipeline.text_side, _prefix_of(pipeline)
        self.token_pixels, self.multiple = autoencoder.token_pixels(pipeline.vae), text_multiple
        self.device, self.precision = device, precision
        self.kept: dict[tuple[Bucket, int, int], Tensor] | None = {} if device.type == "cpu" else None

    @torch.no_grad()
    def __call__(self, turn: Turn) -> EncodedBatch:
        shelf, rows = self.shelves[turn.bucket], torch.from_numpy(turn.rows)
        captions = torch.from_numpy(turn.captions.astype(np.int64))
        chosen = captions.clamp(min=0)
        lengths = shelf.lengths[rows, chosen]
        longest = -(-(int(lengths.max()) - self.prefix) // self.multiple) * self.multiple + self.prefix
        mask = torch.arange(longest)[None] < lengths[:, None]
        names = [(turn.bucket, int(row), int(kind)) for row, kind in zip(rows, chosen, strict=True)]
        rows, chosen = rows.to(self.device), chosen.to(self.device)
        if self.kept is not None and all(name in self.kept for name in names):
            states = self._recall(names, longest)
        else:
            ids = shelf.tokens[rows, chosen, :longest].long()
            ids = torch.nn.functional.pad(ids, (0, longest - ids.shape[1]))
            states = self._states(ids, mask.to(self.device))
            self._keep(names, lengths, states)
        seen = (mask & (captions != NO_CAPTION)[:, None])[:, self.prefix :].to(self.device)
        text = TextFeatures([state * seen[..., None] for state in states], seen)
        grid = (turn.bucket[0] // self.token_pixels, turn.bucket[1] // self.token_pixels)
        return EncodedBatch(shelf.latents[rows], grid, text, [], 0)

    def _states(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Features of the tokens behind the template, (B, S, E) of each layer."""
        with rounded(self.device, self.precision):
            states = layer_features(self.side.encoder, self.side.layers, ids, mask.long())
        return [state[:, self.prefix :] for state in states]

    def _keep(self, names: Sequence[tuple[Bucket, int, int]], lengths: Tensor, states: Sequence[Tensor]) -> None:
        """Remember each caption's own tokens, the layers side by side: (tokens, K E)."""
        if self.kept is None:
            return
        joined = torch.cat(list(states), -1).to(torch.bfloat16)
        for name, length, row in zip(names, lengths.tolist(), joined, strict=True):
            self.kept[name] = row[: length - self.prefix].clone()

    def _recall(self, names: Sequence[tuple[Bucket, int, int]], longest: int) -> tuple[Tensor, ...]:
        """What was kept, with zeros up to the longest."""
        assert self.kept is not None
        first = self.kept[names[0]]
        joined = first.new_zeros(len(names), longest - self.prefix, first.shape[1])
        for row, name in zip(joined, names, strict=True):
            row[: len(self.kept[name])] = self.kept[name]
        return joined.float().chunk(len(self.side.layers), -1)


def rounded(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The products of the frozen parts, as `data.encode_precision` has them."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def _prefix_of(pipeline: LensPipeline) -> int:
    """Tokens of the template, which are encoded before every caption and carry no feature."""
    prefix = template_named(pipeline.text_side.template).prefix()
    return len(pipeline.tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0


# ------------------------------------------------------------------------------------------------ drawing and encoding


def open_shelves(recipe: TrainRecipe, pipeline: LensPipeline, icons: Library) -> dict[Bucket, Shelf]:
    """Encoded scenes of every size of the recipe, on the CPU; found again under `data.cache` where that is given."""
    scenes = recipe.data.scenes
    assert scenes is not None
    sizes = sorted(recipe.data.batch_sizes)
    key = content_key(
        library=icons.fingerprint, num=scenes.num, seed=scenes.seed, sizes=sizes, rules=vars(rules_of(scenes)),
        words=recipe.data.caption_words, vae=checksum(pipeline.vae, ENCODING),
        tokens=pipeline.tokenizer.backend_tokenizer.to_str(),
    )  # fmt: skip
    path = recipe.data.cache / f"scenes-{key[:16]}.safetensors" if recipe.data.cache else None
    if path is not None and path.exists():
        return _shelves(load_file(path))
    found = encode_scenes(recipe, pipeline, icons, sizes)
    if path is not None:
        with whole_file(path) as temporary:
            save_file(found, temporary)
    return _shelves(found)


def _shelves(tensors: Mapping[str, Tensor]) -> dict[Bucket, Shelf]:
    buckets = sorted({tuple(int(side) for side in name.split(".")[0].split("x")) for name in tensors})
    kinds = ("latents", "tokens", "lengths")
    return {(h, w): Shelf(*(tensors[f"{h}x{w}.{kind}"] for kind in kinds)) for h, w in buckets}


@torch.no_grad()
def encode_scenes(
    recipe: TrainRecipe, pipeline: LensPipeline, icons: Library, sizes: Sequence[Bucket]
) -> dict[str, Tensor]:
    """Draw by every core and encode on the device meanwhile: `HxW.latents`, `HxW.tokens`, `HxW.lengths`."""
    scenes = recipe.data.scenes
    assert scenes is not None
    canvas, device = tuple((width, height) for height, width in sizes), pipeline.vae.device
    latents: dict[Bucket, list[Tensor]] = {}
    words: dict[Bucket, list[list[int]]] = {}
    for chunk in drawn_chunks(icons.folder, scenes.num, scenes.seed, canvas, rules_of(scenes)):
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


def _tokens(captions: Sequence[Sequence[str]], recipe: TrainRecipe, pipeline: LensPipeline) -> list[list[int]]:
    """Tokens of every caption of every picture, in order: as `pipeline.tokens.tokenize` has them, all at once."""
    template = template_named(pipeline.text_side.template)
    cut = [template.render(cut_caption(text, recipe.data.caption_words)) for both in captions for text in both]
    return [row[:MAX_SEQUENCE_LENGTH] for row in pipeline.tokenizer(cut)["input_ids"]]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens (N, K, S) int32 of all pictures, with zeros up to the longest caption, and their numbers (N, K)."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = np.zeros((len(rows), int(lengths.max())), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return torch.from_numpy(ids).unflatten(0, (-1, CAPTIONS)), lengths.unflatten(0, (-1, CAPTIONS))


Chunk = dict[Bucket, tuple[np.ndarray, list[list[str]]]]  # size -> pixels (n, H, W, 3) uint8, captions of each picture


def drawn_chunks(
    folder: Path, num: int, seed: int, canvas: tuple[Bucket, ...], rules: Rules = NO_RULES
) -> Iterator[Chunk]:
    """Scenes 0 to `num` - 1 of the split "train", in order, drawn by every core; `canvas` holds (width, height)."""
    firsts, workers = iter(range(0, num, CHUNK)), min(cpu_count() or 1, -(-num // CHUNK))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(draw_chunk, str(folder), first, min(CHUNK, num - first), seed, canvas, rules)
            for first in islice(firsts, AHEAD * workers)
        ]
        while waiting:
            yield waiting.pop(0).result()
            for first in islice(firsts, 1):
                waiting.append(
                    pool.submit(draw_chunk, str(folder), first, min(CHUNK, num - first), seed, canvas, rules)
                )


def draw_chunk(
    folder: str, first: int, count: int, seed: int, canvas: tuple[Bucket, ...], rules: Rules = NO_RULES
) -> Chunk:
    """Scenes first .. first + count - 1, by size; no two neighbours have captions of one template."""
    icons, brief_template, dense_template = _opened(folder), "", ""
    pixels: dict[Bucket, list[np.ndarray]] = {}
    captions: dict[Bucket, list[list[str]]] = {}
    for number in range(seed * SEED_STEP + first, seed * SEED_STEP + first + count):
        scene = sample_scene(number, icons, "train", canvas, rules)
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
