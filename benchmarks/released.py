"""Generates a fixed sheet of prompts with the released weights on a user's machine, with times and peak memory.

It writes `released_NAME.json` and `released_NAME.webp`, a contact sheet below 1 MB, to be sent in, and prints the JSON.
Prompt i has seed i; size, steps and guidance are the model's defaults. Each model is loaded as the planner recommends
for this machine, and its predictions are recorded next to the measurements. Each model runs in its own process; if one
fails, the error is recorded and the others still run.

    python benchmarks/released.py [--models turbo rl base] [--name rtx-4090] [--out benchmarks/results]
    python benchmarks/released.py --models turbo=ComfyUI/models/diffusion_models/lens_turbo_bf16.safetensors
    python benchmarks/released.py --models nano --num 2 --out /tmp/rehearsal       # a rehearsal, without a download
"""

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine
from PIL import Image, ImageDraw

from leanlens.files import whole_file
from leanlens.hub import models_folder
from leanlens.presets import PRESETS, preset_for

RELEASED = ("turbo", "rl", "base")
SHEET = (
    "A red fox in deep snow at dusk, photograph, soft light",
    "Portrait of an old fisherman in a yellow raincoat, rain on his face, 85 mm photograph",
    "A poster with the words OPEN LATE in bold red letters above a bowl of ramen",
    "Two hands holding a small green seedling over dark soil, close-up",
    "Three blue cups and two yellow plates on a wooden table, seen from above",
    "A glass cube on the left of a copper sphere, a feather on top of the cube, studio light",
    "A lighthouse on a cliff in a storm, oil painting with thick brush strokes",
    "A watercolour map of an imaginary island with mountains, a forest and a harbour",
    "A crowded night market in the rain, neon signs, reflections on wet stone",
    "A tabby cat asleep on a stack of books beside a window, morning sun",
    "黄昏时分，湖边的一座木屋，远处是雪山",
    "An isometric cutaway of a tiny library with a spiral staircase, warm light, people reading",
)
COLUMNS, CELL, CAPTION = 6, 256, 18  # of the contact sheet; the last two in pixels
SHEET_BYTES = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME[=PATH]", help="those of turbo, rl, base that were fetched")
    parser.add_argument("--num", type=int, default=len(SHEET), help="prompts of the sheet, from the first")
    parser.add_argument("--size", metavar="WxH", help="another size than the models' own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", help="of the result; the device's without it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        found = measure(*_named(given.one[0]), Path(given.one[1]), given.num, given.size, given.device)
        (Path(given.one[1]) / "found.json").write_text(json.dumps(found), encoding="utf-8")
        return
    if not 1 <= given.num <= len(SHEET):
        parser.error(f"--num {given.num} is not accepted; the sheet has 1 to {len(SHEET)} prompts")
    models = given.models or [name for name in RELEASED if (models_folder() / name).is_dir()]
    if not models:
        parser.error("none of turbo, rl and base is here: leanlens weights fetch turbo, or --models NAME=PATH")
    print(json.dumps(measure_all(models, given), indent=1))


def measure_all(models: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """The whole result, written anew after each model, so that a stop loses one model at most."""
    import torch  # so that the machine is described with it

    machine = describe_machine()
    name = given.name or re.sub(r"[^a-z0-9]+", "-", (machine.get("gpu") or machine["cpu"]).lower()).strip("-")
    words = " ".join(["python", "benchmarks/released.py", *map(_without_folders, sys.argv[1:])])
    result: dict[str, Any] = {"benchmark": "released weights", "command": words, "machine": machine}
    result |= {"cuda": torch.version.cuda, "prompts": list(SHEET[: given.num]), "models": {}}
    with tempfile.TemporaryDirectory() as scratch:
        drawn: dict[str, list[Path]] = {}
        for model in models:
            short, folder = _named(model)[0], Path(scratch) / str(len(drawn))
            folder.mkdir()
            result["models"][short] = _in_a_process(model, folder, given)
            drawn[short] = sorted(folder.glob("*.png"))
            save(result, drawn, given.out, name)
    return result


def _named(text: str) -> tuple[str, str]:
    """`turbo` or `turbo=PATH` -> the name and what is opened."""
    name, _, path = text.partition("=")
    return name, path or name


def _without_folders(word: str) -> str:
    """An argument as others may see it: of a path, the last part."""
    name, equals, path = word.rpartition("=")
    return f"{name}{equals}{Path(path).name}"


def _in_a_process(model: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", model, str(folder), "--num", str(given.num), "--device", given.device]
    words += ["--size", given.size] if given.size else []
    run = subprocess.run(words, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.strip()] or [f"exit code {run.returncode}"]
        return {"failed": lines[-1][:300]}
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def measure(name: str, path: str, folder: Path, num: int, size: str | None, device: str) -> dict[str, Any]:
    """Draw the first `num` prompts with one model into `folder`; seconds, peaks, settings, and sums of the pixels."""
    import torch

    from leanlens.cli.auto import settle
    from leanlens.cli.size import width_and_height
    from leanlens.pipeline.draw import draw
    from leanlens.pipeline.open import open_model
    from leanlens.plan.options import LoadOptions

    preset = PRESETS[name] if name in PRESETS else preset_for(path)
    width, height = width_and_height(size)
    options = LoadOptions(device=device)
    settled = settle(path, options, lambda line: print(line, file=sys.stderr), width=width, height=height)
    began = time.perf_counter()
    opened = open_model(settled.model, options=settled.options)
    opening = time.perf_counter() - began
    side = min(preset.base_resolution, int(opened.pipeline.vae.config.sample_size))
    requests = [_request(preset, index, size or f"{side}x{side}") for index in range(num)]
    began = time.perf_counter()
    opened.prepare(requests)
    preparing, seconds, sums = time.perf_counter() - began, [], []
    for index, request in enumerate(requests):
        began = time.perf_counter()
        image = draw(opened, request).image
        seconds.append(round(time.perf_counter() - began, 3))
        sums.append(hashlib.sha256(image.tobytes()).hexdigest()[:16])
        image.save(folder / f"{index:02d}.png")
        print(f"{name} {index + 1} of {num}: {seconds[-1]:.1f} s", file=sys.stderr)
    on_card = torch.cuda.max_memory_allocated() / 1e9 if opened.device.type == "cuda" else None
    first = requests[0]
    return {
        "size": [first.width, first.height],
        "steps": first.num_inference_steps,
        "guidance": first.guidance_scale,
        "fingerprint": opened.fingerprint,
        "conditions": opened.conditions(),
        "open_s": round(opening, 2),
        "encode_ahead_s": round(preparing, 2),
        "seconds": seconds,
        "first_s": seconds[0],
        "median_s": round(statistics.median(seconds), 3),
        "peak_device_gb": None if on_card is None else round(on_card, 2),
        "peak_main_gb": _peak_of_process(),
        "planned": _planned(path, first.width, first.height, opened),
        "pixels": sums,
    }


def _request(preset: Any, index: int, size: str) -> Any:
    from leanlens.pipeline.request import ImageRequest

    width, height = (int(side) for side in size.split("x"))
    return ImageRequest.checked(
        prompt=SHEET[index],
        width=width,
        height=height,
        num_inference_steps=preset.num_inference_steps,
        guidance_scale=preset.guidance_scale,
        seed=index + 1,
    )


def _planned(path: str, width: int, height: int, opened: Any) -> dict[str, Any] | None:
    """What the planner says of the same drawing, held in the same way; None where it does not know the model."""
    from leanlens.cli.plan_answer import image_answer
    from leanlens.pipeline.auto import plan_image, resolved

    options = resolved(opened.options)
    try:
        plan = image_answer(plan_image(path, width=width, height=height, options=options))
    except ValueError:
        return None
    return {key: plan[key] for key in ("machine", "seconds_per_image", "peak_vram_gb", "peak_ram_gb")}


def _peak_of_process() -> float | None:
    """The most main memory that this process held, in 10^9 bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        try:
            import psutil
        except ImportError:
            return None
        return round(psutil.Process().memory_info().peak_wset / 1e9, 2)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def save(result: dict[str, Any], drawn: dict[str, list[Path]], folder: Path, name: str) -> None:
    """Write the result and the contact sheet, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / f"released_{name}.json") as path:
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if any(drawn.values()):
        with whole_file(folder / f"released_{name}.webp") as path:
            _save_small(contact_sheet(drawn), path)


def contact_sheet(drawn: dict[str, list[Path]]) -> Image.Image:
    """A band for each model: its name, and its pictures in rows of six, each fitted into a square cell."""
    rows = {name: -(-len(paths) // COLUMNS) for name, paths in drawn.items() if paths}
    width = COLUMNS * CELL if any(count > 1 for count in rows.values()) else CELL * max(map(len, drawn.values()))
    sheet = Image.new("RGB", (width, sum(CAPTION + count * CELL for count in rows.values())), "white")
    top = 0
    for name, count in rows.items():
        ImageDraw.Draw(sheet).text((4, top + 3), name, fill="black")
        for index, path in enumerate(drawn[name]):
            with Image.open(path) as image:
                small = image.convert("RGB")
            small.thumbnail((CELL, CELL))
            row, column = divmod(index, COLUMNS)
            sheet.paste(small, (column * CELL, top + CAPTION + row * CELL))
        top += CAPTION + count * CELL
    return sheet


def _save_small(sheet: Image.Image, path: Path) -> None:
    for quality in (85, 75, 60, 45, 30, 15):
        sheet.save(path, format="WebP", quality=quality, method=6)
        if path.stat().st_size < SHEET_BYTES:
            return
    raise ValueError(f"the contact sheet does not fit into {SHEET_BYTES} bytes; give fewer --models")


if __name__ == "__main__":
    main()
