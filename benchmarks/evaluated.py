"""Reduces an evaluation to the numbers that pages quote, without its prompts and images; prints one JSON object.

    leanlens evaluate scenes --model nano --num 600 --seed 2026 --sources common --scorer scene --scorer crosscheck \
        --real --out OUT
    python benchmarks/evaluated.py OUT > benchmarks/results/NAME.json
    python benchmarks/evaluated.py --table benchmarks/results/NAME.json

With --table, the criteria of a saved result are printed as a table, every judge beside the others.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from machine import describe_machine

from leanlens.evaluate.results_file import read_costs, read_results

POOLED = ("criteria met", "all met")
KEPT = ("models", "judges", "metrics", "categories", "rates", "comparisons", "failures", "set_scores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="the --out of leanlens evaluate")
    parser.add_argument("--table", type=Path, help="print the table of a saved result")
    parser.add_argument("--command", default="", help="the command of the evaluation, for the record")
    given = parser.parse_args()
    if given.table is not None:
        print(table_of(json.loads(given.table.read_text(encoding="utf-8"))), end="")
        return
    if given.folder is None:
        parser.error("give the folder of an evaluation, or --table")
    machine = describe_machine()
    print(json.dumps({"command": given.command, "machine": machine, **reduced(given.folder)}, indent=1))


def table_of(result: dict[str, Any]) -> str:
    """The criteria of a saved result with their numbers of prompts, a column for each row of results and judge; then
    the pooled metrics. Controls stand without intervals."""
    columns = [(row, judge) for row in result["models"] for judge in result["rates"]]
    names = [name for rates in result["rates"].values() for row in rates.values() for name in row]
    lines = [["criterion", *(f"{row}, by {judge}" for row, judge in columns)], ["---"] * (1 + len(columns))]
    for name in dict.fromkeys(names):
        found = [result["rates"][judge][row].get(name) for row, judge in columns]
        lines.append(_line(result, name.replace("_", " "), "rate", found, columns))
    for name in POOLED:
        found = [_metric(result, row, judge, name) for row, judge in columns]
        lines.append(_line(result, name, "value", found, columns))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines if any(line[1:]))


def _line(
    result: dict[str, Any], name: str, key: str, found: list[dict[str, Any] | None], columns: list[tuple[str, str]]
) -> list[str]:
    """A line of the table."""
    num = max((one["num"] for one in found if one is not None), default=0)
    cells = []
    for one, (row, _) in zip(found, columns, strict=True):
        is_control = result["models"][row]["role"] == "control"
        cells.append("" if one is None else f"{one[key]:.2f}" if is_control else _share(one[key], one))
    return [f"{name}, {num}", *cells]


def _metric(result: dict[str, Any], row: str, judge: str, name: str) -> dict[str, Any] | None:
    """A pooled metric; those of judges after the first have the judge in their names."""
    full = name if judge == next(iter(result["rates"])) else f"{name} ({judge})"
    return next((one for one in result["metrics"][row] if one["name"] == full), None)


def _share(value: float, one: dict[str, Any]) -> str:
    return f"{value:.2f} ({one['low']:.2f} to {one['high']:.2f})"


def reduced(folder: Path) -> dict[str, Any]:
    """Suite, models, judges, numbers and costs of an evaluation."""
    results = read_results(folder)
    suite = {name: value for name, value in results["suite"].items() if name != "command"}
    return {"suite": suite, **{name: results[name] for name in KEPT if name in results}, "costs": read_costs(folder)}


if __name__ == "__main__":
    main()
