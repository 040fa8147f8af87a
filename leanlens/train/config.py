"""The recipe of a denoiser's run: every key, its meaning and its default.

The defaults are the paper's where it states a figure; where it is silent the text says "our choice".

Source: Lens, arXiv 2605.21573, section 3 and appendix.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from leanlens.batches.assign import check_table
from leanlens.config import Section, is_stored
from leanlens.files import read_toml
from leanlens.plan.compute import DenoiserSizes
from leanlens.resolution import MAX_PIXELS, TOKEN_PIXELS, TRAINING_BUCKETS, sizes_at

MAX_SEED = 2**63 - 1
MAX_STEPS = 2**31 - 1
WIDEST = 0.289  # no power function is wider: the standard deviation of a plain mean is 1 / sqrt(12)
NARROWEST = 1e-4  # a narrower average is the last weights


def _named_path(path: Path) -> Path:
    """A path that names something; `~` is the user's own folder, which a shell does not see in `--set run.dir=~/a`."""
    if not path.name or "\0" in str(path):
        raise PydanticCustomError("path", "should be the path of a folder")
    return path.expanduser()


def _width(std: float) -> float:
    if 0 < std < NARROWEST:
        raise PydanticCustomError("width", "should be 0 or at least {least}", {"least": NARROWEST})
    return std


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
StepCount = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(ge=0, lt=WIDEST), AfterValidator(_width)]
Folder = Annotated[Path, AfterValidator(_named_path)]
Name = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]*\S[^\x00]*$")]
Minutes = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=TOKEN_PIXELS, le=MAX_PIXELS, multiple_of=TOKEN_PIXELS)]


class Run(Section):
    """Where the run lives, and its seed."""

    dir: Folder
    """Folder of everything the run writes; a folder that holds a checkpoint is continued."""
    seed: Seed = 0
    """Decides initial weights, data order, noise levels and noise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


class Model(Section):
    """Sizes of the denoiser, under the names of its configuration file; the defaults are the released Lens."""

    parts: Name = "toy"
    """Frozen autoencoder and text side: a pipeline folder, a preset or repository, or "toy" (random, tiny)."""
    num_layers: Count = 48
    num_attention_heads: Count = 24
    attention_head_dim: Count = 64
    axes_dims_rope: tuple[Count, ...] = (8, 28, 28)
    out_channels: Count = 32
    """Channels of the autoencoder's latents."""
    enc_hidden_dim: Count = 2880
    """Width of the text encoder."""
    selected_layer_index: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (5, 11, 17, 23)
    """Text-encoder layers whose features come in."""

    @property
    def width(self) -> int:
        """Channels of the residual streams."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def sizes(self) -> DenoiserSizes:
        """What the denoiser costs depends on these."""
        text = self.enc_hidden_dim * len(self.selected_layer_index)
        return DenoiserSizes(self.num_layers, self.width, 4 * self.out_channels, text)

    @model_validator(mode="after")
    def _rotary_channels(self) -> Self:
        axes = self.axes_dims_rope
        if sum(axes) != self.attention_head_dim or len(axes) != 3 or any(dim % 2 for dim in axes):
            raise ValueError(
                f"invalid model.axes_dims_rope {list(axes)}: expected three even numbers whose sum is "
                f"model.attention_head_dim {self.attention_head_dim}"
            )
        return self

    def require_frozen_sizes(self, latent_channels: int | None, hidden_size: int | None, layers: int | None) -> None:
        """Check these sizes against those of the frozen parts; None where one is not known.

        Raises:
            ValueError: one does not fit.
        """
        for key, wanted, found in (
            ("model.out_channels", self.out_channels, latent_channels),
            ("model.enc_hidden_dim", self.enc_hidden_dim, hidden_size),
        ):
            if found is not None and wanted != found:
                raise ValueError(f"{key} {wanted} does not fit the parts {self.parts!r}; they have {found}")
        chosen = list(self.selected_layer_index)
        if layers is not None and not all(0 <= index < layers for index in chosen):
            raise ValueError(
                f"model.selected_layer_index {chosen} does not fit the parts {self.parts!r}; they have layers 0 to "
                f"{layers - 1}"
            )


class Init(Section):
    """Initial weights."""

    start: Name | None = Field(default=None, alias="from")
    """None: random. Or a run folder, a pipeline folder, a weight file or a preset: stage 2 starts from stage 1."""
    std: Width | None = None
    """With a run folder: relative width of the averaged weights to take; None takes that run's `ema.export`."""

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if self.std is not None and self.start is None:
            raise ValueError(
                f"invalid init.std {self.std:g} without init.from: expected a run there, whose average it names"
            )
        return self


