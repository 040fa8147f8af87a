"""Trains nano's denoiser on encoded scenes that lie on the device (runs/nano_*.sh). Live.

    python runs/nano_train.py RECIPE [--until T | --minutes M] [--encoded FOLDER]... [--set A.B=C]...

`leanlens train` reads, decodes and encodes while it trains, which keeps up with a large model. One of 30 million
parameters on one large GPU would wait for it. Here scenes are drawn and encoded beforehand (runs/nano_scenes.py), their
latents and their captions' tokens stay in the device's memory, and the few layers of the language model that are read
are computed in each step. Loop, losses, averages, checkpoints and export are those of `leanlens train`, and so is the
recipe, whose `data.scenes`, `data.buckets` and caption keys count here.

With --until, a Unix time, a short run that is thrown away measures the pace; `train.steps` and the schedule become what
fits before then. With --minutes they become what fits into that time, once the pictures are there. With --encoded, what
runs/nano_scenes.py has written into those folders by now is learnt from, once there are --at-least so many scenes;
after the short run, what came meanwhile as well.

Shapes: B pictures in a micro-batch, S text tokens, L image tokens, C packed latent channels.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nano_scenes import Bucket, Shelf, open_shelves, read_parts, rounded
from torch import Tensor

from leanlens.batches.encode import EncodedBatch
from leanlens.config import checked, plain, read_recipe
from leanlens.dist import Group, join
from leanlens.log import logger
from leanlens.models import vae as autoencoder
from leanlens.models.text_encoder import layer_features
from leanlens.pipeline.features import TextFeatures
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.tokens import template_named
from leanlens.scenes.icons import library
from leanlens.train.config import TrainRecipe
from leanlens.train.denoiser import train_denoiser
from leanlens.train.denoiser_model import build_denoiser
from leanlens.train.frozen_models import encoder_flops, open_frozen_models
from leanlens.train.signals import exit_code
from leanlens.train.step import TrainingData

Name = tuple[Bucket, int, int]  # size, number of the picture, kind of its caption
PROBE_STEPS = 24  # of the short run; its last third is timed
KEPT_BACK = 0.03  # of the time, for what the short run did not show
NO_CAPTION = -1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--until", type=float, help="Unix time by which the last step should be made")
    parser.add_argument("--minutes", type=float, help="of training, once the pictures are there")
    parser.add_argument("--encoded", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--at-least", type=int, default=1, help="scenes in these folders before the start")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    given = parser.parse_args()
    recipe = read_recipe(TrainRecipe, given.recipe, given.changes)
    torch.set_float32_matmul_precision("high")  # the frozen parts stay in float32, with fast products
    group = join(recipe.run.device)
    data = open_resident(recipe, group, given.encoded, given.at_least)
    until = time.time() + 60 * given.minutes if given.minutes is not None else given.until
    if until is not None:
        pace = measured_pace(recipe, group, data)
        if given.encoded:
            data = open_resident(recipe, group, given.encoded, given.at_least)
        recipe = fitted(recipe, pace, until)
    progress = train_denoiser(recipe, group, data)
    print(f"{recipe.run.dir}  step {progress.step}, {progress.samples} images, {progress.flops:.3g} FLOP")
    return exit_code(progress.stopped)


def open_resident(recipe: TrainRecipe, group: Group, encoded: Sequence[Path] = (), at_least: int = 1) -> TrainingData:
    """Everything that a run of this recipe learns from, on the device.

    Args:
        encoded: folders of runs/nano_scenes.py; without any, scenes are drawn now.
        at_least: scenes in these folders that are waited for.

    Raises:
        ValueError: the recipe names no scenes to draw, or this is one of several processes.
    """
    began = time.monotonic()
    if recipe.data.scenes is None:
        raise ValueError("data.scenes is missing; pictures of other sources are trained on with `leanlens train`")
    if group.world_size > 1:
        raise ValueError(f"{group.world_size} processes are not accepted; run without torchrun")
    pipeline = open_frozen_models(recipe.model, build_denoiser(recipe.model, recipe.run.seed))
    pipeline.vae.to(group.device, memory_format=torch.channels_last)
    pipeline.text_encoder.to(group.device)
    if encoded:
        shelves = read_parts(encoded, at_least, group.device)
    else:
        shelves = open_shelves(recipe, pipeline, library(recipe.data.scenes.sources))
    counts = {bucket: len(shelf.latents) for bucket, shelf in shelves.items()}
    logger.info("%d pictures on %s after %.0f s", sum(counts.values()), group.device, time.monotonic() - began)
    settings = recipe.data
    brief = {"brief": 1.0, "dense": 0.0, "mix": settings.brief_share}[settings.caption]
    stream = Shuffled(counts, settings.batch_sizes, recipe.run.seed, brief, settings.caption_dropout)
    resident = Resident(shelves, pipeline, recipe.data.text_multiple, group.device, settings.encode_precision)

    def cost(turn: Turn, encoded: EncodedBatch) -> float:
        """Captions are encoded each time, pictures in the first epoch alone."""
        height, width = turn.bucket if stream.epoch == 0 else (0, 0)
        return float(len(turn.captions) * encoder_flops(pipeline, height, width, encoded.text.mask.shape[1]))

    return TrainingData(stream, resident, cost=cost)


def measured_pace(recipe: TrainRecipe, group: Group, data: TrainingData) -> float:
    """Seconds that a step takes, from a short run of which nothing is left."""
    place = data.stream.state_dict()
    folder = recipe.run.dir.with_name(f"{recipe.run.dir.name}-probe")
    shutil.rmtree(folder, ignore_errors=True)
    if train_denoiser(with_steps(recipe, PROBE_STEPS, folder), group, data).stopped:
        shutil.rmtree(folder)
        sys.exit(exit_code(stopped=True))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-PROBE_STEPS // 3 :]
    shutil.rmtree(folder)
    data.stream.load_state_dict(place)
    return statistics.median(images_of_step(recipe) / json.loads(line)["images_per_s"] for line in lines)


def fitted(recipe: TrainRecipe, pace: float, until: float) -> TrainRecipe:
    """The recipe with as many steps as can be made until a Unix time, where one takes `pace` seconds."""
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
        self.side, self.prefix = pipeline.load_text_side(), _prefix_of(pipeline)
        self.token_pixels, self.multiple = autoencoder.token_pixels(pipeline.vae), text_multiple
        self.device, self.precision = device, precision
        self.kept: dict[Name, Tensor] = {}

    @torch.no_grad()
    def __call__(self, turn: Turn) -> EncodedBatch:
        shelf, rows = self.shelves[turn.bucket], torch.from_numpy(turn.rows)
        captions = torch.from_numpy(turn.captions.astype(np.int64))
        chosen = captions.clamp(min=0)
        lengths = shelf.lengths[rows, chosen]
        longest = -(-(int(lengths.max()) - self.prefix) // self.multiple) * self.multiple + self.prefix
        mask = torch.arange(longest)[None] < lengths[:, None]
        names = self._names(turn.bucket, rows, chosen)
        rows, chosen = rows.to(self.device), chosen.to(self.device)
        if names and all(name in self.kept for name in names):
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

    def _names(self, bucket: Bucket, rows: Tensor, kinds: Tensor) -> list[Name]:
        """Under which the features of captions are kept; none where a device computes them faster than it looks."""
        if self.device.type != "cpu":
            return []
        return [(bucket, row, kind) for row, kind in zip(rows.tolist(), kinds.tolist(), strict=True)]

    def _states(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Features of the tokens behind the template, (B, S, E) of each layer."""
        with rounded(self.device, self.precision):
            states = layer_features(self.side.encoder, self.side.layers, ids, mask.long())
        return [state[:, self.prefix :] for state in states]

    def _keep(self, names: Sequence[Name], lengths: Tensor, states: Sequence[Tensor]) -> None:
        """Remember each caption's own tokens, the layers side by side: (tokens, K E)."""
        if not names:
            return
        joined = torch.cat(list(states), -1).to(torch.bfloat16)
        for name, length, row in zip(names, lengths.tolist(), joined, strict=True):
            self.kept[name] = row[: length - self.prefix].clone()

    def _recall(self, names: Sequence[Name], longest: int) -> tuple[Tensor, ...]:
        """What was kept, with zeros up to the longest."""
        first = self.kept[names[0]]
        joined = first.new_zeros(len(names), longest - self.prefix, first.shape[1])
        for row, name in zip(joined, names, strict=True):
            row[: len(self.kept[name])] = self.kept[name]
        return joined.float().chunk(len(self.side.layers), -1)


def _prefix_of(pipeline: LensPipeline) -> int:
    """Tokens of the template, which are encoded before every caption and carry no feature."""
    prefix = template_named(pipeline.load_text_side().template).prefix()
    return len(pipeline.tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0


if __name__ == "__main__":
    sys.exit(main())
