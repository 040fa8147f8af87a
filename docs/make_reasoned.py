"""Draw docs/images/reasoned.webp, prompts as typed above the same prompts rewritten, and docs/images/languages.webp.

    python docs/make_reasoned.py

The prompts above are every tenth of leanlens/evaluate/prompts/people.jsonl, those in other languages are PROMPTS; the
seed of each is its number. The README's pictures are drawn too, with seed 1. Nothing is chosen or drawn again.
"""

import json
from pathlib import Path

from PIL import Image

from leanlens.files import whole_file
from leanlens.pipeline.draw import draw
from leanlens.pipeline.open import open_model
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.presets import PRESETS
from leanlens.reason import Reasoner, reason_request, reasoner_of_model

DOCS = Path(__file__).parent
PEOPLE = DOCS.parent / "leanlens" / "evaluate" / "prompts" / "people.jsonl"
CELL, GAP, COLUMNS = 160, 6, 6
PROMPTS = (
    "drei gelbe Enten, hellblauer Hintergrund",
    "un chat noir à gauche d'une chaise rouge",
    "una manzana roja y dos limones",
    "una tartaruga sopra un tavolo marrone",
    "红色的苹果在蓝色茶壶的左边",
    "赤い車と木",
    "красный воздушный шар",
    "قطة سوداء",
    "लाल सेब",
    "dois gatos brancos",
    "노란 별",
    "🐧🍕",
)
README = {
    "demo.png": "a penguin to the left of a pink cupcake",
    "demo-2.png": "a burger and fries, pale yellow background",
    "demo-3.png": "a rocket at night",
    "demo-4.png": "three owls in a row",
}


def main() -> None:
    opened, reasoner = open_model("nano"), reasoner_of_model("nano")
    lines = PEOPLE.read_text(encoding="utf-8").splitlines()
    asked = [(json.loads(lines[number])["prompt"], number) for number in range(0, len(lines), 10)]
    rows = [[_draw(opened, way, *one) for one in asked] for way in (None, reasoner)]
    _save(rows, "reasoned.webp")
    images = [_draw(opened, reasoner, prompt, number) for number, prompt in enumerate(PROMPTS)]
    _save([images[at : at + COLUMNS] for at in range(0, len(images), COLUMNS)], "languages.webp")
    for name, prompt in README.items():
        with whole_file(DOCS / "images" / name) as path:
            _draw(opened, reasoner, prompt, 1).save(path, format="PNG")


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