class Scenes(Section):
    """Synthetic scenes, drawn once into `run.dir/data`."""

    num: Count
    """Pictures to train on."""
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0
    size: Annotated[int, Field(ge=1, le=MAX_PIXELS)] = 256
    """Side of the square of a picture's area, pixels."""
    validation: Count = 64
    """Held-out pictures."""
    least: Annotated[int, Field(ge=0)] = 0
    """Smallest longer side of an object, pixels: fewer but larger things. 0 sets no limit."""
    most: Annotated[int, Field(ge=0)] = 0
    """Largest longer side of an object, pixels: fewer sizes to learn. 0 sets no limit."""
    grid: Annotated[int, Field(ge=0)] = 0
    """Positions and sizes are multiples of this many pixels: fewer variants of each drawing to learn. 0 allows any."""
    step: Annotated[int, Field(ge=0)] = 0
    """Sizes are multiples of this many pixels instead, from `least` to `most`. 0 uses `grid`."""
    tidy: bool = False
    """Center each thing in its cell, so that a dense caption describes nearly the whole picture."""
    facts_first: Share = 0.0
    """Share of dense captions that begin with the content of the picture: things, background, sizes and positions. They
    keep nearly all of it when `data.caption_words` cuts them."""
    sources: Name | None = None
    """Library of drawings: "full", "common", "everyday", "sample" or a folder; None: full where it is there, else
    sample."""
    canvas: Literal["free", "buckets"] = "free"
    """"free": any shape from 1:2 to 2:1 of about `size` squared, cut to the nearest bucket. "buckets": exactly the
    sizes of the largest resolution in `data.buckets`, so that nothing is cut away."""


