"""Training, from the first step to the exported pipeline; the file to read first.

Comes in: a recipe. Goes out: checkpoints, metrics, sample grids and a pipeline folder in `run.dir`. Each part is a file
of this room; here they are called in order.

One step: every process takes its share of `train.micro_batches` micro-batches, encodes them with the frozen parts and
adds up the gradients of

    sum over samples of |v(x_t, t, text) - (noise - x0)|^2 (mean over tokens and channels) / number of samples,

the number counted over all micro-batches and processes; then one clipped update, and the averages follow.

Source: Lens, arXiv 2605.21573, section 3.
"""

import math
import statistics
import time
from importlib.util import find_spec
from typing import Any

from leanlens.dist import Group, wait_for_all
from leanlens.log import logger
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.train.best_effort import best_effort
from leanlens.train.checkpoint import Checkpoints, latest_checkpoint
from leanlens.train.config import TrainRecipe
from leanlens.train.data import open_data
from leanlens.train.denoiser_model import build_denoiser, freeze_unread
from leanlens.train.ema import Averages
from leanlens.train.export import replace_pipeline, whole_weights, write_snapshots
from leanlens.train.frozen_models import open_frozen_models
from leanlens.train.lock import held
from leanlens.train.memory_check import require_memory
from leanlens.train.metrics import MetricsFile, peak_flops, peak_memory
from leanlens.train.optim import build_optimizers, clip_gradients, rate_factor, set_rate
from leanlens.train.parallel import computing, parallelize
from leanlens.train.progress import ProgressLine
from leanlens.train.sample import draw_grid
from leanlens.train.signals import StopRequest, say_stopped, stop_on_signals
from leanlens.train.start import load_start
from leanlens.train.state import Progress, RunState, claim_folder
from leanlens.train.step import StepSums, TrainingData, accumulate_gradients, validation_losses


def train(recipe: TrainRecipe, group: Group, data: TrainingData | None = None) -> Progress:
    """Start or continue the run in `recipe.run.dir` and train until `train.steps`, or until Ctrl-C or SIGTERM.

    Args:
        recipe: the whole run.
        group: the processes that train together.
        data: micro-batches and their encoder; None opens what the recipe names.

    Returns:
        How far the run is, and whether a signal stopped it.

    Raises:
        ValueError: another run is in `run.dir`, or anything in the recipe that cannot be; before a step is made.
        FloatingPointError: a loss that stays broken after `guard.restores` restorations.
        OSError: the last checkpoint could not be written.
    """
    share = require_startable(recipe, group)
    with held(recipe.run.dir), stop_on_signals() as stop:
        claim_folder(recipe, group)
        denoiser, pipeline = open_models(recipe)
        data = data or open_data(recipe, pipeline, group)
        return _train(recipe, group, denoiser, pipeline, data, share, stop)


def require_startable(recipe: TrainRecipe, group: Group) -> int:
    """The micro-batches of a step that fall to this process, after the checks for which nothing is built.

    Raises:
        ValueError: micro-batches that cannot be shared out or do not fit into memory, or a package that is missing.
    """
    share = _share_of_micro_batches(recipe, group)
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


def open_models(recipe: TrainRecipe) -> tuple[LensTransformer2DModel, LensPipeline]:
    """The denoiser as a new run starts with it, and the pipeline of it and the frozen parts.

    Raises:
        ValueError: parts or a start that are not there, or of other sizes.
    """
    denoiser = build_denoiser(recipe.model, recipe.run.seed)
    if latest_checkpoint(recipe.run.dir / "checkpoints") is None:  # else all weights come from there
        load_start(denoiser, recipe.init)
    freeze_unread(denoiser)
    return denoiser, open_frozen_models(recipe.model, denoiser)


