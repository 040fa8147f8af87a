"""A folder of an evaluation as its format is described, written without the package's own writer."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

MODELS = ("alpha", "beta")


def write_folder(folder: Path, prompts: int = 30, models=MODELS, seeds: int = 1, text: bool = False) -> Path:
    """Random images of 8 x 8 pixels with a note in each that tells its model."""
    (folder / "images").mkdir(parents=True)
    lot, items = np.random.default_rng(0), []
    for at in range(prompts):
        images: dict[str, list] = {}
        for model in models:
            for seed in range(seeds):
                name = f"images/{model}-{at}-{seed}.png"
                note = PngInfo()
                note.add_text("parameters", f"drawn by {model}")
                pixels = lot.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / name, pnginfo=note)
                images.setdefault(model, []).append({"seed": seed, "file": name, "judgements": {}})
        quoted = ' that says "OPEN"' if text and at % 2 else ""
        items.append(
            {"id": f"{at:05d}", "prompt": f"a sign{quoted} number {at}", "categories": ["sign"], "truth": {},
             "size": [8, 8], "images": images}
        )  # fmt: skip
    results = {
        "format": 2, "leanlens": "0", "suite": {"name": "scenes", "title": "Scenes", "num": prompts},
        "models": {name: {"role": "model", "identity": {}, "costs": {}} for name in models}, "judges": {},
        "metrics": {}, "items": items,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder
