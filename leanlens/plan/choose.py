"""Which load options to draw with on a machine: what fits, what it needs at its peak, how long an image takes.

Arithmetic only. The order of choice: no loss of quality, then the fewest seconds for all the images asked for,
compiling included. Only where nothing fits without loss is quantising or tiling offered, the least harmful first.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product

from leanlens.plan.devices import GIB, Device
from leanlens.plan.memory import ModelSizes, is_tiled, part_bytes
from leanlens.plan.options import AUTO, DTYPES, ENCODERS, IN_TURNS, OFFLOADS, QUANTS, LoadOptions
from leanlens.plan.peaks import STAGES, Drawing, peaks
from leanlens.plan.rates import (
    assumed,
    decoding_seconds,
    encoding_seconds,
    forward_seconds,
    unpacking_seconds,
    usable_bytes,
)

__all__ = ["STAGES", "Choice", "Drawing", "Machine", "choices", "choose", "torch_device", "weigh"]

MXFP4_CAPABILITY = 7.5  # what transformers asks of a card for MXFP4 kernels
_LOSS = {
    "bfloat16": "none: the dtype of the release",
    "float32": "none",
    "float16": "the range of the weights is cut off at 65504, which can break colours or end in an error",
}
# How much is lost, in words, least first.
_QUANT_LOSS = {
    "none": "",
    "int8": "weights in 8 bits: hardly to be seen",
    "mxfp8": "weights in 8 bits, shared exponents: small details differ",
    "fp8": "weights in 8 bits, floating point: small details differ",
    "nf4": "weights in 4 bits: details differ",
    "int4": "weights in 4 bits: details differ",
}
_TILE_LOSS = "decoded in tiles: pixels near their seams differ"


@dataclass(frozen=True)
class Machine:
    """A device to draw on, and the machine around it.

    Attributes:
        device: the card, or the processor if there is no card.
        ram: main memory, GiB; None if unknown, and then not checked. With unified memory, that of the device.
        processor: the processor of a machine with a card; None if its speed is unknown.
        mxfp4: whether the packages for MXFP4 kernels are installed, and the card supports them.
    """

    device: Device
    ram: float | None = None
    processor: Device | None = None
    mxfp4: bool = True


@dataclass(frozen=True)
class Choice:
    """Load options, and what they cost on a machine.

    Attributes:
        options: complete load options, including device and dtype.
        mxfp4: the text encoder stays in MXFP4; otherwise it is decoded to the dtype.
        tiled: the image is decoded in tiles, which changes pixels near their seams.
        vram, ram: peak of each stage, bytes; `vram` is that of the card, or of a unified GPU's share.
        vram_limit, ram_limit: available memory, bytes; None if unknown or unused.
        seconds: for encoding, denoising and decoding an image, and for compiling once; empty if a rate is unknown.
        loss: the loss in quality.
        tight: the stages that do not fit.
    """

    options: LoadOptions
    mxfp4: bool
    tiled: bool
    vram: dict[str, float]
    ram: dict[str, float]
    vram_limit: float | None
    ram_limit: float | None
    seconds: dict[str, float]
    loss: str
    tight: tuple[str, ...] = field(default=())

    @property
    def encoder(self) -> str:
        """Format of the text encoder in memory: mxfp4, or the dtype that it is decoded to."""
        return "mxfp4" if self.mxfp4 else self.options.dtype

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return not self.tight

    @property
    def excess(self) -> float:
        """Bytes that are missing in the worst stage."""
        over = [0.0]
        over += [max(self.vram.values()) - self.vram_limit] if self.vram_limit is not None else []
        over += [max(self.ram.values()) - self.ram_limit] if self.ram_limit is not None else []
        return max(over)

    def seconds_per_picture(self, pictures: int = 1) -> float | None:
        """Seconds for each of `pictures` of one prompt, which is encoded once; without opening and compiling."""
        if not self.seconds:
            return None
        return self.seconds["encoding"] / pictures + self.seconds["denoising"] + self.seconds["decoding"]


def choose(
    machine: Machine, model: ModelSizes, packed: bool, drawing: Drawing, pins: LoadOptions = LoadOptions()
) -> Choice:
    """The best combination that fits, or if none does, the one that comes closest.

    Args:
        packed: the model's files hold the text encoder in MXFP4, in a folder that opens as it is.
        pins: load options that are fixed.

    Raises:
        ValueError: the machine does not have the device.
    """
    found: list[Choice] = []
    for harmless in (True, False):
        found += choices(machine, model, packed, drawing, pins, harmless)
        if fitting := [choice for choice in found if choice.fits]:
            return min(fitting, key=lambda choice: _rank(choice, drawing.pictures))
    if not found:
        raise ValueError(f"invalid device {pins.device!r}: {machine.device.name} has none of that kind")
    return min(found, key=lambda choice: choice.excess)


def choices(
    machine: Machine,
    model: ModelSizes,
    packed: bool,
    drawing: Drawing,
    pins: LoadOptions = LoadOptions(),
    harmless: bool = True,
) -> Iterator[Choice]:
    """Every combination that the fixed options allow, whether it fits or not.

    Args:
        harmless: only those without loss, apart from fixed options; False gives the others.
    """
    for device in _devices(machine, pins.device):
        kernels = device.kind == "nvidia" and device.capability >= MXFP4_CAPABILITY and machine.mxfp4
        for words in _combinations(device, pins):
            dtype, quant, offload, encoder_on, tile, compiled = words
            if _is_harmless(dtype, quant, tile, pins) is not harmless:
                continue
            options = LoadOptions(quant, offload, encoder_on, tile, torch_device(device), dtype, compiled)
            yield weigh(machine, device, model, drawing, options, packed and kernels and encoder_on == "device")


def _combinations(device: Device, pins: LoadOptions) -> Iterator[tuple[str, str, str, str, bool, bool]]:
    """Of dtype, quant, offload, encoder_on, tile_vae and compile: what `leanlens generate` can do on the device."""
    alone = device.kind == "cpu" or device.unified  # main memory is the device's: nothing can wait there
    free: list[tuple] = [
        _pinned(pins.dtype, DTYPES),
        _pinned(pins.quant, QUANTS),
        _pinned(pins.offload, [word for word in OFFLOADS if not alone or word not in (*IN_TURNS, "block")]),
        _pinned(pins.encoder_on, [word for word in ENCODERS if not alone or word != "cpu"]),
        (False, True) if pins.tile_vae is None else (pins.tile_vae,),
        (False, True) if pins.compile is None else (pins.compile,),
    ]
    for words in product(*free):
        _, quant, offload, encoder_on, tile, compiled = words
        unable = (compiled and offload in ("block", "disk")) or (quant != "none" and offload == "disk")
        # `none` says that all stays on the device: another place or small tiles go with it only if they are pinned.
        stays = (encoder_on == "device" or pins.encoder_on != AUTO) and (not tile or pins.tile_vae)
        if not unable and (offload != "none" or stays):
            yield words


def _pinned(word: str, words: Iterable[str]) -> tuple[str, ...]:
    """The one that is decided, or all."""
    return tuple(words) if word == AUTO else (word,)


def _is_harmless(dtype: str, quant: str, tile: bool, pins: LoadOptions) -> bool:
    """Whether nothing is lost but what is pinned."""
    lost = (pins.dtype == AUTO and dtype == "float16", pins.quant == AUTO and quant != "none")
    return not any(lost) and not (tile and pins.tile_vae is None)


def weigh(
    machine: Machine, device: Device, model: ModelSizes, drawing: Drawing, options: LoadOptions, mxfp4: bool = False
) -> Choice:
    """What `options` cost on `device` of the machine; with `mxfp4` the text encoder stays in MXFP4."""
    vram, ram = peaks(device, model, drawing, options, mxfp4)
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
    seconds = {} if known is None else _seconds(known, machine.processor, model, drawing, options, mxfp4)
    tiled = bool(options.tile_vae) or is_tiled(drawing.height, drawing.width)
    return Choice(options, mxfp4, tiled, vram, ram, *limits, seconds, _loss(options), tight)


def _loss(options: LoadOptions) -> str:
    parts = [_QUANT_LOSS[options.quant], _TILE_LOSS if options.tile_vae else ""]
    lost = "; ".join(part for part in parts if part)
    if options.dtype == "float16":
        return "; ".join(part for part in (_LOSS["float16"], lost) if part)
    return lost or _LOSS[options.dtype]


def torch_device(device: Device) -> str:
    """torch's name for this kind of device."""
    return {"nvidia": "cuda", "amd": "cuda", "apple": "mps", "cpu": "cpu"}[device.kind]


