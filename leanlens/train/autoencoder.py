"""The autoencoder as a task of the training loop: `AutoencoderKLFlux2` on crops of pictures.

One step reads some pictures, takes the busiest of a few random crops of each, and lowers the sum of the losses that
`autoencoder_losses` has. With `train.part = "decoder"` the encoder and the statistics of its latents stay as they are,
so that a denoiser trained on those latents stays valid, and the decoder trains on latents with noise, as a denoiser's
have.

Shapes: B crops of side S pixels, z latent channels, C = 4 z packed channels, L tokens of 16 x 16 pixels.

Sources: Lens, arXiv 2605.21573, section 3 (a semantic autoencoder); decoders that learn on noisy latents, arXiv
2510.11690.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn

from leanlens.batches.numbered import Numbered
from leanlens.config import plain
from leanlens.dist import Group
from leanlens.files import replaced_folder
from leanlens.log import logger
from leanlens.models import vae as packing
from leanlens.pictures.sources import open_source
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.autoencoder_losses import LossNetworks
from leanlens.train.compiled import compile_checked, undo_compile
from leanlens.train.crops import Pictures, fixed_crops, pictures_of_sources
from leanlens.train.linear import FIRST_LOG_VARIANCE, start_linear
from leanlens.train.loop import StepFigures, Task, train
from leanlens.train.resume import named
from leanlens.train.scene_crops import pictures_of_scenes
from leanlens.train.state import Progress, StepSums
from leanlens.weights.load import open_vae

HELD_OUT_STEPS = 8  # whose held-out crops are measured
LINEAR_STEPS = 16  # whose crops decide where the weights start


@dataclass(frozen=True)
class OpenAutoencoder:
    """Models, losses and data of an autoencoder run.

    Attributes:
        trained: the autoencoder as `vae`, and the linear layer of the semantic loss as `heads`.
        networks: the losses.
        held_out: batches of held-out crops.
    """

    recipe: AutoencoderRecipe
    device: torch.device
    trained: nn.ModuleDict
    networks: LossNetworks
    pictures: Pictures
    held_out: list[Tensor]

    @property
    def model(self) -> Any:
        """The autoencoder."""
        return self.trained["vae"]

    @property
    def learning(self) -> list[nn.Module]:
        """The parts of the autoencoder that learn."""
        decoder_alone = self.recipe.train.part == "decoder"
        return [self.model.decoder] if decoder_alone else [self.model.encoder, self.model.decoder]


def train_autoencoder(recipe: AutoencoderRecipe, group: Group, pictures: Pictures | None = None) -> Progress:
    """Start or continue the run in `recipe.run.dir`; see `leanlens.train.loop.train`.

    Args:
        pictures: training data; None opens what `[crops]` names.
    """
    return train(replace(AUTOENCODER, build=partial(build, pictures=pictures)), recipe, group)


def build(recipe: AutoencoderRecipe, group: Group, begun: bool, pictures: Pictures | None = None) -> OpenAutoencoder:
    """Everything that a run needs, on the device of `group`.

    Raises:
        ValueError: sources without pictures, a missing package, or a start that is missing or has other sizes.
    """
    if pictures is None:
        scenes = recipe.crops.scenes
        pictures = pictures_of_scenes(recipe, scenes, group.device) if scenes else pictures_of_sources(recipe)
    with named("crops.validation"):
        sources = [open_source(path) for path in recipe.crops.validation]
    model = open_autoencoder(recipe).to(group.device)
    if recipe.train.part == "decoder":
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    networks = LossNetworks(recipe, group.device)
    held_out = fixed_crops(sources, recipe, HELD_OUT_STEPS) if sources else []
    if not begun and recipe.start is None and recipe.autoencoder.norm_num_groups == 1:
        start_linear(model, torch.cat(pictures.fixed(LINEAR_STEPS)).to(group.device))
    model.train()
    model.bn.eval()  # its statistics are those of the finished encoder; `measure_latents` takes them
    trained = nn.ModuleDict({"vae": model, "heads": networks.projection})
    return OpenAutoencoder(recipe, group.device, trained, networks, pictures, held_out)


def open_autoencoder(recipe: AutoencoderRecipe) -> Any:
    """The autoencoder of a recipe in float32: random by `run.seed`, or from `start`.

    Raises:
        ValueError: `start` is not the folder of an autoencoder, or has other sizes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        model: Any = AutoencoderKLFlux2(**plain(recipe.autoencoder))
        # With noise as large as the latents, the decoder would see nothing of the picture at first.
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


def _trainable(opened: OpenAutoencoder) -> nn.Module:
    return opened.trained


def _batches(opened: OpenAutoencoder) -> Numbered:
    return Numbered(opened.pictures.batches)


def _prepare(opened: OpenAutoencoder) -> None:
    if opened.recipe.train.compile:
        some = opened.pictures.fixed(1)[0].to(opened.device)
        compile_checked(opened.learning, lambda: trial_loss(opened.model, some, opened.recipe))


def _loss(opened: OpenAutoencoder, batches: Iterator[Tensor], step: int) -> StepSums:
    recipe, model, device = opened.recipe, opened.model, opened.device
    x = next(batches).to(device)
    generator = torch.Generator(device).manual_seed(recipe.run.seed * 2**32 + step)
    noise = torch.randn(_latent_shape(recipe, x), generator=generator, device=device)
    deviation = None
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.train.precision == "bfloat16"):
        if recipe.train.part == "decoder":
            deviation = noise_deviation(model, recipe.losses.latent_noise, len(x), generator)
        y, mean, logvar = reconstruct(model, x, noise, deviation)
        terms = opened.networks.losses(x, y.float(), mean.float(), logvar.float(), generator)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    return StepSums(float(loss.detach()), len(x), values={name: float(term.detach()) for name, term in terms.items()})


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


def _is_due(recipe: AutoencoderRecipe, done: int) -> bool:
    return bool(recipe.crops.validation) and done % recipe.save.every == 0


def _validate(opened: OpenAutoencoder, done: int) -> dict[str, float]:
    return {"held_out": held_out_error(opened.model, opened.held_out)}


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


def _line(opened: OpenAutoencoder, progress: Progress, sums: StepSums, figures: StepFigures) -> dict[str, Any]:
    terms = {**sums.values, **figures.measured}
    return {"step": progress.step, "loss": sums.loss, **terms, "seconds": progress.seconds}


def _words(line: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in line.items() if name not in ("step", "loss", "seconds"))


def _export(opened: OpenAutoencoder, folder: Path) -> None:
    """A folder that `AutoencoderKLFlux2.from_pretrained` opens, the statistics of the latents in its batch norm."""
    undo_compile(opened.learning)  # pictures have other sizes than crops
    if opened.recipe.train.part == "all":
        measure_latents(opened.model, (picture.to(opened.device) for picture in opened.pictures.whole()))
    with replaced_folder(folder) as temporary:
        opened.model.to(memory_format=torch.contiguous_format).save_pretrained(temporary)
    logger.info("exported %s", folder)


def _latent_shape(recipe: AutoencoderRecipe, x: Tensor) -> tuple[int, int, int, int]:
    scale = 2 ** (len(recipe.autoencoder.block_out_channels) - 1)
    return len(x), recipe.autoencoder.latent_channels, x.shape[2] // scale, x.shape[3] // scale


AUTOENCODER: Task[AutoencoderRecipe, OpenAutoencoder] = Task(
    build=build,
    trainable=_trainable,
    batches=_batches,
    prepare=_prepare,
    loss=_loss,
    is_due=_is_due,
    validate=_validate,
    line=_line,
    words=_words,
    export=_export,
    score="held_out",
)
