"""Writes the tables of docs/plan.md from the planner: `python docs/make_plan_tables.py`."""

import re
from pathlib import Path

from leanlens.plan.choose import Drawing, Machine, Pins, choose, torch_device
from leanlens.plan.devices import DEVICES, Device
from leanlens.plan.memory import ModelSizes
from leanlens.plan.rates import ASSUMPTIONS

TARGET = Path(__file__).parent / "plan.md"
RAM = 64.0  # GB beside every card
DRAWINGS = (
    Drawing(1024, 1024, 4, 1.0),
    Drawing(1024, 1024, 20, 5.0),
    Drawing(1440, 1440, 20, 5.0),
)


def page(text: str) -> str:
    """`text` with both tables made anew."""
    for name, table in (("devices", devices()), ("assumptions", assumptions())):
        made = f"<!-- {name} -->\n{table}\n<!-- end of {name} -->"
        text = re.sub(f"<!-- {name} -->.*<!-- end of {name} -->", lambda _, made=made: made, text, flags=re.DOTALL)
    return text


def devices() -> str:
    """Every device: memory at 1024, and seconds of three drawings on it."""
    rows = ["| device | turbo 1024 | rl 1024 | rl 1440 | needs at 1024, GB |", "|---|---|---|---|---|"]
    return "\n".join(rows + [_row(device) for device in DEVICES])


def assumptions() -> str:
    """Every figure that is assumed."""
    rows = [f"| {one.meaning} | {one.value:g} | {one.source} |" for one in ASSUMPTIONS.values()]
    return "\n".join(["| figure | value | source |", "|---|---|---|", *rows])


def _row(device: Device) -> str:
    machine = Machine(device, device.memory if device.unified else RAM)
    pins = Pins(device=torch_device(device))
    plans = [choose(machine, ModelSizes(), True, drawing, pins) for drawing in DRAWINGS]
    seconds = [plan.seconds_per_picture() for plan in plans]
    shown = [f"{each:.2g} s" if each < 10 else f"{each:.0f} s" for each in seconds]
    cells = [text if plan.fits else "no" for plan, text in zip(plans, shown, strict=True)]
    return f"| {device.name} | {' | '.join(cells)} | {max(plans[0].vram.values()) / 1e9:.1f} |"


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