def _devices(machine: Machine, pinned: str) -> list[Device]:
    found = [machine.device]
    if machine.device.kind not in ("cpu", "apple") and machine.ram is not None:
        found.append(machine.processor or Device("the processor", "cpu", machine.ram, 0, 0, 0, 0, unified=True))
    return [device for device in found if pinned.split(":")[0] in (AUTO, torch_device(device))]


def _seconds(
    device: Device,
    processor: Device | None,
    model: ModelSizes,
    drawing: Drawing,
    options: LoadOptions,
    mxfp4: bool,
) -> dict[str, float]:
    if not device.single:
        return {}
    encoding = _encoding_seconds(device, processor, model, drawing, options, mxfp4)
    denoising = _denoising_seconds(device, model, drawing, options)
    decoding = decoding_seconds(
        device, options.dtype, model.autoencoder, drawing.height, drawing.width, bool(options.tile_vae)
    )
    if encoding is None or denoising is None or decoding is None:
        return {}
    compiling = assumed("compiling_cpu" if device.kind == "cpu" else "compiling_gpu") if options.compile else 0.0
    return {"encoding": encoding, "denoising": denoising, "decoding": decoding, "compiling": compiling}


def _encoding_seconds(
    device: Device,
    processor: Device | None,
    model: ModelSizes,
    drawing: Drawing,
    options: LoadOptions,
    mxfp4: bool,
) -> float | None:
    """Encoding the prompt; with it reading the text encoder, where it is opened or streamed for every prompt."""
    place = processor if options.encoder_on == "cpu" and device.kind != "cpu" else device
    if place is None:
        return None
    seconds = encoding_seconds(place, options.dtype, model, drawing.text_tokens, mxfp4)
    if seconds is None or (options.offload == "none" and options.encoder_on != "disk"):
        return seconds
    seconds += model.encoder_file / assumed("disk")
    if not mxfp4:
        seconds += unpacking_seconds(place, model.encoder.packed, "mxfp4")
    if options.offload == "encoder" and not device.unified:  # the denoiser goes and comes back
        seconds += 2 * part_bytes(model, options.dtype, True, options.quant)["transformer"] / assumed("host")
    return seconds


