"""Generates docs/gallery.md: prompts that people wrote, and the embedded model's images, failures included.

    python docs/make_gallery.py [NUM]

Image i has seed i; nothing is selected or generated twice. The prompts are the first NUM (100 without it) of
leanlens/evaluate/prompts/people.jsonl.
"""

import json
import sys
import tomllib
from pathlib import Path

from leanlens.files import whole_file
from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.presets import PRESETS
from leanlens.reason import reason_request, reasoner_of_model
from leanlens.resolution import sizes_at
from leanlens.scenes.icons import PARTS

DOCS = Path(__file__).parent
PROMPTS = DOCS.parent / "leanlens" / "evaluate" / "prompts" / "people.jsonl"
FOLDER = DOCS / "images" / "gallery"
COLUMNS = 4
SHAPES = ("1:1", "1:1", "1:1", "4:3", "1:1", "3:4", "1:1", "16:9")  # of the pictures, in turn
HEAD = """\
# Gallery

Images from the embedded model for prompts that people wrote in their own words, each [rewritten](reason.md) by the
default reasoner, with {steps} steps and guidance {guidance:g}. Image i has seed i. Nothing was selected or generated
twice, and failures are included. [The model knows](nano.md) {concepts} things in five drawing styles; prompts that name
others show how it handles them.

```sh
python docs/make_gallery.py                        # regenerates this page
leanlens generate "{prompt}" --seed 0     # the first image
```

"""


def main() -> None:
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()[:num]
    prompts = [json.loads(line)["prompt"] for line in lines]
    preset, opened, reasoner = PRESETS["nano"], open_model("nano"), reasoner_of_model("nano")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.jpg"):
        old.unlink()
    for seed, prompt in enumerate(prompts):
        height, width = sizes_at(preset.base_resolution)[SHAPES[seed % len(SHAPES)]]
        request = ImageRequest.checked(
            prompt=prompt,
            width=width,
            height=height,
            num_inference_steps=preset.num_inference_steps,
            guidance_scale=preset.guidance_scale,
            seed=seed,
        )
        with whole_file(FOLDER / f"{seed:02d}.jpg") as path:
            draw(opened, reason_request(reasoner, request)).image.save(path, format="JPEG", quality=88)
    write_page(prompts)


def write_page(prompts: list[str]) -> None:
    """Writes the table of images, each above its prompt and seed."""
    preset = PRESETS["nano"]
    concepts = len(tomllib.loads(PARTS["common"].read_text(encoding="utf-8"))["concepts"])
    text = HEAD.format(
        steps=preset.num_inference_steps, guidance=preset.guidance_scale, concepts=concepts, prompt=prompts[0]
    )
    text += "|" + " |" * COLUMNS + "\n|" + "---|" * COLUMNS + "\n"
    for first in range(0, len(prompts), COLUMNS):
        cells = [
            f'<img src="images/gallery/{seed:02d}.jpg" width="192" alt=""><br>{prompts[seed]}<br>*seed {seed}*'
            for seed in range(first, min(first + COLUMNS, len(prompts)))
        ]
        text += "| " + " | ".join(cells) + " |\n"
    with whole_file(DOCS / "gallery.md") as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
