"""Bytes that a combination of settings needs on a device and in main memory, stage by stage.

Comes in: a device, a model's sizes, a request, settings. Goes out: two peaks for each of `STAGES`. Arithmetic only;
what each word does to a pipeline is in `pipeline/offload.py`, and `tests/plan/test_peaks.py` compares the two.

"opening" is the model without its text encoder, if that is let go; a prompt may be encoded after a picture was drawn,
so at "encoding" the denoiser is there, wherever it waits.
"""

from dataclasses import dataclass

from leanlens.plan.compute import MEAN_TEXT_TOKENS
from leanlens.plan.devices import Device
from leanlens.plan.memory import (
    PREFIX_TOKENS,
    ModelSizes,
    decoding_bytes,
    denoising_bytes,
    element_bytes,
    encoding_bytes,
    part_bytes,
    streamed_bytes,
    two_blocks_bytes,
    unpacking_bytes,
    without_modulation_bytes,
)
from leanlens.plan.options import IN_TURNS
from leanlens.plan.rates import assumed

STAGES = ("opening", "encoding", "denoising", "decoding")
Peaks = dict[str, float]


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn: `pictures` of one prompt, one after the other, as `leanlens generate -n` does."""

    height: int = 1024
    width: int = 1024
    steps: int = 20
    guidance: float = 5.0
    pictures: int = 1
    text_tokens: int = MEAN_TEXT_TOKENS

    def __post_init__(self) -> None:
        for name in ("steps", "pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not accepted; give a whole number from 1")

    @property
    def tokens(self) -> int:
        """Image tokens."""
        return self.height * self.width // 256


@dataclass(frozen=True)
class Settings:
    """A combination.

    Attributes:
        device: where everything computes: cuda, mps or cpu.
        dtype: of all parts.
        encoder: mxfp4, or the dtype that the text encoder is decoded to.
        quant, offload, encoder_on: as `options.py` has them.
        tiling: the decoder works in tiles, which changes pixels near their seams.
        tile_vae: it does so in small ones, because that was asked for and not because the picture is large.
        compile: the denoiser's blocks are compiled.
    """

    device: str
    dtype: str
    encoder: str
    quant: str = "none"
    offload: str = "none"
    encoder_on: str = "device"
    tiling: bool = False
    tile_vae: bool = False
    compile: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether every part is decoded and stays on the device."""
        return (self.quant, self.offload, self.encoder_on) == ("none", "none", "device")


def peaks(device: Device, model: ModelSizes, drawing: Drawing, settings: Settings) -> tuple[Peaks, Peaks]:
    """Of the card (or the share of a unified GPU; zeros on a processor), and of main memory."""
    weights = part_bytes(model, settings.dtype, settings.encoder == "mxfp4", settings.quant)
    work = _workspaces(device, model, drawing, settings)
    if device.kind == "cpu" or device.unified:
        return _shared(device, model, settings, weights, work)
    if settings.is_plain:
        return _apart(model, settings, weights, work)
    return _held_apart(model, drawing, settings, weights, work)


def _workspaces(device: Device, model: ModelSizes, drawing: Drawing, settings: Settings) -> Peaks:
    element = element_bytes(settings.dtype)
    fused = device.kind != "apple"
    scratch = assumed("scratch_cpu" if device.kind == "cpu" else "scratch_gpu")
    denoising = denoising_bytes(
        model.denoiser, model.heads, drawing.tokens, drawing.text_tokens, element, fused=fused
    ) + unpacking_bytes(model, settings.quant, element)
    decoding = decoding_bytes(
        model.autoencoder, drawing.height, drawing.width, element, scratch, fused, settings.tile_vae
    )
    encoding = encoding_bytes(model.encoder, drawing.text_tokens + PREFIX_TOKENS, element)
    return {"opening": 0.0, "encoding": encoding, "denoising": denoising, "decoding": decoding}


