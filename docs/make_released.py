"""Writes docs/released.md from benchmarks/results/released_*.json: `python docs/make_released.py`.

A contact sheet of the same name beside a result is copied into docs/images and shown under its table.
"""

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = Path(__file__).with_name("released.md")
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = TARGET.parent / "images"
HEAD = """\
# Results of the released weights

Images, times and memory of `turbo`, `rl` and `base` for a fixed list of {prompts} prompts, on the machines of people
who sent their results. Each measurement is shown next to the estimate of [the planner](plan.md).

"""
NONE = """\
**There are no results yet.** The weights were not available to us, so this documentation shows none of
their images and no GPU timings. If you have the weights, these commands fill the page:

"""
MORE = "To add yours:\n\n"
HOW = """\
```sh
leanlens weights fetch turbo                              # 31 GB, if you do not have them yet
python benchmarks/released.py                             # measures whichever of turbo, rl and base you have
python benchmarks/released.py --models nano --num 2 --out rehearsal     # or first, a trial without them
```

The script runs in a clone. Prompt i has seed i. Size, steps and guidance are the model's defaults. Each model runs in
its own process, with the offloading that `leanlens generate` would choose on that machine. The script writes
`released_NAME.json` and a contact sheet `released_NAME.webp` of less than 1 MB into `benchmarks/results`, named after
the GPU: please send us both. They contain the CPU and GPU names, versions, times, memory peaks and pixel checksums,
and none of your paths. `python docs/make_released.py` generates this page.

## The prompts

{prompts}
"""


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    from_files = [json.loads(path.read_text(encoding="utf-8")) for path in files(results)]
    sections = [section(found, path.stem) for found, path in zip(from_files, files(results), strict=True)]
    prompts = sheet()
    numbered = "\n".join(f"{index}. {prompt}" for index, prompt in enumerate(prompts, 1))
    middle = "\n".join([*sections, "## Yours\n", MORE]) if sections else NONE
    return HEAD.format(prompts=len(prompts)) + middle + HOW.format(prompts=numbered)


def files(results: Path) -> list[Path]:
    return sorted(results.glob("released_*.json"))


def sheet() -> list[str]:
    """The prompts of benchmarks/released.py, read without importing it."""
    import ast

    for node in ast.parse((ROOT / "benchmarks" / "released.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SHEET":
            return list(ast.literal_eval(node.value))
    raise ValueError("benchmarks/released.py has no SHEET")


def section(found: dict[str, Any], stem: str) -> str:
    """One machine: its table, what it ran with, and its contact sheet."""
    machine = found["machine"]
    title = machine.get("gpu") or machine["cpu"]
    lines = [
        f"## {title}\n",
        "| model | size | steps | s, median | planned | s, first | device, GB | planned | main, GB | planned |",
        "|" + "---|" * 10,
    ]
    lines += [_row(name, model) for name, model in found["models"].items()]
    run = next((model["conditions"] for model in found["models"].values() if "conditions" in model), {})
    lines.append(
        f"\n`{found['command']}`, commit {machine['commit']}, torch {run.get('torch', 'unknown')}, {machine['cpu']}, "
        f"{len(found['prompts'])} prompts.\n"
    )
    if (IMAGES / f"{stem}.webp").is_file() or (RESULTS / f"{stem}.webp").is_file():
        lines.append(
            f'<img src="images/{stem}.webp" width="720" alt="The pictures of {title}, a band for each model">\n'
        )
    return "\n".join(lines)


def _row(name: str, model: dict[str, Any]) -> str:
    if "failed" in model:
        return f"| `{name}` | failed: {model['failed'].replace('|', ' ')} |" + " |" * 8
    planned = model["planned"] or {}
    cells = [
        f"{model['size'][0]} × {model['size'][1]}", model["steps"], f"{model['median_s']:.3g}",
        planned.get("seconds_per_image"), f"{model['first_s']:.3g}",
        model["peak_device_gb"], planned.get("peak_vram_gb"), model["peak_main_gb"], planned.get("peak_ram_gb"),
    ]  # fmt: skip
    return f"| `{name}` | " + " | ".join("–" if cell is None else str(cell) for cell in cells) + " |"


def main() -> None:
    for path in files(RESULTS):
        if (picture := path.with_suffix(".webp")).is_file():
            shutil.copyfile(picture, IMAGES / picture.name)
    TARGET.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
