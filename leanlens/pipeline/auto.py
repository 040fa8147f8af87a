"""The planner for a model by name: what an image needs on a machine, and which model and load options to take.

The arithmetic is in `leanlens/plan/`; sizes come from files (`weights/sizes.py`). Nothing is loaded.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from leanlens.hub import locate, models_folder
from leanlens.pipeline.request import check_guidance, check_steps
from leanlens.plan.choose import Choice, Drawing, Machine, choose
from leanlens.plan.devices import GIB, card_of, cpu, device_of_driver, find_device, with_memory
from leanlens.plan.memory import ModelSizes
from leanlens.plan.options import AUTO, LoadOptions, kernels_missing
from leanlens.plan.rates import assumed
from leanlens.presets import PRESETS, preset_for
from leanlens.resolution import resolve_size
from leanlens.weights.sizes import model_sizes

_BEST_FIRST = ("rl", "turbo", "base")


@dataclass(frozen=True)
class ImagePlan:
    """What images of one prompt need on a machine.

    Attributes:
        model: the name that was given.
        machine: the machine that was planned for.
        drawing: size, steps, guidance and number of images.
        sizes: sizes of the model.
        choice: the load options that fit, or that come closest, with peaks and seconds.
        download_bytes: bytes to download first; None if unknown.
        disk_bytes: size of the model on disk; None if unknown.
    """

    model: str
    machine: Machine
    drawing: Drawing
    sizes: ModelSizes
    choice: Choice
    download_bytes: float | None
    disk_bytes: float | None

    @property
    def fits(self) -> bool:
        """Whether the images fit into the machine's memory."""
        return self.choice.fits

    @property
    def options(self) -> LoadOptions:
        """The chosen load options."""
        return self.choice.options

    @property
    def seconds_per_image(self) -> float | None:
        """Seconds for each image once the model is open; None if unknown."""
        return self.choice.seconds_per_picture(self.drawing.pictures)

    @property
    def seconds_first_image(self) -> float | None:
        """Seconds of the first image with starting Python, reading the files and compiling."""
        each = self.seconds_per_image
        if each is None:
            return None
        read = (self.sizes.denoiser_file + self.sizes.encoder_file) / assumed("disk")
        return each + assumed("start") + read + self.choice.seconds.get("compiling", 0.0)


@dataclass(frozen=True)
class ModelChoice:
    """A model and the options to open it with.

    Attributes:
        options: device and dtype may still be "auto", which `open_model` resolves.
        plan: the plan they come from; None if nothing was left to plan.
    """

    model: str
    options: LoadOptions
    plan: ImagePlan | None = None


def plan_image(
    model: str = "turbo",
    *,
    width: int | None = None,
    height: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    num_images: int = 1,
    options: LoadOptions | None = None,
    parts: dict[str, str] | None = None,
    machine: Machine | None = None,
) -> ImagePlan:
    """Predict what images need on a machine, how long they take, and the best load options; nothing is loaded.

    Args:
        model: a preset's name, or a local path in any known layout.
        width, height: pixels, multiples of 16. Default: the model's own square.
        num_inference_steps, guidance_scale: default: the model's own.
        num_images: images of one prompt, drawn one after the other.
        options: load options that are fixed; the others are chosen.
        parts: paths of components that the model lacks.
        machine: from `find_machine`. Default: this machine.

    Raises:
        ValueError: an unknown model, or an invalid size, number or option.
    """
    preset = preset_for(model)
    sizes, packed = model_sizes(model, parts)
    steps = num_inference_steps or preset.num_inference_steps
    guidance = preset.guidance_scale if guidance_scale is None else guidance_scale
    check_steps(steps)
    check_guidance(guidance)
    if width is None and height is None:
        width = height = preset.base_resolution
    height, width = resolve_size(height, width)
    machine = machine or find_machine()
    drawing = Drawing(height, width, steps, guidance, num_images)
    choice = choose(machine, sizes, packed, drawing, options or LoadOptions())
    return ImagePlan(model, machine, drawing, sizes, choice, *_storage(model, parts))


