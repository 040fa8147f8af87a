"""Bytes that load options need on a device and in main memory, stage by stage.

`pipeline/offload.py` carries the options out, and `tests/plan/test_peaks.py` compares the two. Load options are decided
here: none is open.

"opening" is the model without its text encoder, if that is unloaded; a prompt may be encoded after an image was drawn,
so at "encoding" the denoiser is there, wherever it is kept.
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
from leanlens.plan.options import IN_TURNS, LoadOptions
from leanlens.plan.rates import assumed

STAGES = ("opening", "encoding", "denoising", "decoding")
Peaks = dict[str, float]


@dataclass(frozen=True)
class Drawing:
    """The images to plan for: `pictures` of one prompt, drawn one after the other, as `leanlens generate -n` does."""

    height: int = 1024
    width: int = 1024
    steps: int = 20
    guidance: float = 5.0
    pictures: int = 1
    text_tokens: int = MEAN_TEXT_TOKENS

    def __post_init__(self) -> None:
        for name in ("steps", "pictures"):
            if getattr(self, name) < 1:
                raise ValueError(f"invalid {name} {getattr(self, name)}: expected an integer from 1")

    @property
    def tokens(self) -> int:
        """Image tokens."""
        return self.height * self.width // 256


def peaks(
    device: Device, model: ModelSizes, drawing: Drawing, options: LoadOptions, mxfp4: bool = False
) -> tuple[Peaks, Peaks]:
    """Peak bytes of each stage on the card (or a unified GPU's share; zeros on a processor) and in main memory.

    Args:
        mxfp4: the text encoder stays in MXFP4 in memory; otherwise it is decoded to the dtype.
    """
    weights = part_bytes(model, options.dtype, mxfp4, options.quant)
    work = _workspaces(device, model, drawing, options)
    if device.kind == "cpu" or device.unified:
        return _shared(device, model, options, weights, work)
    if _all_stay(options):
        return _apart(model, mxfp4, weights, work)
    return _offloaded(model, drawing, options, mxfp4, weights, work)


def _all_stay(options: LoadOptions) -> bool:
    """Whether every part is decoded and stays on the device."""
    return (options.quant, options.offload, options.encoder_on) == ("none", "none", "device")


def _workspaces(device: Device, model: ModelSizes, drawing: Drawing, options: LoadOptions) -> Peaks:
    element = element_bytes(options.dtype)
    fused = device.kind != "apple"
    scratch = assumed("scratch_cpu" if device.kind == "cpu" else "scratch_gpu")
    denoising = denoising_bytes(
        model.denoiser, model.heads, drawing.tokens, drawing.text_tokens, element, fused=fused
    ) + unpacking_bytes(model, options.quant, element)
    decoding = decoding_bytes(
        model.autoencoder, drawing.height, drawing.width, element, scratch, fused, bool(options.tile_vae)
    )
    encoding = encoding_bytes(model.encoder, drawing.text_tokens + PREFIX_TOKENS, element)
    return {"opening": 0.0, "encoding": encoding, "denoising": denoising, "decoding": decoding}


def _shared(
    device: Device, model: ModelSizes, options: LoadOptions, weights: Peaks, work: Peaks
) -> tuple[Peaks, Peaks]:
    """Where weights and workspace lie in main memory, the denoiser waits nowhere else but on disk."""
    element, layer = element_bytes(options.dtype), streamed_bytes(model, element_bytes(options.dtype))
    on_disk = options.offload == "disk"
    stays = weights["vae"] + (0.0 if on_disk else weights["transformer"])
    encoder = layer["text_encoder"] if options.encoder_on == "disk" else weights["text_encoder"]
    always = options.offload == "none" and options.encoder_on != "disk"
    used = {stage: stays + size + (encoder if always or stage == "encoding" else 0.0) for stage, size in work.items()}
    used["denoising"] += layer["transformer"] if on_disk else 0.0
    if device.kind != "cpu" and _all_stay(options):  # parts are read beside the GPU and moved tensor by tensor
        used["opening"] += model.encoder.largest * element
    ram = {stage: assumed("process") + size for stage, size in used.items()}
    return (dict.fromkeys(STAGES, 0.0) if device.kind == "cpu" else used), ram


def _apart(model: ModelSizes, mxfp4: bool, weights: Peaks, work: Peaks) -> tuple[Peaks, Peaks]:
    """All on the card; parts are opened beside it and then moved."""
    held, straight = sum(weights.values()), 0.0
    if mxfp4:  # packed experts go to the card one by one as they are read
        straight = model.encoder.packed * 4.25 / 8
    ram = {"opening": held - straight, **dict.fromkeys(STAGES[1:], 0.0)}
    return (
        {stage: assumed("context") + held + size for stage, size in work.items()},
        {stage: assumed("process_gpu") + size for stage, size in ram.items()},
    )


def _offloaded(
    model: ModelSizes, drawing: Drawing, options: LoadOptions, mxfp4: bool, weights: Peaks, work: Peaks
) -> tuple[Peaks, Peaks]:
    """Parts go straight where they are held (`offload.py`), and wait in main memory or on disk."""
    element, offload = element_bytes(options.dtype), options.offload
    layer = streamed_bytes(model, element)
    vram = dict.fromkeys(STAGES, 0.0)
    ram = dict.fromkeys(STAGES, 0.0)
    encoder = {"device": weights["text_encoder"], "disk": layer["text_encoder"], "cpu": 0.0}[options.encoder_on]
    beside = weights["text_encoder"] if options.encoder_on == "cpu" else 0.0
    resident = offload == "none" and options.encoder_on != "disk"
    in_turns = offload in IN_TURNS
    for stage in STAGES:
        vram[stage] += encoder if resident or stage == "encoding" else 0.0
        ram[stage] += beside if resident or stage == "encoding" else 0.0
        vram[stage] += _denoiser_on_card(
            model, options, weights["transformer"], layer["transformer"], stage, drawing.steps
        )
        vram[stage] += 0.0 if in_turns and stage in ("opening", "encoding") else weights["vae"]
        waits = in_turns or offload == "block" or (offload == "encoder" and stage in ("opening", "encoding"))
        ram[stage] += weights["transformer"] if waits else 0.0
        ram[stage] += weights["vae"] if in_turns or stage == "opening" else 0.0
    if mxfp4:  # what is not packed is read beside the card
        ram["encoding"] += weights["text_encoder"] - model.encoder.packed * 4.25 / 8
    return (
        {stage: assumed("context") + vram[stage] + size for stage, size in work.items()},
        {stage: assumed("process_gpu") + size for stage, size in ram.items()},
    )


def _denoiser_on_card(
    model: ModelSizes, options: LoadOptions, whole: float, layer: float, stage: str, steps: int
) -> float:
    """Bytes of the denoiser that lie on the card in a stage."""
    if options.offload == "none":
        return whole
    if options.offload == "encoder":
        return 0.0 if stage == "encoding" else whole
    if stage != "denoising":
        return 0.0
    if options.offload == "model":
        return whole
    if options.offload == "modulation":
        return without_modulation_bytes(model, whole, element_bytes(options.dtype), steps)
    return layer if options.offload == "disk" else two_blocks_bytes(model, whole, element_bytes(options.dtype))
