"""Writes the folder of a small comparison by hand, for the tests of what is made from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODELS = ("lens", "flux")
CRITERIA = ("object", "count")


def metric(name: str, value: float | None, **more: Any) -> dict[str, Any]:
    """A metric with an interval of five points on either side."""
    around = {} if value is None else {"low": round(value - 0.05, 3), "high": round(value + 0.05, 3)}
    return (
        {"name": name, "unit": "share", "value": value, "low": None, "high": None, "num": 4, "failed": 0}
        | around
        | more
    )


def judged(met: bool | None, count: float | None = 1.0) -> dict[str, Any]:
    """The judgements of one image; None is a failed one."""
    score = {"object": {"failed": "timeout"} if met is None else float(met), "count": count}
    return {"first": {"score": score, "raw": {"seen": ["fox"]}}, "second": {"score": {"object": 1.0}, "raw": "yes"}}


def results(num: int = 4, models: tuple[str, ...] = MODELS, prompts: tuple[str, ...] = ()) -> dict[str, Any]:
    """A comparison in which the first model meets the object in every prompt and the others in every second."""
    items = [
        {
            "id": f"{index:05d}",
            "prompt": prompts[index] if index < len(prompts) else f"fox number {index}",
            "categories": ["one" if index % 2 else "two"],
            "truth": {"objects": [{"concept": "fox"}]},
            "size": None,
            "images": {
                name: [{
                    "seed": 2026 + index,
                    "file": f"images/{name}-{index}.png",
                    "judgements": judged(place == 0 or index % 2 == 0),
                }]
                for place, name in enumerate(models)
            },
        }
        for index in range(num)
    ]  # fmt: skip
    compared = {"first": models[0], "second": models[-1], "metric": "overall", "num": num, "wins": 0, "ties": 2}
    compared |= {"difference": -0.25, "low": -0.4, "high": -0.1, "p": 0.01, "p_holm": 0.02, "losses": 2}
    return {
        "format": 2,
        "leanlens": "1.0",
        "suite": {
            "name": "geneval", "title": "GenEval", "num": num, "images_per_prompt": 1, "seed": 7,
            "source": {"commit": "af4902f"}, "settings": {}, "deviations": ["another detector"],
            "higher_is_better": True,
        },
        "models": {
            name: {
                "role": "model", "identity": {"steps": 20},
                "costs": {"flop": 1e12 * (place + 1), "weight_bytes": 10**9},
            }
            for place, name in enumerate(models)
        },
        "judges": {
            "first": {"criteria": list(CRITERIA), "identity": {"version": "3", "weights_sha256": "ab" * 32}},
            "second": {"criteria": ["object"], "identity": {}},
        },
        "metrics": {
            name: [metric("overall", 0.9 - 0.25 * place), metric("count", 0.5)] for place, name in enumerate(models)
        },
        "categories": {
            name: {"one": {"value": 0.5, "low": 0.4, "high": 0.6, "num": 2, "failed": 0}} for name in models
        },
        "rates": {},
        "comparisons": [compared],
        "failures": {name: {"failed": 0, "num": num * 3, "reasons": {}, "incomplete": False} for name in models},
        "items": items,
    }  # fmt: skip


def fail(found: dict[str, Any], name: str, failed: int, reason: str = "timeout") -> dict[str, Any]:
    """The same results with that many failed judgements of a model, marked as the writer marks them."""
    num = found["failures"][name]["num"]
    found["failures"][name] |= {"failed": failed, "reasons": {reason: failed}, "incomplete": failed > 0.05 * num}
    return found


def write(folder: Path, found: dict[str, Any], side: int = 32, noise: bool = False, costs: bool = True) -> Path:
    """Write results, costs and images of one colour each, or of noise, which no codec makes small."""
    (folder / "images").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    if costs:
        seconds = {"median": 1.5, "mean": 1.6, "num": 4}
        measured = {"seconds": seconds, "peak_bytes": 2 * 10**9, "device": "cpu", "machine": "test"}
        (folder / "costs.json").write_text(json.dumps(dict.fromkeys(found["models"], measured)), encoding="utf-8")
    random = np.random.default_rng(0)
    for item in found["items"]:
        for images in item["images"].values():
            for image in images:
                if image["file"]:
                    shape = (side, side, 3)
                    pixels = random.integers(0, 256, shape if noise else 3, dtype=np.uint8)
                    Image.fromarray(np.broadcast_to(pixels, shape).copy()).save(folder / image["file"])
    return folder