class Bucket(Section):
    """The sizes of one resolution, and how many pictures a micro-batch of it holds."""

    base: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    """Side of the square of this area, pixels."""
    batch: Count
    """Pictures in a micro-batch. The paper: 24 at 512, 10 at 768, 6 at 1024, which cost about the same time."""
    sizes: Annotated[tuple[tuple[int, int], ...], Field(min_length=1)] | None = None
    """(height, width) pairs; None takes the paper's nine shapes, scaled where the paper has no table."""

    @property
    def table(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every size, pixels."""
        return self.sizes or TRAINING_BUCKETS.get(self.base) or tuple(dict.fromkeys(sizes_at(self.base).values()))

    @model_validator(mode="after")
    def _whole_tokens(self) -> Self:
        for height, width in self.table:
            if height < TOKEN_PIXELS or width < TOKEN_PIXELS or height % TOKEN_PIXELS or width % TOKEN_PIXELS:
                raise ValueError(
                    f"invalid bucket {height}x{width} in data.buckets: expected sides that are multiples of "
                    f"{TOKEN_PIXELS}"
                )
            if max(height, width) > MAX_PIXELS:
                raise ValueError(
                    f"invalid bucket {height}x{width} in data.buckets: expected at most {MAX_PIXELS} pixels a side"
                )
        return self


class Data(Section):
    """Training data."""

    sources: tuple[Name, ...] = ()
    """Shards or folders of captioned pictures."""
    validation: tuple[Name, ...] = ()
    """The same for the held-out split."""
    scenes: Scenes | None = None
    """Instead of sources: synthetic scenes."""
    buckets: tuple[Bucket, ...]
    """One entry for each resolution."""
    caption: Literal["dense", "brief", "mix"] = "dense"
    """Which caption of a picture is used."""
    brief_share: Share = 0.5
    """With `caption = "mix"`: the share of brief ones."""
    resolution: Literal["largest", "draw"] = "largest"
    """A picture counts for the largest resolution that it reaches, or for one drawn anew in every epoch."""
    full_batches: bool = False
    """Leave out the last, short micro-batch of each bucket in every epoch: compiled blocks meet no further shape."""
    caption_words: Count | None = None
    """Captions are cut to their first sentences, of about this many words in all; None keeps them whole."""
    missing_caption: Literal["error", "skip", "empty"] = "error"
    """A picture without the requested caption: "error" rejects the data and names such pictures, "skip" leaves them
    out, "empty" trains on them without text."""
    text_multiple: Annotated[int, Field(ge=1, le=4096)] = 1
    """Text is padded to a multiple of this many tokens: compiled blocks need few different shapes."""
    caption_dropout: Share = 0.1
    """Share of pictures trained without text, which guidance needs. The paper does not state it: our choice."""
    max_upscale: Annotated[float, Field(ge=1)] = 1.25
    """A picture may be enlarged by this factor to fit a bucket."""
    resident: bool = False
    """Keep the scenes encoded in the device's memory: a small model on a large device would wait for pictures to be
    read and encoded. They are drawn in all sizes of `data.buckets`; micro-batches are full, and all captions of one are
    brief or all are dense."""
    encoded: tuple[Folder, ...] = ()
    """With `resident`: folders written by `leanlens scenes encode`. The run trains on the parts that exist when it
    starts, and draws nothing."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads that decode pictures."""
    cache: Folder | None = None
    """Folder that keeps encoded pictures and captions; None encodes each time."""
    encode_at_once: Count = 1
    """Pictures and captions that the frozen models encode together: 1 is exact to the last bit, more is faster."""
    encode_precision: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen models' matrix products; bfloat16 is faster where the processor has it, and differs by about 1%."""
    captioning_flops: Annotated[float, Field(ge=0)] = 0.0
    """What captioning this data cost, FLOP, for the ledger."""

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> Self:
        if bool(self.sources) == (self.scenes is not None):
            raise ValueError("data.sources and data.scenes: give exactly one of them")
        if not self.buckets:
            raise ValueError("data.buckets is empty; give at least one [[data.buckets]] table")
        return self

    @model_validator(mode="after")
    def _resident_scenes(self) -> Self:
        if self.encoded and not self.resident:
            raise ValueError("data.encoded needs data.resident = true")
        if self.resident and (self.scenes is None or self.scenes.canvas != "buckets"):
            raise ValueError('data.resident needs data.scenes with canvas = "buckets"')
        if self.resident and self.resolution == "draw":
            raise ValueError('invalid data.resolution "draw" with data.resident: expected "largest"')
        return self

    @model_validator(mode="after")
    def _each_bucket_once(self) -> Self:
        bases = [bucket.base for bucket in self.buckets]
        if twice := [base for base in bases if bases.count(base) > 1]:
            raise ValueError(f"data.buckets has base {twice[0]} twice; give each base once, with all of its sizes")
        try:
            check_table({bucket.base: bucket.table for bucket in self.buckets})
        except ValueError as error:
            raise ValueError(f"data.buckets: {error}") from error
        return self

    @model_validator(mode="after")
    def _held_out_by_scenes(self, info: ValidationInfo) -> Self:
        if self.scenes is not None and self.validation and not is_stored(info):
            raise ValueError(
                "invalid data.validation with data.scenes: expected none, since scenes bring held-out pictures"
            )
        return self

    @property
    def batch_sizes(self) -> dict[tuple[int, int], int]:
        """(height, width) -> pictures in a micro-batch."""
        return {size: bucket.batch for bucket in self.buckets for size in bucket.table}

    @property
    def bases(self) -> dict[tuple[int, int], int]:
        """(height, width) -> the resolution that it counts for."""
        return {size: bucket.base for bucket in self.buckets for size in bucket.table}


class Train(Section):
    """One optimiser step, and when to stop."""

    steps: StepCount
    """Where to stop. The schedule has a length of its own."""
    minutes: Minutes | None = None
    """Minutes after which a process stops, even before `steps`. The learning rate schedule then follows the clock, so a
    run does not repeat to the same bits."""
    micro_batches: Count = 1
    """Micro-batches in one step, over all processes: 128 in the paper. Each process takes its share in turn, so that
    the same recipe is the same run on any number of processes that divides it."""
    pack: bool = False
    """Put all micro-batches that a process has in a step into one row of the network, without padding: the same losses
    and gradients with fewer, larger matrix products, for the memory of all of them at once."""
    average: Literal["sample", "rank"] = "sample"
    """"sample": every picture weighs the same. "rank": every micro-batch does, as plain data parallelism has it, which
    gives a picture of 1024 pixels four times the weight of one of 512. The paper is silent: our choice."""
    channel_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Weights of the latent channels in the loss, one for each of `model.out_channels`, scaled to mean 1; None weighs
    them the same, as the paper does. If a few channels carry most of a picture, a small model learns what is visible
    sooner when they weigh more."""
    logit_mean: float = 1.0
    """Training times are sigmoid(logit_mean + logit_std z), z standard normal, at 256 image tokens; more tokens move
    the mean up by the paper's slope. The paper's mean is 1.0, three quarters of noise. A lower one spends the steps on
    details, which are decided where little noise is left."""
    logit_std: Annotated[float, Field(gt=0)] = 1.0
    """The paper does not state it: our choice."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the matrix products; weights, optimiser and averages are kept in float32."""
    noise: Literal["sample", "batch"] = "sample"
    """"sample": noise and level of a picture depend on its number in the step alone, and are drawn on the processor.
    "batch": they are drawn on the device for a micro-batch at once; a large device with a small model would wait for
    the processor otherwise."""
    compile: bool = False
    """Compile the blocks."""
    checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""


class Optim(Section):
    """The optimiser and its learning rate."""

    lr: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of matrices. The paper does not state it: our choice."""
    matrices: Literal["adamw", "muon"] = "adamw"
    """Optimiser of the matrices inside the blocks; everything else has AdamW."""
    muon_lr: Annotated[float, Field(gt=0)] = 2e-4
    """Learning rate of Muon, in AdamW's scale: its updates are brought to the same root mean square."""
    clip: Annotated[float, Field(gt=0, allow_inf_nan=True)] = 1.0
    """Largest norm of the whole gradient; inf never clips."""
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """After the warm-up: constant; a cosine to `floor`; or constant and a straight line to `floor` at the end."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps from zero to `lr`. The paper does not state it: our choice."""
    length: Count | None = None
    """Steps of the whole schedule; needed by cosine and wsd, and independent of `train.steps`."""
    cooldown: Annotated[float, Field(gt=0, le=1)] = 0.2
    """With wsd: the share of `length` in which the rate falls."""
    floor: Share = 0.0
    """Where the schedule ends, as a share of `lr`."""

    @model_validator(mode="after")
    def _has_length(self) -> Self:
        if self.schedule != "constant" and self.length is None:
            raise ValueError(f"optim.length is missing; schedule {self.schedule!r} needs its number of steps")
        return self

    @model_validator(mode="after")
    def _warm_up_within(self, info: ValidationInfo) -> Self:
        if self.schedule != "constant" and self.warmup >= (self.length or 0) and not is_stored(info):
            raise ValueError(
                f"invalid optim.warmup {self.warmup} with optim.length {self.length}: expected fewer steps than the "
                "schedule has"
            )
        return self

    def require_rate(self, steps: int) -> None:
        """Refuse steps after the end of the schedule, where the rate is 0.

        Raises:
            ValueError: `steps` goes beyond `length`, and `floor` is 0.
        """
        if self.schedule != "constant" and self.length is not None and steps > self.length and self.floor == 0:
            raise ValueError(
                f"train.steps {steps} goes beyond optim.length {self.length}, where the learning rate is 0; give at "
                "most that, a longer optim.length, or an optim.floor above 0"
            )


class Ema(Section):
    """Averages of the weights with power-function profiles, from which other widths are rebuilt after the run."""

    stds: Annotated[tuple[Annotated[float, Field(ge=NARROWEST, lt=WIDEST)], ...], Field(min_length=1)] = (0.05, 0.10)
    """Relative widths that are tracked; two are enough to rebuild others."""
    every: Count | None = None
    """Steps between snapshots, from which other widths are rebuilt; None writes none."""
    export: Width = 0.05
    """Width of what a finished run exports: one of `stds`, or 0 for the last weights themselves."""

    @model_validator(mode="after")
    def _exports_what_it_tracks(self, info: ValidationInfo) -> Self:
        if len({f"{std:g}" for std in self.stds}) < len(self.stds):  # their names in checkpoints
            raise ValueError(f"ema.stds {list(self.stds)} has a width twice; give each once")
        if self.export and self.export not in self.stds and not is_stored(info):
            raise ValueError(
                f"ema.export {self.export:g} is not one of ema.stds {list(self.stds)}; give one of them, or 0 for the "
                "last weights"
            )
        return self


class Average(Section):
    """The average of the weights that a run keeps, with the power-function profile of `leanlens.train.ema`."""

    export: Width = 0.0
    """Relative width of the average that is measured and exported; 0 keeps none and exports the last weights."""

    @property
    def stds(self) -> tuple[float, ...]:
        """Relative widths that are tracked."""
        return (self.export,) if self.export else ()

    @property
    def every(self) -> None:
        """Steps between snapshots: there are none."""
        return None


class Save(Section):
    """Checkpoints."""

    every: Count = 1000
    """Steps between them; the last step is always saved."""
    keep: Count = 3
    """How many of the latest stay, beside the one with the best validation loss."""


class Validate(Section):
    """The loss on held-out pictures at fixed noise and levels."""

    every: Count | None = None
    """Steps between measurements; None measures nothing."""
    batches: Count = 4
    """Micro-batches measured, the same each time."""


class Sample(Section):
    """A grid of pictures during the run."""

    every: Count | None = None
    """Steps between grids; None draws none."""
    prompts: tuple[Annotated[Name, Field(max_length=32_000)], ...] = ()
    height: Pixels | None = None
    width: Pixels | None = None
    """Pixels; None takes the last bucket's base."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance: Annotated[float, Field(ge=0, le=100)] = 5.0
    seed: Annotated[int, Field(ge=0, le=2**62)] = 0
    """Of the first prompt; later ones count up."""


class Guard(Section):
    """Which losses count as broken: then the last checkpoint is restored, and training continues with the next data."""

    spike: Annotated[float, Field(gt=1, allow_inf_nan=True)] = 3.0
    """A loss above this multiple of the recent median; a value that is not finite always counts, with inf it alone."""
    window: Count = 64
    """Steps that "recent" means; before so many have been made only values that are not finite count."""
    restores: Annotated[int, Field(ge=0)] = 3
    """How many times the run may be restored between two checkpoints before it stops."""


class EventFiles(Section):
    """What is written in addition to `run.dir/metrics.jsonl`."""

    tensorboard: bool = False
    """Write TensorBoard's event files."""


class Metrics(EventFiles):
    """What is written in addition to `run.dir/metrics.jsonl`, and the peak rate for utilisation."""

    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Peak rate of one device for utilisation; None looks the device up in a small table."""


class TrainRecipe(Section):
    """A whole run."""

    run: Run
    model: Model = Model()
    init: Init = Init()
    data: Data
    train: Train
    optim: Optim = Optim()
    ema: Ema = Ema()
    save: Save = Save()
    validate_: Validate = Field(default=Validate(), alias="validate")
    sample: Sample = Sample()
    guard: Guard = Guard()
    metrics: Metrics = Metrics()

    @model_validator(mode="after")
    def _learns_to_the_end(self, info: ValidationInfo) -> Self:
        require_rate_to_the_end(self.train.steps, self.train.minutes, self.optim, info)
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.validate_.every and not self.data.validation and self.data.scenes is None:
            raise ValueError("data.validation is empty; validate.every needs held-out pictures")
        if self.sample.every and not self.sample.prompts:
            raise ValueError("sample.prompts is empty; sample.every needs prompts to draw")
        weights, channels = self.train.channel_weights, self.model.out_channels
        if weights is not None and len(weights) != channels:
            raise ValueError(
                f"train.channel_weights has {len(weights)} numbers; give {channels}, one for each of model.out_channels"
            )
        return self


def require_rate_to_the_end(steps: int, minutes: float | None, optim: Optim, info: ValidationInfo) -> None:
    """Check the schedule of a new recipe. With `minutes` it follows the clock; a stored recipe was checked before.

    Raises:
        ValueError: the learning rate is 0 before the last step.
    """
    if minutes is None and not is_stored(info):
        optim.require_rate(steps)


def without_save_every(values: Any, info: ValidationInfo) -> Any:
    """The `[train]` table without `save_every`, which is now `save.every`; stored recipes may still have it.

    Raises:
        ValueError: a new recipe has it.
    """
    if not isinstance(values, dict) or "save_every" not in values:
        return values
    if not is_stored(info):
        raise ValueError("train.save_every is now save.every; move it to the table [save]")
    return {key: value for key, value in values.items() if key != "save_every"}


def kind_of_tables(tables: Mapping[str, Any]) -> str:
    """What a recipe with these tables trains: "autoencoder", "language" or "denoiser"."""
    return next((kind for kind in ("autoencoder", "language") if kind in tables), "denoiser")


def kind_of_recipe(path: Path) -> str:
    """What a recipe trains: "autoencoder" or "language" where it has a table of that name, else "denoiser".

    A file that cannot be read counts as a denoiser's; reading it as one then reports the error.
    """
    with suppress(OSError, ValueError):
        tables = read_toml(path)
        return kind_of_tables(tables)
    return "denoiser"
