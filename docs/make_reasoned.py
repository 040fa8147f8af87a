"""Draw docs/images/reasoned.webp, prompts as typed above the same prompts rewritten, and docs/images/languages.webp.

    python docs/make_reasoned.py

The prompts above are every tenth of leanlens/evaluate/prompts/people.jsonl, with their number as the seed; those in
other languages are in PROMPTS, with seed 0. Nothing is chosen or drawn again.
"""

import json
from pathlib import Path

from PIL import Image

from leanlens.files import whole_file
from leanlens.pipeline.draw import draw
from leanlens.pipeline.placement import OpenedModel, open_model
from leanlens.pipeline.request import ImageRequest
from leanlens.presets import PRESETS
from leanlens.reason import Reasoner, reason_request, reasoner_of_model

DOCS = Path(__file__).parent
PEOPLE = DOCS.parent / "leanlens" / "evaluate" / "prompts" / "people.jsonl"
CELL, GAP, COLUMNS = 160, 6, 6
PROMPTS = {}


def main() -> None:
    opened, reasoner = open_model("nano"), reasoner_of_model("nano")
    lines = PEOPLE.read_text(encoding="utf-8").splitlines()
    asked = [(json.loads(lines[number])["prompt"], number) for number in range(0, len(lines), 10)]
    rows = [[_draw(opened, way, *one) for one in asked] for way in (None, reasoner)]
    _save(rows, "reasoned.webp")
    images = [_draw(opened, reasoner, prompt, 0) for prompt in PROMPTS.values()]
    _save([images[at : at + COLUMNS] for at in range(0, len(images), COLUMNS)], "languages.webp")


def _draw(opened: OpenedModel, reasoner: Reasoner | None, prompt: str, seed: int) -> Image.Image:
    preset = PRESETS["nano"]
    request = ImageRequest.checked(
        prompt=prompt,
        width=preset.base_resolution,
        height=preset.base_resolution,
        num_inference_steps=preset.num_inference_steps,
        guidance_scale=preset.guidance_scale,
        seed=seed,
    )
    return draw(opened, reason_request(reasoner, request)).image


def _save(rows: list[list[Image.Image]], name: str) -> None:
    step = CELL + GAP
    sheet = Image.new("RGB", (step * max(map(len, rows)) - GAP, step * len(rows) - GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image.resize((CELL, CELL), Image.Resampling.LANCZOS), (x * step, y * step))
    with whole_file(DOCS / "images" / name) as path:
        sheet.save(path, format="WEBP", quality=88)


if __name__ == "__main__":
    main()
