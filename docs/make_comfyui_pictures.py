"""Draw what docs/comfyui.md puts side by side: Lens's noise levels and guidance, and those of ComfyUI's own template.

    python docs/make_comfyui_pictures.py [MODEL]

The template's two formulas are put into our own pipeline, one at a time and together, around MODEL (nano without it):
mu 1.15, which it has at 1024 x 1024, and `CFGNorm` with `pre_cfg` off. Row i has the seed i; nothing is chosen. The
pictures are written, and the table between the marks in docs/comfyui.md.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leanlens.files import whole_file
from leanlens.pipeline.open import open_model
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.presets import PRESETS

DOCS = Path(__file__).parent
FOLDER = DOCS / "images" / "comfyui"
PAGE = DOCS / "comfyui.md"
MARKS = ("<!-- pictures -->\n", "<!-- end of pictures -->\n")
TEMPLATE_MU = 1.15
PROMPTS = (
    "a red apple, flat style, pale yellow background",
    "a snowman, flat style, navy blue background",
    "a penguin to the left of a pink cupcake, flat style, light blue background",
    "a rocket in flat style against a navy blue background",
)
COLUMNS = (
    ("lens", "Lens (our workflows)", False, False),
    ("levels", "the template's noise levels", True, False),
    ("guidance", "the template's guidance", False, True),
    ("template", "the template (both)", True, True),
)  # file, title, its levels, its guidance


def main() -> None:
    opened = open_model(sys.argv[1] if len(sys.argv) > 1 else "nano")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, _, levels, guidance in COLUMNS:
        for seed, prompt in enumerate(PROMPTS):
            with template_levels(opened, levels), template_guidance(opened, guidance):
                image = draw(opened, prompt, seed)
            with whole_file(FOLDER / f"{seed}-{name}.png") as path:
                image.save(path, format="PNG", optimize=True)
    write_table()


def draw(opened: OpenedModel, prompt: str, seed: int) -> Image.Image:
    """One picture with the preset's steps and guidance."""
    preset = PRESETS["nano"]
    return opened.pipeline(
        prompt,
        num_inference_steps=preset.num_inference_steps,
        guidance_scale=preset.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
    ).images[0]


@contextmanager
def template_levels(opened: OpenedModel, wanted: bool) -> Iterator[None]:
    """`ModelSamplingFlux` as the template sets it, at 1024 x 1024."""
    scheduler = opened.pipeline.scheduler
    rule, shift = scheduler.config.get("shift_rule", "empirical"), scheduler.config.shift
    if wanted:
        scheduler.register_to_config(shift_rule="constant", shift=math.exp(TEMPLATE_MU))
    try:
        yield
    finally:
        scheduler.register_to_config(shift_rule=rule, shift=shift)


@contextmanager
def template_guidance(opened: OpenedModel, wanted: bool) -> Iterator[None]:
    """`CFGNorm` without `pre_cfg`: on the predicted picture, whose tokens may only get shorter."""
    if not wanted:
        yield
        return
    seen: dict[str, Tensor] = {}

    def note(module: torch.nn.Module, inputs: tuple) -> None:
        seen["x"], seen["sigma"] = inputs[0], inputs[3].reshape(-1, 1, 1)

    def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        x, sigma = seen["x"], seen["sigma"]
        expected = x - sigma * conditional
        combined = x - sigma * (unconditional + scale * (conditional - unconditional))
        lengths = [torch.linalg.vector_norm(one, dim=-1, keepdim=True) for one in (expected, combined)]
        return (x - combined * (lengths[0] / (lengths[1] + 1e-8)).clamp(0, 1)) / sigma

    hook = opened.pipeline.transformer.register_forward_pre_hook(note)
    try:
        with patch("leanlens.pipeline.denoise.guided_velocity", guided):
            yield
    finally:
        hook.remove()


def write_table() -> None:
    """Between the marks of the page: a row for each prompt, a column for each way."""
    lines = ["| " + " | ".join(title for _, title, _, _ in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for seed, prompt in enumerate(PROMPTS):
        cells = [f'<img src="images/comfyui/{seed}-{name}.png" width="160" alt="{prompt}">' for name, *_ in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    shares = [f"{difference(name):.1f}" for name, *_ in COLUMNS[1:]]
    lines.append("| | " + " | ".join(f"mean difference {share} of 255" for share in shares) + " |")
    head, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    with whole_file(PAGE) as path:
        path.write_text(head + MARKS[0] + "\n" + "\n".join(lines) + "\n\n" + MARKS[1] + tail, encoding="utf-8")


def difference(name: str) -> float:
    """Mean absolute difference of a column's pictures from the first column's, in levels of 255."""
    pairs = [
        [np.asarray(Image.open(FOLDER / f"{seed}-{one}.png").convert("RGB"), dtype=float) for one in ("lens", name)]
        for seed in range(len(PROMPTS))
    ]
    return float(np.mean([np.abs(one - other).mean() for one, other in pairs]))


if __name__ == "__main__":
    main()