def _denoising_seconds(device: Device, model: ModelSizes, drawing: Drawing, options: LoadOptions) -> float | None:
    weights = part_bytes(model, options.dtype, True, options.quant)
    unpacking = 0.0 if options.quant == "none" else unpacking_seconds(device, model.packed_weights, options.quant)
    total = 0.0
    for text in [drawing.text_tokens] + ([] if drawing.guidance == 1 else [0]):
        each = forward_seconds(device, options.dtype, model.denoiser, drawing.tokens, text, bool(options.compile))
        if each is None:
            return None
        each += unpacking
        if options.offload == "block":  # the next block comes while one computes
            each = max(each, weights["transformer"] / assumed("host"))
        if options.offload == "disk":  # modulation is computed once in a drawing, so its weights are read once
            each += model.denoiser_file * (1 - model.modulation_share) / assumed("disk")
        total += drawing.steps * each
    # Modulation that waits comes layer by layer, but it comes: the same bytes.
    moved = weights["transformer"] + weights["vae"] if options.offload in IN_TURNS else 0.0
    once = model.denoiser_file * model.modulation_share / assumed("disk") if options.offload == "disk" else 0.0
    return total + once + moved / assumed("host")


def _rank(choice: Choice, pictures: int) -> tuple:
    """Smaller is better: loss, then seconds; where no speed is known, a card before the processor, then less moving."""
    each = choice.seconds_per_picture(pictures)
    total = float("inf") if each is None else each * pictures + choice.seconds["compiling"]
    on_processor = choice.options.device == "cpu" and each is None
    options, memory = choice.options, max(max(choice.vram.values()), max(choice.ram.values()))
    harm = (options.dtype == "float16", QUANTS.index(options.quant) + bool(options.tile_vae))
    moving = (OFFLOADS.index(options.offload), ENCODERS.index(options.encoder_on)) if each is None else ()
    return harm, on_processor, each is None, total, moving, memory, bool(options.compile)
