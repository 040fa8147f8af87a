"""Writes the tables of docs/plan.md and docs/memory.md from the planner: `python docs/make_plan_tables.py`."""

import json
import re
from pathlib import Path

from leanlens.plan.choose import Drawing, Machine, choose, torch_device, weigh
from leanlens.plan.devices import DEVICES, Device, find_device
from leanlens.plan.memory import ModelSizes
from leanlens.plan.options import OFFLOADS, LoadOptions
from leanlens.plan.rates import ASSUMPTIONS

TARGET = Path(__file__).parent / "plan.md"
MEMORY = Path(__file__).parent / "memory.md"
RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "memory_cpu.json"
RAM = 32.0  # GB of RAM in every machine with a GPU
# Names of results in RESULT -> their names in the table.
LABELS = {
    "encoder let go": "encoder offloaded",
    "parts take turns": "components offloaded, encoder from disk",
    "modulation waits": "modulation offloaded, encoder from disk",
    "blocks take turns": "blocks offloaded, encoder from disk",
}
DRAWINGS = (
    Drawing(1024, 1024, 4, 1.0),
    Drawing(1024, 1024, 20, 5.0),
    Drawing(1440, 1440, 20, 5.0),
)


def page(text: str) -> str:
    """`text` with its tables regenerated."""
    tables = (
        ("devices", devices()),
        ("assumptions", assumptions()),
        ("settings", settings()),
        ("measured", measured()),
    )
    for name, table in tables:
        made = f"<!-- {name} -->\n{table}\n<!-- end of {name} -->"
        text = re.sub(f"<!-- {name} -->.*<!-- end of {name} -->", lambda _, made=made: made, text, flags=re.DOTALL)
    return text


def devices() -> str:
    """For every device: seconds of three images, and the load options and memory of the second."""
    rows = [
        "| device | turbo 1024 | rl 1024 | rl 1440 | options, rl 1024 | GB, GPU and RAM |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(rows + [_row(device) for device in DEVICES])


def assumptions() -> str:
    """All assumed figures."""
    rows = [f"| {one.meaning} | {one.value:g} | {one.source} |" for one in ASSUMPTIONS.values()]
    return "\n".join(["| figure | value | source |", "|---|---|---|", *rows])


def settings() -> str:
    """Peak memory of the released model with each setting, on a GPU that fits all of them."""
    card, rows = find_device("H200"), ["| offload | encoder on device | on disk | on cpu |", "|---|---|---|---|"]
    for offload in OFFLOADS:
        cells = []
        for encoder_on in ("device", "disk", "cpu"):
            options = LoadOptions("none", offload, encoder_on, False, "cuda", "bfloat16", False)
            choice = weigh(Machine(card, 64), card, ModelSizes(), DRAWINGS[1], options, encoder_on == "device")
            cells.append(f"{max(choice.vram.values()) / 1e9:.1f}, {max(choice.ram.values()) / 1e9:.1f}")
        rows.append(f"| `{offload}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def measured() -> str:
    """Results of benchmarks/memory.py: for each model and setting the measured and planned peak, seconds and PSNR."""
    if not RESULT.is_file():
        return "No result is kept yet: `python benchmarks/memory.py > benchmarks/results/memory_cpu.json`."
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    made = found["machine"]
    parts = [f"{made['cpu']}, {made['threads']} threads, commit {made['commit']}."]
    for model in ("nano", "wide"):
        result = found[model]
        parts.append(f"\n{model}, {result['side']} pixels, {result['steps']} steps, guidance {result['guidance']:g}:\n")
        parts += [
            "| setting | peak | planned | seconds: open, encode, denoise, decode | PSNR, dB |",
            "|---|---|---|---|---|",
        ]
        for setting, row in result["rungs"].items():
            peak, planned = (1000 * max(row[key].values()) for key in ("peak_gb", "planned_gb"))
            seconds = ", ".join(f"{value:.2g}" for value in row["seconds"].values())
            decibels = "identical" if row["psnr_db"] is None else f"{row['psnr_db']:g}"
            parts.append(f"| {LABELS.get(setting, setting)} | {peak:.0f} | {planned:.0f} | {seconds} | {decibels} |")
    return "\n".join(parts)


def _row(device: Device) -> str:
    machine = Machine(device, device.memory if device.unified else RAM)
    pins = LoadOptions(device=torch_device(device))
    plans = [choose(machine, ModelSizes(), True, drawing, pins) for drawing in DRAWINGS]
    seconds = [plan.seconds_per_picture() for plan in plans]
    shown = [f"{each:.2g} s" if each < 10 else f"{each:.0f} s" for each in seconds]
    cells = [text if plan.fits else "no" for plan, text in zip(plans, shown, strict=True)]
    needs = f"{max(plans[1].vram.values()) / 1e9:.1f}, {max(plans[1].ram.values()) / 1e9:.1f}"
    return f"| {device.name} | {' | '.join(cells)} | {_options(plans[1].options)} | {needs} |"


def _options(options: LoadOptions) -> str:
    """The options that differ from the defaults."""
    words = [options.quant] if options.quant != "none" else []
    words += [options.offload] if options.offload != "none" else []
    words += [f"encoder {options.encoder_on}"] if options.encoder_on != "device" else []
    return ", ".join(words) or "all resident"


if __name__ == "__main__":
    for target in (TARGET, MEMORY):
        target.write_text(page(target.read_text(encoding="utf-8")), encoding="utf-8")
