"""Lists the models that have a short name, with their sampling defaults, licences and download sources.

Steps and guidance are those of the released model cards. The released command line defaults to base resolution 1440;
leanlens defaults to 1024, which fits most machines. The original repositories were withdrawn in the middle of 2026, so
every source here is a third-party mirror; `docs/mirrors.md` explains how to set your own.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leanlens.files import read_json

# The files of a model folder to fetch: weights and configs, without images, pickles and repacked copies.
FOLDER_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.jinja",
    "tokenizer/*.txt",
    "text_encoder/*.json",
    "text_encoder/*.safetensors",
    "transformer/*.json",
    "transformer/*.safetensors",
    "vae/*.json",
    "vae/*.safetensors",
    "README.md",
    "LICENSE*",
    "NOTICE*",
)


@dataclass(frozen=True)
class Source:
    """A download source of a model.

    Attributes:
        address: a repository id `owner/name`.
        layout: "folder", a model folder; or "files", single files for node-graph programs such as ComfyUI, which are
            fetched only if this source is requested by its address.
        files: shell patterns of the files to fetch, relative to the root of the source.
        gigabytes: approximate download size, 10^9 bytes.
    """

    address: str
    layout: str
    files: tuple[str, ...]
    gigabytes: float


@dataclass(frozen=True)
class Preset:
    """A model with a short name.

    Attributes:
        name: short name, used in commands.
        title: name in running text.
        description: one sentence.
        num_inference_steps, guidance_scale: sampling defaults.
        base_resolution: default area, as the side of a square in pixels.
        areas: smallest and largest area at which it works well, as sides of squares in pixels.
        licence: licence of the weights, from their model cards.
        sources: download sources, tried in this order; empty for a model that needs no download.
        is_made: its weights are random numbers that are made when it is opened; it has no folder.
    """

    name: str
    title: str
    description: str
    num_inference_steps: int
    guidance_scale: float
    base_resolution: int
    licence: str
    sources: tuple[Source, ...]
    areas: tuple[int, int] = (512, 1440)
    is_made: bool = False

    @property
    def is_embedded(self) -> bool:
        """Whether its folder is part of the package."""
        return not self.sources and not self.is_made

    @property
    def is_small(self) -> bool:
        """Whether it fits any machine: what the package has or makes, not what is downloaded."""
        return not self.sources

    def advice_on(self, width: int, height: int) -> str | None:
        """A warning if the area is more than a quarter outside the range the model was trained at; otherwise None."""
        smallest, largest = self.areas
        if self.is_made or 0.75 * smallest**2 < width * height < 1.25 * largest**2:
            return None
        meant = f"{smallest}x{smallest}" + (f" to {largest}x{largest}" if largest > smallest else "")
        larger = width * height > largest**2
        fault = "expect repeated and broken shapes" if larger else "expect few details and broken shapes"
        other = "; --model turbo draws larger images" if larger and self.name == "nano" else ""
        return f"{width}x{height} is far from the area that {self.name} was trained on ({meant}): {fault}{other}"


def _folder(address: str) -> Source:
    return Source(address, "folder", FOLDER_FILES, 30.6)


def _single_files(denoiser: str) -> Source:
    files = (denoiser, "text_encoders/gpt_oss_20b_nvfp4.safetensors", "vae/flux2-vae.safetensors")
    return Source("Comfy-Org/Lens", "files", files, 21.8)


_RELEASED_LICENCE = (
    "MIT for the denoiser (its card: for research purposes), Apache-2.0 for the GPT-OSS text encoder, "
    "FLUX.2 terms for the autoencoder"
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="nano",
            title="Lens nano",
            description="The small model inside the package, for trying every command without a download.",
            num_inference_steps=20,
            guidance_scale=2.0,
            base_resolution=256,
            licence="MIT; Apache-2.0 for its text encoder",
            sources=(),
            areas=(256, 256),
        ),
        Preset(
            name="turbo",
            title="Lens-Turbo",
            description="Distilled to 4 steps without guidance: the fastest.",
            num_inference_steps=4,
            guidance_scale=1.0,
            base_resolution=1024,
            licence=_RELEASED_LICENCE,
            sources=(
                _folder("Jinstudio/Lens-Turbo"),
                _folder("YuCollection/Lens-Turbo-Diffusers"),
                _single_files("diffusion_models/lens_turbo_bf16.safetensors"),
            ),
        ),
        Preset(
            name="rl",
            title="Lens",
            description="Tuned by reinforcement learning: the best pictures; the bare name Lens means this one.",
            num_inference_steps=20,
            guidance_scale=5.0,
            base_resolution=1024,
            licence=_RELEASED_LICENCE,
            sources=(
                _folder("Jinstudio/Lens"),
                _folder("YuCollection/Lens-Diffusers"),
                _single_files("diffusion_models/lens_bf16.safetensors"),
            ),
        ),
        Preset(
            name="base",
            title="Lens-Base",
            description="Pre-trained only: the start for fine-tuning and LoRA training.",
            num_inference_steps=50,
            guidance_scale=5.0,
            base_resolution=1024,
            licence=_RELEASED_LICENCE,
            sources=(_folder("Jinstudio/Lens-Base"), _folder("YuCollection/Lens-Base-Diffusers")),
        ),
        Preset(
            name="toy",
            title="toy",
            description="random weights, for tests",
            num_inference_steps=4,
            guidance_scale=5.0,
            base_resolution=128,
            licence="none: its weights are made, not stored",
            sources=(),
            is_made=True,
        ),
    )
}


def is_made(model: str | Path) -> bool:
    """Whether `model` is the name of a preset whose weights are made when it is opened."""
    return str(model) in PRESETS and PRESETS[str(model)].is_made


def preset_for(model: str | Path) -> Preset:
    """The preset with the defaults for `model`: a preset's name, a repository id, a model folder or a weight file.

    A name with "turbo" is turbo, with "lens-base" base, and a folder named "nano" is nano. The names tried are the last
    part of the path, the repository part of a hub cache path, and `_name_or_path` in model_index.json. Any other model
    has the defaults of "rl".
    """
    if str(model) in PRESETS:
        return PRESETS[str(model)]
    for name in _names_of(Path(model)):
        if "turbo" in name:
            return PRESETS["turbo"]
        if re.search(r"lens[-_ ]?base", name):
            return PRESETS["base"]
        if name == "nano":
            return PRESETS["nano"]
    return PRESETS["rl"]


def _names_of(path: Path) -> list[str]:
    names = [path.name, *(part for part in path.parts if part.startswith("models--"))]
    # A missing or invalid file is ignored here; opening the folder reports the error.
    with suppress(OSError, ValueError, AttributeError):
        origin = read_json(path / "model_index.json").get("_name_or_path")
        names.append(Path(str(origin)).name)
    return [name.lower() for name in names]
