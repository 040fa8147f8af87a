"""Which settings to draw with on a machine: what fits, what it needs at its peak, how long a picture takes.

Comes in: a machine, a model's sizes, a request, settings that are pinned. Goes out: a `Choice`. Arithmetic only. It
offers what `leanlens generate` can do and nothing else: there is one way to place the parts (all of them where the
picture is computed), so what does not fit that way on the card is offered on the processor or not at all.

The order of choice: no loss of quality, then the fewest seconds for all the pictures asked for, compiling included.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from leanlens.plan.devices import GIB, Device
from leanlens.plan.memory import (
    ELEMENT_BYTES,
    TEXT_TOKENS,
    ModelSizes,
    decoding_bytes,
    denoising_bytes,
    element_bytes,
    encoding_bytes,
    is_tiled,
    part_bytes,
)
from leanlens.plan.memory import PREFIX_TOKENS as _PREFIX
from leanlens.plan.rates import assumed, decoding_seconds, encoding_seconds, forward_seconds, usable_bytes

STAGES = ("opening", "encoding", "denoising", "decoding")
QUANTS = ("none",)
OFFLOADS = ("none",)
MXFP4_CAPABILITY = 7.5  # what transformers asks of a card for MXFP4 kernels
_LOSS = {
    "bfloat16": "none: the dtype of the release",
    "float32": "none",
    "float16": "the range of the weights is cut off at 65504, which can break colours or end in an error",
}


@dataclass(frozen=True)
class Machine:
    """One device to draw on, and what is around it.

    Attributes:
        device: the card, or the processor where there is none.
        ram: main memory, GiB; None where it is not known, which is then not checked. The device's own where unified.
        processor: the processor beside a card; None where its speed is not known.
        mxfp4: whether the packages that MXFP4 kernels need are there (on a card that can).
    """

    device: Device
    ram: float | None = None
    processor: Device | None = None
    mxfp4: bool = True


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn: `pictures` of one prompt, one after the other, as `leanlens generate -n` does."""

    height: int = 1024
    width: int = 1024
    steps: int = 20
    guidance: float = 5.0
    pictures: int = 1
    text_tokens: int = TEXT_TOKENS

    def __post_init__(self) -> None:
        for name in ("steps", "pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not accepted; give a whole number from 1")

    @property
    def tokens(self) -> int:
        """Image tokens."""
        return self.height * self.width // 256


@dataclass(frozen=True)
class Pins:
    """Settings that are not to be chosen; None leaves one free."""

    dtype: str | None = None
    quant: str | None = None
    offload: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name, accepted in (
            ("dtype", tuple(ELEMENT_BYTES)),
            ("quant", QUANTS),
            ("offload", OFFLOADS),
            ("device", ("cuda", "mps", "cpu")),
        ):
            value = getattr(self, name)
            if value is not None and value not in accepted:
                raise ValueError(f"{name} {value!r} is not accepted; leanlens generate has {', '.join(accepted)}")


@dataclass(frozen=True)
class Settings:
    """A combination.

    Attributes:
        device: where everything computes: cuda, mps or cpu.
        dtype: of all parts.
        encoder: mxfp4, or the dtype that the text encoder is decoded to.
        quant: of the denoiser.
        offload: none: every part stays where it computes.
        tiling: the decoder works in tiles, which changes pixels near their seams.
        compile: the denoiser's blocks are compiled.
    """

    device: str
    dtype: str
    encoder: str
    quant: str = "none"
    offload: str = "none"
    tiling: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Choice:
    """Settings with what they cost on a machine.

    Attributes:
        vram, ram: peak of each stage, bytes; `vram` of the card, or of the share that a unified GPU may have.
        vram_limit, ram_limit: what there is of each, bytes; None where it is not known or not used.
        seconds: encoding, denoising, decoding of one picture, and compiling, once; empty where a rate is not known.
        loss: what is lost in quality.
        tight: the stages that do not fit.
    """

    settings: Settings
    vram: dict[str, float]
    ram: dict[str, float]
    vram_limit: float | None
    ram_limit: float | None
    seconds: dict[str, float]
    loss: str
    tight: tuple[str, ...] = field(default=())

    @property
    def fits(self) -> bool:
        """Whether no stage needs more than there is."""
        return not self.tight

    @property
    def excess(self) -> float:
        """Bytes that are missing at the worst moment."""
        over = [0.0]
        over += [max(self.vram.values()) - self.vram_limit] if self.vram_limit is not None else []
        over += [max(self.ram.values()) - self.ram_limit] if self.ram_limit is not None else []
        return max(over)

    def seconds_per_picture(self, pictures: int = 1) -> float | None:
        """Of each of `pictures` of one prompt, which is encoded once; opening and compiling left out."""
        if not self.seconds:
            return None
        return self.seconds["encoding"] / pictures + self.seconds["denoising"] + self.seconds["decoding"]


def choose(machine: Machine, model: ModelSizes, packed: bool, drawing: Drawing, pins: Pins = Pins()) -> Choice:
    """The best combination that fits, or, if none does, the one that misses by least.

    Args:
        packed: the model's files hold the text encoder in MXFP4, in a folder that opens as it is.
    """
    found = list(choices(machine, model, packed, drawing, pins))
    if not found:
        raise ValueError(f"device {pins.device!r} is not accepted; {machine.device.name} has none of that kind")
    fitting = [choice for choice in found if choice.fits]
    if not fitting:
        return min(found, key=lambda choice: choice.excess)
    return min(fitting, key=lambda choice: _rank(choice, drawing.pictures))


