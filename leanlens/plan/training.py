"""Computes what a training run needs and costs on some devices, in plain numbers: memory, FLOP, hours, energy, money.

What each rate is and who says so stands in `rates.py`.

Every device holds its share of the training state and the whole of the frozen parts. A step is the micro-batches that
fall to one device, with the encoding of their pictures and captions unless those are kept on disk, then one pass of the
optimiser over its share. Sharded weights are gathered twice for each micro-batch and gradients exchanged once; what of
that does not hide behind computing is added. Reading data, checkpoints, validation and sample grids are not counted.

Weights, gradients, AdamW's two moments and every average are float32 and shared out over the devices. Activations that
the backward pass needs were counted on eager blocks, in bytes for each token and channel of a block: 154 in float32,
129 under autocast (norms keep float32), 77 where sharded weights make everything bfloat16. With recomputation only the
input of each block stays, and one block at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leanlens.plan.compute import MAX_TEXT_TOKENS, MEAN_TEXT_TOKENS, DenoiserSizes, training_flops
from leanlens.plan.devices import GIB, Device
from leanlens.plan.memory import ModelSizes
from leanlens.plan.rates import assumed, caption_seconds, latent_seconds, training_seconds, usable_bytes

FLOAT32_BYTES, AUTOCAST_BYTES, SHARDED_BYTES = 154, 129, 77  # for each token and channel of a block
TRAINED_COPIES = 4  # of each weight, in float32: itself, its gradient, two moments


@dataclass(frozen=True)
class MicroBatch:
    """`pictures` of one resolution, `base` pixels squared; each keeps `activations` bytes for the backward pass."""

    base: int
    pictures: int
    activations: float

    @property
    def tokens(self) -> int:
        """Image tokens of one picture."""
        return self.base**2 // 256


@dataclass(frozen=True)
class TrainingRun:
    """A training run, as a recipe describes it.

    Attributes:
        model: sizes of all parts.
        batches: one for each resolution; all are assumed to be equally frequent.
        steps: optimiser steps.
        micro_batches: number in one step, over all devices.
        precision: bfloat16 or float32, for the matrix products.
        state: bytes on each device between steps: weights, gradients, optimiser, averages.
        frozen: bytes of text encoder and autoencoder on each device.
        together: micro-batches whose activations are in memory at once.
        cached: latents and features are cached on disk, so encoding is not counted.
        recompute: blocks are recomputed in the backward pass.
        compiled: blocks are compiled.
    """

    model: ModelSizes
    batches: tuple[MicroBatch, ...]
    steps: int
    micro_batches: int
    precision: str
    state: float
    frozen: float
    together: int = 1
    cached: bool = False
    recompute: bool = False
    compiled: bool = False
    text_tokens: int = MEAN_TEXT_TOKENS


@dataclass(frozen=True)
class TrainingPlan:
    """Memory, time and cost of a training run.

    Attributes:
        state, activations, frozen: bytes on each device.
        peak, limit: bytes that one device needs and has.
        largest: base -> pictures of a micro-batch that would fit.
        step_seconds, hours: None if a rate is unknown.
        utilisation: the model's own operations as a share of the peak rate.
        images, flops: of the whole run; FLOP of the denoiser.
        kilowatt_hours: energy of the devices at their power limit, without the machines around them and cooling.
        money: cost in the currency of the price; None without a price.
    """

    state: float
    activations: float
    frozen: float
    peak: float
    limit: float
    largest: dict[int, int]
    step_seconds: float | None
    hours: float | None
    utilisation: float | None
    images: float
    flops: float
    kilowatt_hours: float | None
    money: float | None

    @property
    def fits(self) -> bool:
        """Whether the micro-batch of every resolution fits a device."""
        return self.peak <= self.limit


def denoiser_parameters(sizes: DenoiserSizes, head_dim: int) -> int:
    """Number of weights of the denoiser.

    Args:
        head_dim: channels of an attention head.
    """
    d = sizes.width
    block = 2 * (3 * d * d + 3 * d + d * d + d + 3 * d * sizes.hidden + 6 * d * d + 6 * d) + 4 * d + 4 * head_dim
    return sizes.layers * block + sizes.around_blocks


def state_bytes(parameters: int, averages: int, devices: int = 1) -> int:
    """Bytes on each device between steps: weights, gradients, optimiser, averages."""
    return 4 * (TRAINED_COPIES + averages) * parameters // devices


def checkpoint_bytes(parameters: int, averages: int) -> int:
    """Bytes of a checkpoint: the state without gradients."""
    return 4 * (TRAINED_COPIES - 1 + averages) * parameters


def activation_bytes(
    sizes: DenoiserSizes, image_tokens: int, precision: str, sharded: bool = False, recompute: bool = False
) -> int:
    """Bytes that one image with a long caption keeps for its backward pass.

    Args:
        precision: bfloat16 or float32, of the matrix products.
        sharded: the weights are sharded over several devices.
        recompute: blocks are computed again in the backward pass.
    """
    half = precision == "bfloat16"
    live = FLOAT32_BYTES if not half else SHARDED_BYTES if sharded else AUTOCAST_BYTES
    per_channel = (2 if half else 4) * sizes.layers + live if recompute else live * sizes.layers
    return (image_tokens + MAX_TEXT_TOKENS) * sizes.width * per_channel


def largest_batch(free: float, activations: float, together: int = 1) -> int:
    """The largest micro-batch that fits into `free` bytes, with `together` micro-batches in memory at once."""
    return max(0, int(free // (together * activations)))


def images_per_step(micro_batches: int, batches: Sequence[MicroBatch]) -> float:
    """Images in one step, if all resolutions are equally frequent."""
    return micro_batches * _mean(batches, lambda batch: batch.pictures)


def flops_per_step(
    sizes: DenoiserSizes, micro_batches: int, batches: Sequence[MicroBatch], text_tokens: int = MEAN_TEXT_TOKENS
) -> float:
    """FLOP of the denoiser in one such step, forward and backward."""
    return micro_batches * _mean(
        batches, lambda batch: batch.pictures * training_flops(sizes, batch.tokens, text_tokens)
    )


def plan_training(
    run: TrainingRun, device: Device, count: int = 1, price_per_hour: float | None = None
) -> TrainingPlan:
    """Plan `run` on `count` devices, each at `price_per_hour`.

    Raises:
        ValueError: the micro-batches cannot be divided among the devices, or the price is below 0.
    """
    if count < 1 or run.micro_batches % count:
        raise ValueError(f"invalid count {count}: train.micro_batches {run.micro_batches} must be a multiple of it")
    if price_per_hour is not None and price_per_hour < 0:
        raise ValueError(f"invalid price_per_hour {price_per_hour:g}: expected 0 or more")
    base = (assumed("process") if device.kind == "cpu" else assumed("context")) + run.state + run.frozen
    activations = max(run.together * batch.pictures * batch.activations for batch in run.batches)
    limit = usable_bytes(device, device.memory * GIB)
    largest = {batch.base: largest_batch(limit - base, batch.activations, run.together) for batch in run.batches}
    seconds = step_seconds(run, device, count)
    hours = None if seconds is None else run.steps * seconds / 3600
    flops = flops_per_step(run.model.denoiser, run.micro_batches, run.batches, run.text_tokens)
    peak_rate = (device.single if run.precision == "float32" else device.half) * 1e12
    return TrainingPlan(
        state=run.state,
        activations=activations,
        frozen=run.frozen,
        peak=base + activations,
        limit=limit,
        largest=largest,
        step_seconds=seconds,
        hours=hours,
        utilisation=flops / count / seconds / peak_rate if seconds and peak_rate else None,
        images=run.steps * images_per_step(run.micro_batches, run.batches),
        flops=run.steps * flops,
        kilowatt_hours=None if hours is None or not device.watts else hours * count * device.watts / 1000,
        money=None if hours is None or price_per_hour is None else hours * count * price_per_hour,
    )


def step_seconds(run: TrainingRun, device: Device, count: int) -> float | None:
    """Seconds of one optimiser step on `count` devices; None if a rate is unknown."""
    if not device.single:
        return None
    parts = []
    for batch in run.batches:
        each = _picture_seconds(run, device, batch)
        if each is None:
            return None
        computing = batch.pictures * each
        parts.append(computing + max(0.0, _exchange_seconds(run, device, count) - assumed("overlap") * computing))
    optimiser = 2 * run.state / (device.bandwidth * 1e9 * assumed("stream"))
    return run.micro_batches / count * sum(parts) / len(parts) + optimiser


def _picture_seconds(run: TrainingRun, device: Device, batch: MicroBatch) -> float | None:
    """One picture on one device: encoded, forward, backward."""
    sizes: DenoiserSizes = run.model.denoiser
    learning = training_seconds(
        device, run.precision, sizes, batch.tokens, run.text_tokens, run.compiled, run.recompute
    )
    if run.cached or learning is None:
        return learning
    latents = latent_seconds(device, "float32", run.model.autoencoder, batch.base, batch.base)
    captions = caption_seconds(device, "float32", run.model.encoder, run.text_tokens)
    return None if latents is None or captions is None else learning + latents + captions


def _exchange_seconds(run: TrainingRun, device: Device, count: int) -> float:
    """Weights gathered in two bytes for the forward and again for the backward, gradients summed in four."""
    if count == 1:
        return 0.0
    return 8 * run.model.denoiser_parameters * (count - 1) / count / (device.peer * 1e9)


def _mean(batches: Sequence[MicroBatch], of: Callable[[MicroBatch], float]) -> float:
    return sum(of(batch) for batch in batches) / len(batches)
