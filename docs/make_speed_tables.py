"""Writes the tables of docs/speed.md from benchmarks/results: `python docs/make_speed_tables.py`.

A table is between `<!-- NAME -->` and `<!-- end -->`. Without a result file, a sentence replaces it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = Path(__file__).with_name("speed.md")
RESULTS = ROOT / "benchmarks" / "results"


# Names of stages in the results -> their names in the tables.
_STAGES = {
    "loop": "denoise",
    "picture": "image",
    "open": "load",
    "draw": "generate",
    "words and file": "options and file",
}


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def origin(found: dict[str, Any]) -> str:
    """The command, the machine and its load, the commit."""
    machine = found["machine"]
    name = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    load = f", load {machine['load_before']} at the start" if not machine.get("gpu") else ""
    return f"\n\n`{found['command']}` on {name}{load}; commit {machine['commit']}."


def blocks_table(found: dict[str, Any]) -> str:
    rows = []
    for title, case in found["cases"].items():
        kind, way = title.split()
        eager = found["cases"][f"{kind} eager"]["ms_per_block"]
        share, faster = f"{case['share_of_floor']:.0%}", f"{eager / case['ms_per_block']:.2f}"
        rows.append([kind, way, f"{case['ms_per_block']:.0f}", share, faster, case["relative_error_to_eager"]])
    floors = ", ".join(f"{name} {value:.0f}" for name, value in found["floor_ms_per_block"].items())
    head = ["dtype", "form", "ms per block", "share of the floor", "speedup over eager", "relative error to eager"]
    return table(head, rows) + f"\n\nFloors, ms per block: {floors}." + origin(found)


def latency_table(found: dict[str, Any]) -> str:
    rows = [
        [_STAGES.get(stage, stage), f"{time['best_s']:.3f}", f"{time['median_s']:.3f}"]
        for stage, time in found["stages"].items()
    ]
    return table(["stage", "best, s", "median, s"], rows) + origin(found)


def startup_table(found: dict[str, Any]) -> str:
    rows = [[_STAGES.get(stage, stage), f"{seconds:.2f}"] for stage, seconds in found["best"].items()]
    return table(["stage", "s"], [*rows, ["`leanlens --help`", f"{found['help_s']:.2f}"]]) + origin(found)


def busy_table(found: dict[str, Any]) -> str:
    ways = {"by itself": "torch's default", "by load": "leanlens"}
    rows = [
        [case["loops"], ways[case["threads"]], *(f"{case['drawing'][name]:.1f}" for name in ("first", "next", "worst")),
         f"{case['training']['step']:.2f}"]
        for case in found["cases"]
    ]  # fmt: skip
    head = ["competing busy loops", "threads", "first image, s", "next, s", "slowest, s", "training step, s"]
    return table(head, rows) + origin(found)


def prices_table(found: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", mode["times_as_fast"], mode["psnr_db"], mode["worst_psnr_db"]]
        for name, mode in found["modes"].items()
        if name != "plain"
    ]
    return table(["mode", "speedup", "PSNR, dB", "worst image, dB"], rows) + origin(found)


def gpu_table(found: dict[str, Any]) -> str:
    sections = ("ceilings", "loop", "decoding", "encoding", "training", "tuning", "fp8")
    rows = [[section, title, _said(value)] for section in sections for title, value in found.get(section, {}).items()]
    return table(["section", "case", "result"], rows) + origin(found)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items() if inner is not None)
    return str(value)


# Name of a table -> its result file and the function that formats it.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "blocks": ("transformer_cpu.json", blocks_table),
    "latency": ("latency_nano.json", latency_table),
    "startup": ("startup_nano.json", startup_table),
    "busy": ("busy_nano.json", busy_table),
    "prices": ("prices_nano.json", prices_table),
    "gpu": ("gpu_full.json", gpu_table),
}


def page() -> str:
    """The page with its tables regenerated."""

    def fill(match: re.Match[str]) -> str:
        file, make = TABLES[match[1]]
        path = RESULTS / file
        made = make(json.loads(path.read_text())) if path.exists() else "Not measured yet."
        return f"<!-- {match[1]} -->\n\n{made}\n\n<!-- end -->"

    text = TARGET.read_text(encoding="utf-8")
    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