def _train(
    recipe: TrainRecipe,
    group: Group,
    denoiser: LensTransformer2DModel,
    pipeline: LensPipeline,
    data: TrainingData,
    share: int,
    stop: StopRequest,
) -> Progress:
    model = parallelize(denoiser, group, recipe.train)
    optimizers = build_optimizers(model, recipe.optim)
    averages = Averages(model, recipe.ema.stds)
    state = RunState(model, optimizers, averages, data.stream)
    checkpoints = Checkpoints(recipe.run.dir / "checkpoints", group, recipe.save.keep)
    if (latest := checkpoints.latest()) is not None:
        state.restore(latest)
    else:  # proves that there is room, and gives the guard something to return to
        checkpoints.save(0, state.tensors(), state.facts())
    metrics = MetricsFile(recipe.run.dir, state.progress.step, recipe.metrics.tensorboard) if group.leads else None
    if metrics is not None:
        _say_where(state.progress.step, recipe.train.steps, metrics)
    batches, restored, stopping, stop.saves = iter(data.stream), 0, False, True
    line = ProgressLine(recipe.train.steps, state.progress.step, silent=not group.leads)

    try:
        while state.progress.step < recipe.train.steps and not stopping:
            step, began = state.progress.step, time.monotonic()
            micro = [next(batches) for _ in range(share)]
            sums = accumulate_gradients(model, data, micro, step, bool(stop), recipe, group)
            norm = clip_gradients(model, recipe.optim.clip)
            if fault := _fault(sums.loss, norm, state.progress.recent, recipe):
                restored += 1
                _go_back(state, checkpoints, metrics, f"step {step + 1}: {fault}", recipe.guard.restores - restored)
                continue

            set_rate(optimizers, rate_factor(step, recipe.optim))
            for optimizer in optimizers:
                optimizer.step()
            _advance(state.progress, sums, recipe.guard.window)
            averages.update(state.progress.images, sums.images)

            done, held_out = state.progress.step, {}
            stopping = sums.stopping or done == recipe.train.steps
            with averages.in_place(recipe.ema.export if _looks(done, recipe) else 0):
                if _due(done, recipe.validate_.every):
                    held_out = validation_losses(model, data, recipe, group)
                if _due(done, recipe.sample.every):
                    with computing(model, group, recipe.train):
                        draw_grid(
                            pipeline, recipe.sample, recipe.data.buckets[-1].base, _grid_path(recipe, done), group.leads
                        )
            if _due(done, recipe.ema.every):
                write_snapshots(recipe.run.dir, done, state.progress.images, averages, group.leads)
            seconds = time.monotonic() - began
            state.progress.seconds += seconds
            if metrics is not None:
                rate = rate_factor(step, recipe.optim) * recipe.optim.lr
                values = {**_line(state.progress, sums, norm, rate, seconds, recipe, group), **held_out}
                metrics.write(values)
                line.tell(done, _words(values), always=stopping or bool(held_out))
            if stopping or done % recipe.save.every == 0:
                restored = 0
                _save(checkpoints, state, held_out.get("validation_loss"), must=stopping)
            else:
                _settle(checkpoints)
    finally:
        line.close()

    checkpoints.settle()
    if metrics is not None:
        metrics.close()
    if state.progress.step >= recipe.train.steps:
        finish(state, recipe, group)
    else:
        state.progress.stopped = True
        if group.leads:
            say_stopped(stop, state.progress.step)
    return state.progress


def finish(state: RunState, recipe: TrainRecipe, group: Group) -> None:
    """Export the averaged weights to `run.dir/export`."""
    with state.averages.in_place(recipe.ema.export):
        weights = whole_weights(state.model)
    if group.leads:
        denoiser = build_denoiser(recipe.model, recipe.run.seed)
        denoiser.load_state_dict(weights)
        replace_pipeline(recipe, denoiser, recipe.run.dir / "export")
        logger.info("exported %s", recipe.run.dir / "export")
    wait_for_all()


def _share_of_micro_batches(recipe: TrainRecipe, group: Group) -> int:
    share, rest = divmod(recipe.train.micro_batches, group.world_size)
    if rest or not share:
        raise ValueError(
            f"train.micro_batches {recipe.train.micro_batches} cannot be shared out over {group.world_size} processes; "
            "give a multiple of their number"
        )
    return share


