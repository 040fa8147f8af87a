"""The recipe of an autoencoder's run: every key, its meaning and its default."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from leanlens.config import Section
from leanlens.train.config import (
    Average,
    Count,
    EventFiles,
    Guard,
    Minutes,
    Name,
    Optim,
    Run,
    Save,
    Share,
    StepCount,
    require_rate_to_the_end,
    without_save_every,
)


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
                    f"invalid autoencoder.{name} {list(widths)}: expected four numbers of at least 4 that are "
                    f"multiples of autoencoder.norm_num_groups {self.norm_num_groups}"
                )
        return self


class Losses(Section):
    """Weights of the losses that are added to the mean absolute error."""

    perceptual: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the distance of VGG16 features; needs the extra `nano`."""
    perceptual_share: Share = 0.25
    """Share of the crops on which that distance is measured."""
    semantic: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the alignment with EfficientNet-Lite0; needs the extra `nano`."""
    kl: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the mean Kullback-Leibler divergence of a latent number from the standard normal."""
    latent_noise: Annotated[float, Field(ge=0)] = 0.0
    """With `train.part = "decoder"`: largest noise on the latents of a crop, in their standard deviations."""


class CropScenes(Section):
    """Synthetic scenes of 256 pixels, which every core draws into the device's memory when the run begins."""

    num: Count
    """Scenes."""
    patterns: Share = 0.0
    """Smallest share of scenes with a patterned background."""
    sources: Name | None = None
    """Library of drawings, as in `data.scenes` of a denoiser."""


class Crops(Section):
    """Training data."""

    sources: tuple[Name, ...] = ()
    """Shards or folders of pictures."""
    scenes: CropScenes | None = None
    """Instead of sources: synthetic scenes."""
    validation: tuple[Name, ...] = ()
    """The same, held out: the mean absolute error on fixed crops of these is measured with every save."""
    side: Annotated[int, Field(ge=32, multiple_of=16)] = 96
    """Side of a crop, pixels."""
    pictures: Count = 4
    """Pictures in a step."""
    crops: Count = 2
    """Crops of each."""

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> Self:
        if self.sources and self.scenes is not None:
            raise ValueError("crops.sources and crops.scenes: give one of them")
        return self


class Steps(Section):
    """How long, and in what precision."""

    steps: StepCount
    part: Literal["all", "decoder"] = "all"
    """Which part is trained. "decoder" needs `start`, and leaves its latents unchanged."""
    minutes: Minutes | None = None
    """Minutes after which a process stops, even before `steps`; the learning rate schedule then follows the clock."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    compile: bool = False
    """Compile the trained part, if one trial step gives the same gradients in less time."""

    _moved = model_validator(mode="before")(without_save_every)


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
    save: Save = Save(every=500)
    guard: Guard = Guard(spike=math.inf)
    metrics: EventFiles = EventFiles()
    optim: Optim = Optim(lr=5e-4, betas=(0.9, 0.95), warmup=100)

    @model_validator(mode="after")
    def _seed_fits(self) -> Self:
        if self.run.seed >= 2**32:  # a step's random numbers are named by seed and step together, in 64 bits
            raise ValueError(
                f"invalid run.seed {self.run.seed} for an autoencoder: expected an integer from 0 to {2**32 - 1}"
            )
        return self

    @model_validator(mode="after")
    def _learns_to_the_end(self, info: ValidationInfo) -> Self:
        require_rate_to_the_end(self.train.steps, self.train.minutes, self.optim, info)
        return self

    @model_validator(mode="after")
    def _by_adamw(self) -> Self:
        if self.optim.matrices != "adamw":
            raise ValueError(f"invalid optim.matrices {self.optim.matrices!r} for an autoencoder: expected 'adamw'")
        return self

    @model_validator(mode="after")
    def _decoder_alone(self) -> Self:
        alone = self.train.part == "decoder"
        if alone and self.start is None:
            raise ValueError("train.part 'decoder' needs start: the folder of the autoencoder whose encoder is kept")
        if alone and self.losses.semantic:
            raise ValueError(
                f"invalid losses.semantic {self.losses.semantic:g} with train.part 'decoder', which leaves the latents "
                "unchanged: expected 0"
            )
        if self.losses.latent_noise and not alone:
            raise ValueError(
                f"invalid losses.latent_noise {self.losses.latent_noise:g} with train.part 'all', where latents have "
                "the noise of their posterior: expected 0"
            )
        return self