def _shared(device: Device, model: ModelSizes, settings: Settings, weights: Peaks, work: Peaks) -> tuple[Peaks, Peaks]:
    """Where weights and workspace lie in main memory, the denoiser waits nowhere else but on disk."""
    element, layer = element_bytes(settings.dtype), streamed_bytes(model, element_bytes(settings.dtype))
    on_disk = settings.offload == "disk"
    stays = weights["vae"] + (0.0 if on_disk else weights["transformer"])
    encoder = layer["text_encoder"] if settings.encoder_on == "disk" else weights["text_encoder"]
    always = settings.offload == "none" and settings.encoder_on != "disk"
    used = {stage: stays + size + (encoder if always or stage == "encoding" else 0.0) for stage, size in work.items()}
    used["denoising"] += layer["transformer"] if on_disk else 0.0
    if device.kind != "cpu" and settings.is_plain:  # parts are read beside the GPU and moved tensor by tensor
        used["opening"] += model.encoder.largest * element
    ram = {stage: assumed("process") + size for stage, size in used.items()}
    return (dict.fromkeys(STAGES, 0.0) if device.kind == "cpu" else used), ram


def _apart(model: ModelSizes, settings: Settings, weights: Peaks, work: Peaks) -> tuple[Peaks, Peaks]:
    """All on the card; parts are opened beside it and then moved."""
    held, straight = sum(weights.values()), 0.0
    if settings.encoder == "mxfp4":  # packed experts go to the card one by one as they are read
        straight = model.encoder.packed * 4.25 / 8
    ram = {"opening": held - straight, **dict.fromkeys(STAGES[1:], 0.0)}
    return (
        {stage: assumed("context") + held + size for stage, size in work.items()},
        {stage: assumed("process_gpu") + size for stage, size in ram.items()},
    )


def _held_apart(
    model: ModelSizes, drawing: Drawing, settings: Settings, weights: Peaks, work: Peaks
) -> tuple[Peaks, Peaks]:
    """Parts go straight where they are held (`offload.py`), and wait in main memory or on disk."""
    element, offload = element_bytes(settings.dtype), settings.offload
    layer = streamed_bytes(model, element)
    vram = dict.fromkeys(STAGES, 0.0)
    ram = dict.fromkeys(STAGES, 0.0)
    encoder = {"device": weights["text_encoder"], "disk": layer["text_encoder"], "cpu": 0.0}[settings.encoder_on]
    beside = weights["text_encoder"] if settings.encoder_on == "cpu" else 0.0
    resident = offload == "none" and settings.encoder_on != "disk"
    in_turns = offload in IN_TURNS
    for stage in STAGES:
        vram[stage] += encoder if resident or stage == "encoding" else 0.0
        ram[stage] += beside if resident or stage == "encoding" else 0.0
        vram[stage] += _denoiser_on_card(
            model, settings, weights["transformer"], layer["transformer"], stage, drawing.steps
        )
        vram[stage] += 0.0 if in_turns and stage in ("opening", "encoding") else weights["vae"]
        waits = in_turns or offload == "block" or (offload == "encoder" and stage in ("opening", "encoding"))
        ram[stage] += weights["transformer"] if waits else 0.0
        ram[stage] += weights["vae"] if in_turns or stage == "opening" else 0.0
    if settings.encoder == "mxfp4":  # what is not packed is read beside the card
        ram["encoding"] += weights["text_encoder"] - model.encoder.packed * 4.25 / 8
    return (
        {stage: assumed("context") + vram[stage] + size for stage, size in work.items()},
        {stage: assumed("process_gpu") + size for stage, size in ram.items()},
    )


def _denoiser_on_card(
    model: ModelSizes, settings: Settings, whole: float, layer: float, stage: str, steps: int
) -> float:
    """Bytes of the denoiser that lie on the card in a stage."""
    if settings.offload == "none":
        return whole
    if settings.offload == "encoder":
        return 0.0 if stage == "encoding" else whole
    if stage != "denoising":
        return 0.0
    if settings.offload == "model":
        return whole
    if settings.offload == "modulation":
        return without_modulation_bytes(model, whole, element_bytes(settings.dtype), steps)
    return layer if settings.offload == "disk" else two_blocks_bytes(model, whole, element_bytes(settings.dtype))