def choices(
    machine: Machine, model: ModelSizes, packed: bool, drawing: Drawing, pins: Pins = Pins()
) -> Iterator[Choice]:
    """Every combination that is not ruled out by a pin, fitting or not."""
    for device in _devices(machine, pins.device):
        kernels = device.kind == "nvidia" and device.capability >= MXFP4_CAPABILITY and machine.mxfp4
        for dtype in [pins.dtype] if pins.dtype else list(ELEMENT_BYTES):
            for compiled in (False, True):
                settings = Settings(
                    torch_device(device),
                    dtype,
                    "mxfp4" if packed and kernels else dtype,
                    tiling=is_tiled(drawing.height, drawing.width),
                    compile=compiled,
                )
                yield weigh(machine, device, model, drawing, settings)


def weigh(machine: Machine, device: Device, model: ModelSizes, drawing: Drawing, settings: Settings) -> Choice:
    """What `settings` cost on `device` of the machine."""
    weights = part_bytes(model, settings.dtype, settings.encoder == "mxfp4")
    work = _workspaces(device, model, drawing, settings)
    held = sum(weights.values())
    if device.kind == "cpu" or device.unified:
        vram, ram = _shared(device, model, settings, held, work)
    else:
        vram, ram = _apart(model, settings, held, work)
    ram_total = device.memory if device.unified and device.kind != "cpu" else machine.ram
    limits = (
        None if device.kind == "cpu" else usable_bytes(device, device.memory * GIB),
        None if ram_total is None else ram_total * GIB - assumed("system"),
    )
    tight = tuple(
        stage
        for stage in STAGES
        if any(limit is not None and need[stage] > limit for need, limit in zip((vram, ram), limits, strict=True))
    )
    known = device if device is machine.device else machine.processor
    seconds = {} if known is None else _seconds(known, model, drawing, settings)
    return Choice(settings, vram, ram, *limits, seconds, _LOSS[settings.dtype], tight)


def torch_device(device: Device) -> str:
    """What torch calls a device of this kind."""
    return {"nvidia": "cuda", "amd": "cuda", "apple": "mps", "cpu": "cpu"}[device.kind]


def _devices(machine: Machine, pinned: str | None) -> list[Device]:
    found = [machine.device]
    if machine.device.kind not in ("cpu", "apple") and machine.ram is not None:
        found.append(machine.processor or Device("the processor", "cpu", machine.ram, 0, 0, 0, 0, unified=True))
    return [device for device in found if pinned in (None, torch_device(device))]


def _workspaces(device: Device, model: ModelSizes, drawing: Drawing, settings: Settings) -> dict[str, float]:
    element = element_bytes(settings.dtype)
    fused = device.kind != "apple"
    scratch = assumed("scratch_cpu" if device.kind == "cpu" else "scratch_gpu")
    return {
        "encoding": encoding_bytes(model.encoder, drawing.text_tokens + _PREFIX, element),
        "denoising": denoising_bytes(
            model.denoiser, model.heads, drawing.tokens, drawing.text_tokens, element, fused=fused
        ),
        "decoding": decoding_bytes(model.autoencoder, drawing.height, drawing.width, element, scratch, fused),
    }


def _shared(
    device: Device, model: ModelSizes, settings: Settings, held: float, work: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Peaks where weights and workspace lie in main memory."""
    # On a unified GPU parts are read beside it and moved tensor by tensor; on a processor they stay.
    moving = 0.0 if device.kind == "cpu" else model.encoder.largest * element_bytes(settings.dtype)
    used = {"opening": held + moving, **{stage: held + size for stage, size in work.items()}}
    ram = {stage: assumed("process") + size for stage, size in used.items()}
    return (dict.fromkeys(STAGES, 0.0) if device.kind == "cpu" else used), ram


def _apart(
    model: ModelSizes, settings: Settings, held: float, work: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Peaks of a card and of main memory: parts are opened beside the card and then moved."""
    straight = 0.0
    if settings.encoder == "mxfp4":  # packed experts go to the card one by one as they are read
        straight = model.encoder.packed * 4.25 / 8
    vram = {"opening": held, **{stage: held + size for stage, size in work.items()}}
    ram = {"opening": held - straight, **dict.fromkeys(work, 0.0)}
    return (
        {stage: assumed("context") + size for stage, size in vram.items()},
        {stage: assumed("process_gpu") + size for stage, size in ram.items()},
    )


def _seconds(device: Device, model: ModelSizes, drawing: Drawing, settings: Settings) -> dict[str, float]:
    if not device.single:
        return {}
    packed = settings.encoder == "mxfp4"
    branches = [drawing.text_tokens] + ([] if drawing.guidance == 1 else [0])
    passes = [
        forward_seconds(device, settings.dtype, model.denoiser, drawing.tokens, text, settings.compile)
        for text in branches
    ]
    encoding = encoding_seconds(device, settings.dtype, model, drawing.text_tokens, packed)
    decoding = decoding_seconds(device, settings.dtype, model.autoencoder, drawing.height, drawing.width)
    known = [seconds for seconds in passes if seconds is not None]
    if len(known) < len(passes) or encoding is None or decoding is None:
        return {}
    compiling = assumed("compiling_cpu" if device.kind == "cpu" else "compiling_gpu") if settings.compile else 0.0
    return {
        "encoding": encoding,
        "denoising": drawing.steps * sum(known),
        "decoding": decoding,
        "compiling": compiling,
    }


def _rank(choice: Choice, pictures: int) -> tuple[bool, bool, bool, float, float, bool]:
    """Smaller is better: loss, then seconds; where no speed is known, a card before the processor, then less memory."""
    each = choice.seconds_per_picture(pictures)
    total = float("inf") if each is None else each * pictures + choice.seconds["compiling"]
    on_processor = choice.settings.device == "cpu" and each is None
    memory = max(max(choice.vram.values()), max(choice.ram.values()))
    return not choice.loss.startswith("none"), on_processor, each is None, total, memory, choice.settings.compile
