"""The autoencoder as a thing that is trained: its recipe, its losses, its loop, its export.

Comes in: captioned pictures, whose captions are not read. Goes out: a folder that `AutoencoderKLFlux2.from_pretrained`
opens, batch-norm statistics of the packed latents included. Knows nothing of prompts, denoisers or processes.

One step reads some pictures, takes the busiest of a few random crops of each, and lowers

    |y - x| + perceptual * LPIPS-like distance + semantic * (1 - cosine) + kl * KL

where the cosine is between the features that a frozen image network has of a crop and a linear image of the latents at
the same place: a latent space in which what is alike lies close is learnt faster by a denoiser.

With `train.part = "decoder"` the encoder and the statistics of its latents stay as they are, so that what a denoiser
learnt stays valid, and the decoder learns on latents that are a little wrong, as a denoiser's are.

Shapes: B crops of side S pixels, z latent channels, C = 4 z packed channels, L tokens of 16 x 16 pixels.

Sources: Lens, arXiv 2605.21573, section 3 (a semantic autoencoder); alignment of latents with features, arXiv
2501.01423; the perceptual distance of arXiv 1801.03924, from the first layers of its VGG16 only; decoders that learn on
noisy latents, arXiv 2510.11690.
"""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn

from leanlens.config import plain
from leanlens.models import vae as packing
from leanlens.pictures.sources import open_source
from leanlens.train.alone import Progress, claim, is_time_up, rate, replace_export, restore, save
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.autoencoder_losses import LossNetworks
from leanlens.train.compiled import compile_checked, undo_compile
from leanlens.train.crops import Pictures, fixed_crops, pictures_of_sources
from leanlens.train.ema import Averages
from leanlens.train.linear import FIRST_LOG_VARIANCE, start_linear
from leanlens.train.lock import held
from leanlens.train.metrics import MetricsFile
from leanlens.train.optim import build_optimizers, clip_gradients, set_rate
from leanlens.train.progress import ProgressLine
from leanlens.train.resume import named
from leanlens.train.signals import StopRequest, say_stopped, stop_on_signals
from leanlens.weights.load import open_vae

HELD_OUT_STEPS = 8  # whose held-out crops are measured
LINEAR_STEPS = 16  # whose crops decide where the weights start


def train_autoencoder(recipe: AutoencoderRecipe, device: torch.device, pictures: Pictures | None = None) -> Progress:
    """Start or continue the run in `recipe.run.dir`; the finished autoencoder is `run.dir/export`.

    Args:
        pictures: what is learnt from; None opens `crops.sources`.

    Raises:
        ValueError: sources without pictures, a missing package, or a folder that holds another run, or in which another
            process trains.
        FloatingPointError: a loss that is not finite.
    """
    with held(recipe.run.dir), stop_on_signals() as stop:
        return _train(recipe, device, pictures or pictures_of_sources(recipe), stop)


def _train(recipe: AutoencoderRecipe, device: torch.device, pictures: Pictures, stop: StopRequest) -> Progress:
    folder = recipe.run.dir
    with named("crops.validation"):
        held_out = [open_source(path) for path in recipe.crops.validation]
    model = open_autoencoder(recipe).to(device)
    decoder_alone = recipe.train.part == "decoder"
    if decoder_alone:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    heads = LossNetworks(recipe, device)
    claim(recipe)
    trained = nn.ModuleDict({"vae": model, "heads": heads.projection})
    optimizers = build_optimizers(trained, recipe.optim)
    averages = Averages(trained, [recipe.ema.export] if recipe.ema.export else [])
    progress = restore(folder, trained, optimizers, averages)
    metrics = MetricsFile(folder, progress.step)
    measured = fixed_crops(held_out, recipe, HELD_OUT_STEPS) if held_out else []
    if progress.step == 0 and recipe.start is None and recipe.autoencoder.norm_num_groups == 1:
        start_linear(model, torch.cat(pictures.fixed(LINEAR_STEPS)).to(device))
    crops = pictures.batches(progress.step)
    began, before, stop.saves = time.monotonic(), progress.seconds, True
    line = ProgressLine(recipe.train.steps, progress.step, recipe.train.minutes)
    model.train()
    model.bn.eval()  # its statistics are those of the finished encoder; `measure_latents` takes them
    learning = [model.decoder] if decoder_alone else [model.encoder, model.decoder]
    if recipe.train.compile and progress.step < recipe.train.steps:
        some = pictures.fixed(1)[0].to(device)
        compile_checked(learning, lambda: trial_loss(model, some, recipe))
    while progress.step < recipe.train.steps:
        used = time.monotonic() - began
        if is_time_up(recipe, used):
            break
        if stop:
            progress.stopped = True
            break
        x = next(crops).to(device)
        generator = torch.Generator(device).manual_seed(recipe.run.seed * 2**32 + progress.step)
        noise = torch.randn(_latent_shape(recipe, x), generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.train.precision == "bfloat16"):
            deviation = noise_deviation(model, recipe.losses.latent_noise, len(x), generator) if decoder_alone else None
            y, mean, logvar = reconstruct(model, x, noise, deviation)
            terms = heads.losses(x, y.float(), mean.float(), logvar.float(), generator)
        loss = torch.stack(list(terms.values())).sum()
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(f"step {progress.step + 1}: loss {float(loss.detach()):g}; the run stopped")
        trained.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(trained, recipe.optim.clip)
        set_rate(optimizers, rate(recipe, progress.step, used))
        for optimizer in optimizers:
            optimizer.step()
        progress.step, progress.samples = progress.step + 1, progress.samples + len(x)
        averages.update(progress.samples, len(x))
        progress.seconds = before + time.monotonic() - began
        done = {name: float(term.detach()) for name, term in terms.items()}
        if progress.step % recipe.train.save_every == 0 and measured:
            with averages.in_place(recipe.ema.export):
                done["held_out"] = held_out_error(model, measured)
        metrics.write({"step": progress.step, "loss": float(loss.detach()), **done, "seconds": progress.seconds})
        if progress.step % recipe.train.save_every == 0:
            save(folder, trained, optimizers, progress, averages)
        line.tell(progress.step, _shown(done), always="held_out" in done or progress.step == recipe.train.steps)
    line.close()
    metrics.close()
    save(folder, trained, optimizers, progress, averages)
    if progress.stopped:
        say_stopped(stop, progress.step)
        return progress
    undo_compile(learning)  # pictures have other sizes than crops
    with averages.in_place(recipe.ema.export):
        export_autoencoder(model, None if decoder_alone else pictures.whole(), folder / "export")
    return progress