def choose_model(
    model: str,
    options: LoadOptions,
    *,
    width: int | None = None,
    height: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    num_images: int = 1,
    parts: dict[str, str] | None = None,
) -> ModelChoice:
    """Choose what `options` leave open, for this machine.

    Nothing is planned for models that fit any machine, or if the options leave nothing open.

    Args:
        model: a model as every command takes it, or "auto": the best released one that is on this machine and fits
            it, else the embedded one; then compiling is chosen too.

    Raises:
        ValueError: as `plan_image`.
    """

    def planned(name: str, pins: LoadOptions) -> ImagePlan:
        source = name if name in PRESETS else str(locate(name))  # presets are planned before they are fetched
        return plan_image(
            source, width=width, height=height, num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale, num_images=num_images, options=resolved(pins), parts=parts,
        )  # fmt: skip

    if model == AUTO:
        for name in filter(_is_fetched, _BEST_FIRST):
            plan = planned(name, options)
            if plan.fits:
                chosen = replace(_with_choice(options, plan), dtype=plan.options.dtype, compile=plan.options.compile)
                return ModelChoice(name, chosen, plan)
        return ModelChoice("nano", options.without_planning())
    is_small = model in PRESETS and PRESETS[model].is_small
    if is_small or not options.is_open:
        return ModelChoice(model, options.without_planning())
    plan = planned(model, replace(options, compile=bool(options.compile)))
    return ModelChoice(model, _with_choice(options, plan), plan)


def resolved(options: LoadOptions) -> LoadOptions:
    """The options with the device and dtype that `open_model` would choose on this machine."""
    from leanlens.pipeline.device import dtype_name, resolve_device, resolve_dtype

    device = resolve_device(options.device)
    return replace(options, device=device.type, dtype=dtype_name(resolve_dtype(options.dtype, device)))


def _with_choice(options: LoadOptions, plan: ImagePlan) -> LoadOptions:
    """`options` with what the plan decides; a denoiser that is not quantised stays as its files have it."""
    chosen = plan.options
    quant = options.quant if chosen.quant == "none" else chosen.quant
    decided = replace(
        options, quant=quant, offload=chosen.offload, encoder_on=chosen.encoder_on, tile_vae=chosen.tile_vae
    )
    return decided.without_planning()


def _is_fetched(name: str) -> bool:
    return (models_folder() / name / "model_index.json").is_file()


def _storage(name: str, parts: dict[str, str] | None) -> tuple[float | None, float | None]:
    """Bytes that are still to be downloaded of a model, and that it takes on disk; None where that is not known."""
    if parts:
        return None, None
    preset = PRESETS.get(name)
    if preset is None or preset.is_small:
        path = Path(locate(name))
    elif not _is_fetched(name):
        size = preset.sources[0].gigabytes * 1e9
        return size, size
    else:
        path = models_folder() / name
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return 0.0, float(sum(file.stat().st_size for file in files))


def find_machine(gpu: str | None = None, vram: float | None = None, ram: float | None = None) -> Machine:
    """The described machine, or this one.

    Args:
        gpu: name of the GPU, laptop or chip, as people or drivers write it.
        vram: memory of the GPU, GiB, instead of its name or in addition to it.
        ram: main memory, GiB.

    Raises:
        ValueError: an unknown card, or memory that is not above 0.
    """
    if ram is not None and ram <= 0:
        raise ValueError(f"invalid ram {ram:g}: expected main memory in GB, above 0")
    if gpu is None and vram is None:
        return _this_machine(ram)
    device = card_of(vram or 0) if gpu is None else find_device(gpu)
    if vram is not None:
        device = with_memory(device, card_of(vram).memory)
    if device.unified and ram is not None:
        device = with_memory(device, ram)
    return Machine(device, device.memory if device.unified else ram)


def _this_machine(ram: float | None) -> Machine:
    import psutil
    import torch

    memory = ram or psutil.virtual_memory().total / GIB
    flags = torch.backends.cpu.get_cpu_capability()
    half = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    kind = "AVX-512 bfloat16" if half else "AVX-512" if "512" in flags else "AVX2"
    processor = cpu(torch.get_num_threads(), kind, memory)
    if not torch.cuda.is_available():
        return Machine(processor, memory)
    found = torch.cuda.get_device_properties(0)
    device = device_of_driver(found.name, found.total_memory) or card_of(found.total_memory / GIB / 0.983)
    return Machine(device, memory, processor, not kernels_missing())
