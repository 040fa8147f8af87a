"""Computes the gradients of one step of the denoiser, and its loss on held-out data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanlens.batches.weigh import sample_weights
from leanlens.dist import Group, gathered, summed
from leanlens.flow.times import spread_times
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.plan.compute import DenoiserSizes, training_flops
from leanlens.train.config import TrainRecipe
from leanlens.train.denoiser_losses import (
    channel_weights,
    denoiser_losses,
    draw_randomness,
    levels_of,
    packed_training_losses,
    training_losses,
)
from leanlens.train.denoiser_model import sizes_of
from leanlens.train.parallel import computing
from leanlens.train.state import StepSums


@dataclass
class TrainingData:
    """The data of a denoiser run.

    Attributes:
        stream: endless iterable of this process's micro-batches, each with `bucket` (height, width) and `captions`. Its
            `state_dict()` is the same on every process; `load_state_dict()` takes effect with the next iterator.
        encode: micro-batch -> encoded batch (`latents` (B, L, C), `grid`, `text` features) on the model's device.
        validation: held-out micro-batches, the same on every process.
        cost: FLOP that `encode` spent on a micro-batch.
    """

    stream: Any
    encode: Callable[[Any], Any]
    validation: Sequence[Any] = ()
    cost: Callable[[Any, Any], float] = lambda batch, encoded: 0.0


def accumulate_gradients(
    model: LensTransformer2DModel,
    data: TrainingData,
    micro: Sequence[Any],
    step: int,
    recipe: TrainRecipe,
    group: Group,
) -> StepSums:
    """Add the gradients of the step's loss, over this process's micro-batches `micro`, to those of the weights.

    Returns:
        Sums over all processes, with the mean loss of each resolution (`loss_512`) among their values.
    """
    counts = gathered([len(batch.captions) for batch in micro])
    bases, sizes = sorted(set(recipe.data.bases.values())), sizes_of(model)
    totals = torch.zeros(5 + 2 * len(bases), dtype=torch.float64)
    seen: list[tuple[int, float, Tensor]] = []
    # Weights come from the counts of all processes, so that sums of gradients need no division afterwards.
    firsts, weights = cut(counts, group.rank, recipe.train.average)
    turns = list(range(len(micro)))
    for row in [turns] if recipe.train.pack else [[turn] for turn in turns]:
        encoded = [data.encode(micro[turn]) for turn in row]
        try:
            with computing(model, group, recipe.train):
                losses = losses_of(model, encoded, recipe, step, [firsts[turn] for turn in row])
            weighted = [part.sum() * weights[turn] for part, turn in zip(losses, row, strict=True)]
            torch.stack(weighted).sum().backward()
        except torch.OutOfMemoryError as error:  # the estimate before the run was too low
            raise ValueError(_too_large([micro[turn] for turn in row])) from error
        for turn, part, batch in zip(row, losses, encoded, strict=True):
            place = bases.index(recipe.data.bases[tuple(micro[turn].bucket)])
            seen.append((place, weights[turn], part.detach()))
            work = [*_work(sizes, batch, recipe.train.pack), data.cost(micro[turn], batch)]
            totals[1:5] += torch.tensor(work, dtype=torch.float64)
    for base, weight, part in seen:  # after all backward passes: reading a number earlier would stall the device
        total = float(part.sum())
        totals[0] += weight * total
        totals[5 + 2 * base] += total
        totals[6 + 2 * base] += len(part)
    values = summed(totals).tolist()
    means = {
        f"loss_{base}": loss / count
        for base, loss, count in zip(bases, values[5::2], values[6::2], strict=True)
        if count
    }
    samples = int(sum(values[6::2]))
    return StepSums(values[0], samples, int(values[1]), int(values[2]), values[3], values[4], means)


def _too_large(row: Sequence[Any]) -> str:
    sizes = ", ".join(f"{len(batch.captions)} pictures of {batch.bucket[0]}x{batch.bucket[1]}" for batch in row)
    half = "train.pack off" if len(row) > 1 else f"{len(row[0].captions) // 2} needs half of it"
    return (
        f"a {'row' if len(row) > 1 else 'micro-batch'} of {sizes} does not fit into memory; "
        f"give a smaller batch in data.buckets ({half}), or train.checkpointing"
    )


def losses_of(
    model: LensTransformer2DModel, encoded: Sequence[Any], recipe: TrainRecipe, step: int, firsts: Sequence[int]
) -> list[Tensor]:
    """Sample losses (B,) of each encoded batch, packed into one row where the recipe asks for it."""
    device = encoded[0].latents.device
    weights, levels = channel_weights(recipe, device), levels_of(recipe)
    drawn_on = device if recipe.train.noise == "batch" else None
    if recipe.train.pack:
        return packed_training_losses(model, encoded, recipe.run.seed, step, firsts, weights, drawn_on, levels)
    return [training_losses(model, encoded[0], recipe.run.seed, step, firsts[0], weights, drawn_on, levels)]


def _work(sizes: DenoiserSizes, encoded: Any, packed: bool) -> tuple[int, int, float]:
    """Image tokens, text tokens and FLOP of training on a batch; without packing, padding is computed too."""
    number, image_tokens = encoded.latents.shape[:2]
    mask = encoded.text.mask
    if not packed:
        longest = mask.shape[1]
        return number * image_tokens, number * longest, number * training_flops(sizes, image_tokens, longest)
    lengths = mask.sum(1).tolist()
    flops = sum(training_flops(sizes, image_tokens, length) for length in lengths)
    return number * image_tokens, sum(lengths), flops


def cut(counts: Sequence[Sequence[int]], rank: int, average: str) -> tuple[list[int], list[float]]:
    """The position of this process's micro-batches in the whole step.

    Args:
        counts: samples of each micro-batch, by process. Micro-batch j of process r is number j * processes + r.
        average: "sample" or "rank", as in the recipe.

    Returns:
        For each own micro-batch: the number of its first sample in the step, and the weight of each of its samples.
    """
    in_order = [row[turn] for turn in range(len(counts[0])) for row in counts]
    weights = sample_weights(in_order, average)
    own = range(rank, len(in_order), len(counts))
    return [sum(in_order[:number]) for number in own], [weights[number] for number in own]


@torch.no_grad()
def validation_losses(model: nn.Module, data: TrainingData, recipe: TrainRecipe, group: Group) -> dict[str, float]:
    """Mean loss over the held-out micro-batches, all together and by resolution.

    Levels are spread evenly and noise is fixed, so that two measurements differ only by the weights. Every process
    computes all micro-batches: a sharded model needs all processes, and the result is the same for any number of them.
    """
    found: dict[int, list[Tensor]] = {}
    for number, batch in enumerate(data.validation):
        encoded = data.encode(batch)
        count, tokens = encoded.latents.shape[:2]
        _, noise = draw_randomness(recipe.run.seed, -1 - number, 0, encoded.latents.shape)
        with computing(model, group, recipe.train):
            weights = channel_weights(recipe, encoded.latents.device)
            losses = denoiser_losses(model, encoded, spread_times(count, tokens), noise, weights)
        found.setdefault(recipe.data.bases[tuple(batch.bucket)], []).append(losses)
    means = {f"validation_loss_{base}": float(torch.cat(rows).mean()) for base, rows in sorted(found.items())}
    every = torch.cat([losses for rows in found.values() for losses in rows])
    return {"validation_loss": float(every.mean()), **means}