def open_autoencoder(recipe: AutoencoderRecipe) -> Any:
    """The autoencoder of a recipe in float32: random by `run.seed`, or from `start`.

    Raises:
        ValueError: `start` is no folder, or has other sizes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        model: Any = AutoencoderKLFlux2(**plain(recipe.autoencoder))
        # With noise of the size of the latents nothing would get through at first.
        nn.init.constant_(model.quant_conv.bias[recipe.autoencoder.latent_channels :], FIRST_LOG_VARIANCE)
    if recipe.start is not None:
        if not (Path(recipe.start) / "config.json").is_file():
            raise ValueError(f"start {recipe.start!r} holds no config.json; give the folder of an autoencoder")
        with named("start"):
            other: Any = open_vae(recipe.start, torch.float32)
        ours, theirs = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, other))
        if ours != theirs or other.config.norm_num_groups != recipe.autoencoder.norm_num_groups:
            raise ValueError(f"start {recipe.start!r} is an autoencoder of other sizes than [autoencoder]")
        model.load_state_dict(other.state_dict())
    return model.to(memory_format=torch.channels_last)


def noise_deviation(model: Any, most: float, crops: int, generator: torch.Generator) -> Tensor:
    """Standard deviations of the noise on latents, (B, z, 1, 1): up to `most` times that of each latent number.

    Every crop has a level of its own, uniform in 0..`most`.
    """
    variance = model.bn.running_var.unflatten(0, (-1, 4)).mean(1)  # packed: four places of each channel
    levels = most * torch.rand(crops, generator=generator, device=generator.device)
    return (levels[:, None] * variance.sqrt())[:, :, None, None]


def reconstruct(model: Any, x: Tensor, noise: Tensor, deviation: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What a noisy latent decodes to, its mean and its log variance.

    Args:
        x: crops (B, 3, S, S) in -1..1.
        noise: normal numbers in the shape of the latents, (B, z, S / 8, S / 8).
        deviation: of the noise, in a shape that spreads over it; None: the posterior's.
    """
    moments = model.encoder(x)
    if model.quant_conv is not None:
        moments = model.quant_conv(moments)
    mean, logvar = moments.chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    z = mean + noise * (torch.exp(0.5 * logvar) if deviation is None else deviation)
    if model.post_quant_conv is not None:
        z = model.post_quant_conv(z)
    return model.decoder(z), mean, logvar


def trial_loss(model: Any, x: Tensor, recipe: AutoencoderRecipe) -> Tensor:
    """The mean absolute error of crops (B, 3, S, S) and the mean square of their latents, which reaches the encoder
    without the decoder; the same at every call."""
    noise = torch.zeros(_latent_shape(recipe, x), device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.train.precision == "bfloat16"):
        y, mean, _ = reconstruct(model, x, noise)
    return (y.float() - x).abs().mean() + mean.float().square().mean()


@torch.no_grad()
def held_out_error(model: Any, crops: Iterable[Tensor]) -> float:
    """Mean absolute error of decoded means in float32, over batches (B, 3, S, S) in -1..1."""
    errors = []
    for x in crops:
        x = x.to(model.device)
        errors.append(float((model.decode(model.encode(x).latent_dist.mode()).sample - x).abs().mean()))
    return sum(errors) / len(errors)


@torch.no_grad()
def measure_latents(model: Any, pictures: Iterable[Tensor]) -> None:
    """Set the batch-norm statistics to those of the packed latents of pictures (1, 3, H, W) in -1..1."""
    model.eval()
    tokens = torch.cat([packing.pack(model.encode(picture).latent_dist.mode())[0] for picture in pictures]).double()
    model.bn.running_mean.copy_(tokens.mean(0))
    model.bn.running_var.copy_(tokens.var(0))


def export_autoencoder(model: Any, whole: Iterable[Tensor] | None, output: Path) -> None:
    """Measure the latents on whole pictures (1, 3, H, W) in -1..1, if there are any, and write the folder anew."""
    if whole is not None:
        measure_latents(model, (picture.to(model.device) for picture in whole))
    replace_export(output, model.to(memory_format=torch.contiguous_format).save_pretrained)


def _latent_shape(recipe: AutoencoderRecipe, x: Tensor) -> tuple[int, int, int, int]:
    scale = 2 ** (len(recipe.autoencoder.block_out_channels) - 1)
    return len(x), recipe.autoencoder.latent_channels, x.shape[2] // scale, x.shape[3] // scale


def _shown(terms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
