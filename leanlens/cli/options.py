"""Options that several commands share, and the panels that their help groups options in."""

from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.plan.options import ENCODERS, OFFLOADS, QUANTS

# Panels, in the order in which help shows them.
IMAGE = "Image"
SOURCE = "Starting from an image"
MODEL = "Model"
DEVICE = "Device and memory"
SPEED = "Speed"
OUTPUT = "Output"

MODELS = "nano, turbo, rl, base, auto, a folder, a file, a repository id, or toy"


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option with its help, in a panel."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def flag(panel: str, name: str, text: str) -> Any:
    """--name and --no-name, so that a default of either kind can be turned round."""
    return option(panel, text, f"--{name}/--no-{name}")


Device = Annotated[str, option(DEVICE, "Device: auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, option(DEVICE, "Precision: auto, bfloat16, float16 or float32.")]
Quant = Annotated[str, option(DEVICE, f"Quantisation of the denoiser: auto, {', '.join(QUANTS)}.")]
Offload = Annotated[str, option(DEVICE, f"What leaves the device while it is not needed: auto, {', '.join(OFFLOADS)}.")]
EncoderOn = Annotated[
    str, option(DEVICE, f"Where the text encoder runs: auto, {', '.join(ENCODERS)} (read layer by layer).")
]
TileVae = Annotated[
    bool, flag(DEVICE, "tile-vae", "Decode in small tiles: less memory, but pixels near the seams differ.")
]
Features = Annotated[
    Path | None,
    option(
        DEVICE, "Folder that caches text features, so that each prompt is encoded only once.",
        envvar="LEANLENS_FEATURES",
    ),
]  # fmt: skip
Compile = Annotated[bool, flag(SPEED, "compile", "Compile the transformer: a slow start, then faster steps.")]
Steps = Annotated[int | None, option(IMAGE, "Number of denoising steps. Default: the model's own.")]
Cfg = Annotated[float | None, option(IMAGE, "Guidance scale; 1 turns guidance off. Default: the model's own.")]
Reason = Annotated[
    str,
    option(
        MODEL, "Rewrite prompts into captions of the kind that the model learnt: default (where it states their kind) "
        "or off.", metavar="WORD",
    ),
]  # fmt: skip
Marking = Annotated[bool, flag(OUTPUT, "marking", "Mark files as made by a model (IPTC, in XMP).")]
AsJson = Annotated[bool, flag(OUTPUT, "json", "Print JSON instead of text.")]
OfferedModels = Annotated[
    list[str] | None,
    option(MODEL, "Model to offer; the first is the default. Repeatable.", "-m", "--model"),
]
LoraFolders = Annotated[list[Path] | None, option(MODEL, "Folder of LoRA files to offer by name. Repeatable.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one key of the recipe. Repeatable.")
]