def _fault(loss: float, norm: float, recent: list[float], recipe: TrainRecipe) -> str | None:
    """What is wrong with a step's loss and gradient, or None."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return f"loss {loss:g}, gradient norm {norm:g}"
    if len(recent) >= recipe.guard.window and loss > recipe.guard.spike * statistics.median(recent):
        return (
            f"loss {loss:g} is more than {recipe.guard.spike:g} times the recent median {statistics.median(recent):g}"
        )
    return None


def _go_back(state: RunState, checkpoints: Checkpoints, metrics: MetricsFile | None, fault: str, left: int) -> None:
    """Restore the last checkpoint and say so; the data goes on, so that the broken step is not met again."""
    _settle(checkpoints, wait=True)
    latest = checkpoints.latest()
    if latest is None or left < 0:
        raise FloatingPointError(
            f"{fault}; the run stopped"
            + (f", {latest} is the last good state" if latest else "; there is no checkpoint")
        )
    state.restore(latest, rewind=False)
    logger.warning("%s; restored the state after step %d and continuing with new data", fault, state.progress.step)
    if metrics is not None:
        with best_effort(metrics.path):
            metrics.rewind(state.progress.step)


def _advance(progress: Progress, sums: StepSums, window: int) -> None:
    progress.step += 1
    progress.images += sums.images
    progress.image_tokens += sums.image_tokens
    progress.text_tokens += sums.text_tokens
    progress.flops += sums.flops
    progress.encoder_flops += sums.encoder_flops
    progress.recent = [*progress.recent, sums.loss][-window:]


def _line(
    progress: Progress, sums: StepSums, norm: float, rate: float, seconds: float, recipe: TrainRecipe, group: Group
) -> dict[str, Any]:
    """One line of metrics: of this step, and the ledger since the start (FLOP; model, encoders, captioning apart)."""
    peak = peak_flops(group.device, recipe.metrics.peak_tflops)
    return {
        "step": progress.step,
        "loss": sums.loss,
        **{f"loss_{base}": loss / sums.counts[base] for base, loss in sums.losses.items()},
        "grad_norm": norm,
        "lr": rate,
        "images": progress.images,
        "image_tokens": progress.image_tokens,
        "text_tokens": progress.text_tokens,
        "flops": progress.flops,
        "flops_encoders": progress.encoder_flops,
        "flops_captioning": recipe.data.captioning_flops,
        "images_per_s": sums.images / seconds,
        "tokens_per_s": (sums.image_tokens + sums.text_tokens) / seconds,
        "model_flops_utilisation": sums.flops / seconds / (peak * group.world_size) if peak else None,
        "memory_gb": peak_memory(group.device),
        "seconds": progress.seconds,
    }


def _say_where(done: int, steps: int, metrics: MetricsFile) -> None:
    if done >= steps:
        logger.info("the run has done %d steps already, train.steps is %d", done, steps)
    else:
        begun = f"continuing after step {done}" if done else "starting"
        logger.info("%s; every step has a line in %s", begun, metrics.path)


def _words(line: dict[str, Any]) -> str:
    """What a line of metrics says to those who look at the output alone."""
    held_out = f", validation loss {line['validation_loss']:.4g}" if "validation_loss" in line else ""
    return f"loss {line['loss']:.4g}{held_out}, {line['images_per_s']:.3g} images/s"


def _due(done: int, every: int | None) -> bool:
    return every is not None and done % every == 0


def _looks(done: int, recipe: TrainRecipe) -> bool:
    return _due(done, recipe.validate_.every) or _due(done, recipe.sample.every)


def _grid_path(recipe: TrainRecipe, done: int) -> Any:
    return recipe.run.dir / "samples" / f"step-{done:08d}.png"


def _save(checkpoints: Checkpoints, state: RunState, score: float | None, must: bool) -> None:
    """Start a checkpoint. Where it fails on the way training goes on; where it `must` succeed the error is raised."""
    try:
        checkpoints.save(state.progress.step, state.tensors(), state.facts(), score)
    except OSError as error:
        if must:
            raise
        logger.warning("%s; training goes on", error)


def _settle(checkpoints: Checkpoints, wait: bool = False) -> None:
    try:
        checkpoints.settle(wait)
    except OSError as error:
        logger.warning("%s; training goes on", error)
