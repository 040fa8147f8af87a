"""The denoiser as a task of the training loop.

One step: every process takes its share of `train.micro_batches` micro-batches, encodes them with the frozen models and
adds up the gradients of

    sum over samples of |v(x_t, t, text) - (noise - x0)|^2 (mean over tokens and channels) / number of samples,

the number counted over all micro-batches and processes; then one clipped update, and the averages follow.

Source: Lens, arXiv 2605.21573, section 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from leanlens.dist import Group, wait_for_all
from leanlens.log import logger
from leanlens.machine import peak_memory
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.train.config import TrainRecipe
from leanlens.train.data import open_data
from leanlens.train.denoiser_model import build_denoiser, freeze_unread
from leanlens.train.export import replace_pipeline
from leanlens.train.frozen_models import open_frozen_models
from leanlens.train.loop import StepFigures, Task, train
from leanlens.train.memory_check import require_memory
from leanlens.train.metrics import peak_flops
from leanlens.train.optim import build_optimizers
from leanlens.train.parallel import computing, parallelize, whole_tensor
from leanlens.train.run_weights import load_start, whole_denoiser
from leanlens.train.sample import draw_grid
from leanlens.train.state import Progress, StepSums, Stream, trained_weights
from leanlens.train.step import TrainingData, accumulate_gradients, validation_losses


@dataclass(frozen=True)
class OpenDenoiser:
    """Models and data of a denoiser run.

    Attributes:
        model: the denoiser, on the devices of `group`; `pipeline` holds the same object.
        share: micro-batches of a step that this process computes.
    """

    recipe: TrainRecipe
    group: Group
    model: LensTransformer2DModel
    pipeline: LensPipeline
    data: TrainingData
    share: int


def train_denoiser(recipe: TrainRecipe, group: Group, data: TrainingData | None = None) -> Progress:
    """Start or continue the run in `recipe.run.dir`; see `leanlens.train.loop.train`.

    Args:
        data: micro-batches and their encoder; None opens what the recipe names.
    """
    require_startable(recipe, group)
    return train(replace(DENOISER, build=partial(build, data=data)), recipe, group)


def require_startable(recipe: TrainRecipe, group: Group) -> int:
    """Check a recipe without building anything; the micro-batches of a step that this process computes.

    Raises:
        ValueError: micro-batches that cannot be divided or do not fit into memory, or a missing package.
    """
    share, rest = divmod(recipe.train.micro_batches, group.world_size)
    if rest or not share:
        raise ValueError(
            f"invalid train.micro_batches {recipe.train.micro_batches} for {group.world_size} processes: expected a "
            "multiple of their number"
        )
    require_memory(recipe, group)
    if recipe.metrics.tensorboard and find_spec("tensorboard") is None:
        raise ValueError("metrics.tensorboard needs the package tensorboard; install it or set it to false")
    if recipe.optim.warmup > recipe.train.steps and group.leads:
        logger.warning(
            "optim.warmup %d is more than train.steps %d: the run ends before the learning rate reaches optim.lr",
            recipe.optim.warmup,
            recipe.train.steps,
        )
    return share


def build(recipe: TrainRecipe, group: Group, begun: bool, data: TrainingData | None = None) -> OpenDenoiser:
    """Everything that a run needs, on the devices of `group`.

    Raises:
        ValueError: frozen models, a start or data that are missing or have other sizes.
    """
    denoiser, pipeline = open_models(recipe, begun)
    data = data or open_data(recipe, pipeline, group)
    share = recipe.train.micro_batches // group.world_size
    return OpenDenoiser(recipe, group, parallelize(denoiser, group, recipe.train), pipeline, data, share)


def open_models(recipe: TrainRecipe, begun: bool = False) -> tuple[LensTransformer2DModel, LensPipeline]:
    """The denoiser with its initial weights, and the pipeline that it forms with the frozen models.

    Args:
        begun: whether a checkpoint will provide the weights, so that `init.from` is not read.

    Raises:
        ValueError: frozen models or a start that are missing or have other sizes.
    """
    denoiser = build_denoiser(recipe.model, recipe.run.seed)
    if not begun:
        load_start(denoiser, recipe.init)
    freeze_unread(denoiser)
    return denoiser, open_frozen_models(recipe.model, denoiser)


def _trainable(opened: OpenDenoiser) -> nn.Module:
    return opened.model


def _batches(opened: OpenDenoiser) -> Stream:
    return opened.data.stream


def _loss(opened: OpenDenoiser, batches: Iterator[Any], step: int) -> StepSums:
    micro = [next(batches) for _ in range(opened.share)]
    return accumulate_gradients(opened.model, opened.data, micro, step, opened.recipe, opened.group)


def _is_due(recipe: TrainRecipe, done: int) -> bool:
    return _every(done, recipe.validate_.every) or _every(done, recipe.sample.every)


def _every(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def _validate(opened: OpenDenoiser, done: int) -> dict[str, float]:
    """The held-out losses, and a grid of pictures, whichever is due."""
    recipe, group, measured = opened.recipe, opened.group, {}
    if _every(done, recipe.validate_.every):
        measured = validation_losses(opened.model, opened.data, recipe, group)
    if _every(done, recipe.sample.every):
        path = recipe.run.dir / "samples" / f"step-{done:08d}.png"
        with computing(opened.model, group, recipe.train):
            draw_grid(opened.pipeline, recipe.sample, recipe.data.buckets[-1].base, path, group.leads)
    return measured


def _line(opened: OpenDenoiser, progress: Progress, sums: StepSums, figures: StepFigures) -> dict[str, Any]:
    """One line of metrics: this step, and FLOP since the start, apart for the model, the encoders and captioning."""
    recipe, group, seconds = opened.recipe, opened.group, figures.seconds
    peak = peak_flops(group.device, recipe.metrics.peak_tflops)
    return {
        "step": progress.step,
        "loss": sums.loss,
        **sums.values,
        "grad_norm": figures.norm,
        "lr": figures.lr,
        "images": progress.samples,
        "image_tokens": progress.image_tokens,
        "text_tokens": progress.text_tokens,
        "flops": progress.flops,
        "flops_encoders": progress.encoder_flops,
        "flops_captioning": recipe.data.captioning_flops,
        "images_per_s": sums.samples / seconds,
        "tokens_per_s": (sums.image_tokens + sums.text_tokens) / seconds,
        "model_flops_utilisation": sums.flops / seconds / (peak * group.world_size) if peak else None,
        "memory_gb": peak_memory(group.device) / 1e9,
        "seconds": progress.seconds,
        **figures.measured,
    }


def _words(line: dict[str, Any]) -> str:
    held_out = f", validation loss {line['validation_loss']:.4g}" if "validation_loss" in line else ""
    return f"loss {line['loss']:.4g}{held_out}, {line['images_per_s']:.3g} images/s"


def _export(opened: OpenDenoiser, folder: Path) -> None:
    """Write a pipeline folder with the whole denoiser; every process contributes its shard of the weights."""
    trained = {name: whole_tensor(weight) for name, weight in trained_weights(opened.model).items()}
    if opened.group.leads:
        replace_pipeline(opened.recipe, whole_denoiser(opened.recipe, trained), folder)
        logger.info("exported %s", folder)
    wait_for_all()


DENOISER: Task[TrainRecipe, OpenDenoiser] = Task(
    build=build,
    trainable=_trainable,
    batches=_batches,
    loss=_loss,
    is_due=_is_due,
    validate=_validate,
    line=_line,
    words=_words,
    export=_export,
    score="validation_loss",
    # torch creates the moments of a first checkpoint with a step that it counts; existing runs depend on that count.
    optimizers=partial(build_optimizers, counted=1),
)
