"""Plans as the plain values that `leanlens plan --json` prints, and the commands that carry them out."""

import shlex
from typing import TYPE_CHECKING, Any

from leanlens.install import KERNELS
from leanlens.plan.choose import Drawing
from leanlens.plan.options import LoadOptions

if TYPE_CHECKING:
    from leanlens.pipeline.auto import ImagePlan


def image_answer(plan: "ImagePlan") -> dict[str, Any]:
    """The plan of images as plain JSON values."""
    choice, options = plan.choice, plan.options
    first, each = plan.seconds_first_image, plan.seconds_per_image
    return {
        "model": plan.model,
        "request": _request(plan.drawing),
        "machine": plan.machine.device.name,
        "fits": plan.fits,
        "too_large": list(choice.tight),
        "peak_vram_gb": gigabytes(max(choice.vram.values())),
        "peak_ram_gb": gigabytes(max(choice.ram.values())),
        "vram_limit_gb": None if choice.vram_limit is None else gigabytes(choice.vram_limit),
        "ram_limit_gb": None if choice.ram_limit is None else gigabytes(choice.ram_limit),
        "stages": {
            stage: {"vram_gb": gigabytes(choice.vram[stage]), "ram_gb": gigabytes(choice.ram[stage])}
            for stage in choice.vram
        },
        "download_gb": None if plan.download_bytes is None else gigabytes(plan.download_bytes),
        "disk_gb": None if plan.disk_bytes is None else gigabytes(plan.disk_bytes),
        "seconds_per_image": None if each is None else float(f"{each:.3g}"),
        "seconds_first_image": None if first is None else float(f"{first:.3g}"),
        "seconds": {stage: float(f"{value:.3g}") for stage, value in choice.seconds.items()},
        "settings": {
            "device": options.device,
            "dtype": options.dtype,
            "encoder": choice.encoder,
            "quant": options.quant,
            "offload": options.offload,
            "encoder_on": options.encoder_on,
            "tiling": choice.tiled,
            "tile_vae": options.tile_vae,
            "compile": options.compile,
        },
        "lost": choice.loss,
        "needs": _needs(choice.mxfp4),
        "command": shlex.join(command_words(plan.model, plan.drawing, options)) if plan.fits else None,
    }


def command_words(name: str, drawing: Drawing, options: LoadOptions) -> list[str]:
    """The command that draws so; every option is given, so that it does the same wherever it runs."""
    words = ["leanlens", "generate", "PROMPT", "--model", name, "--size", f"{drawing.width}x{drawing.height}"]
    words += ["--steps", str(drawing.steps), "--cfg", f"{drawing.guidance:g}", "--dtype", options.dtype]
    words += ["--device", options.device, "--quant", options.quant, "--offload", options.offload]
    words += ["--encoder-on", options.encoder_on]
    words += ["--number", str(drawing.pictures)] if drawing.pictures > 1 else []
    words += ["--tile-vae"] if options.tile_vae else []
    return words + (["--compile"] if options.compile else [])


def _request(drawing: Drawing) -> dict[str, Any]:
    """What is planned, by the names of a pipeline's call."""
    return {
        "width": drawing.width,
        "height": drawing.height,
        "num_inference_steps": drawing.steps,
        "guidance_scale": drawing.guidance,
        "num_images": drawing.pictures,
    }


def _needs(mxfp4: bool) -> list[str]:
    """What to do before the command, for the settings to be what they say."""
    if not mxfp4:
        return []
    return [
        f"{KERNELS} (without them the text encoder is decoded to 40.7 GB, unless it is read layer by layer: "
        "--encoder-on disk)"
    ]


def gigabytes(size: float) -> float:
    """Bytes -> 10^9 bytes, rounded up at the second decimal."""
    return -(-size // 1e7) / 100
