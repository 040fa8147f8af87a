"""Reduces an evaluation to the numbers that pages quote, without its prompts and images; prints one JSON object.

    leanlens evaluate scenes --model nano --num 600 --seed 2026 --sources common --scorer scene --scorer crosscheck \
        --real --out OUT
    python benchmarks/evaluated.py OUT > benchmarks/results/NAME.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from machine import describe_machine

from leanlens.evaluate.results_file import read_costs, read_results

KEPT = ("models", "judges", "metrics", "categories", "rates", "comparisons", "failures", "set_scores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the --out of leanlens evaluate")
    parser.add_argument("--command", default="", help="the command of the evaluation, for the record")
    given = parser.parse_args()
    machine = describe_machine()
    print(json.dumps({"command": given.command, "machine": machine, **reduced(given.folder)}, indent=1))


def reduced(folder: Path) -> dict[str, Any]:
    """Suite, models, judges, numbers and costs of an evaluation."""
    results = read_results(folder)
    suite = {name: value for name, value in results["suite"].items() if name != "command"}
    return {"suite": suite, **{name: results[name] for name in KEPT if name in results}, "costs": read_costs(folder)}


if __name__ == "__main__":
    main()
