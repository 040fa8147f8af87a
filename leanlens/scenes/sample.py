"""Writes sample.json, the embedded sample of the full icon sets: `python -m leanlens.scenes.sample FOLDER`.

FOLDER contains the package tarballs; missing ones are fetched with `npm pack`.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from leanlens.scenes import sources
from leanlens.scenes.names import Concept

BUDGET = 430_000  # total characters of all drawings
MIN_STYLES = 3  # of the sample's styles that must have a concept


def cut_sample(folder: Path) -> None:
    """Write sample.json: some concepts of every category, those with the smallest drawings."""
    concepts, drawings = sources.read_packages(sources.fetch_packages(folder))
    kept = [one for one in drawings if one.style.name in sources.SAMPLE_STYLES]
    chosen = _choose(concepts, kept)
    table = {
        "concepts": [asdict(concept) for concept in concepts if concept.name in chosen],
        "styles": [
            {
                "style": one.style.name,
                "licence": one.style.licence,
                "author": one.style.author,
                "origin": one.origin,
                "found": {name: one.found[name] for name in sorted(chosen & set(one.found))},
            }
            for one in kept
        ],
    }
    sources.SAMPLE.write_text(json.dumps(table, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    attribution = sources.describe_attribution(
        [sources.Drawings(one.style, one.origin, dict.fromkeys(chosen & set(one.found), "")) for one in kept]
    )
    (sources.SAMPLE.parent / "ATTRIBUTION.md").write_text(attribution, encoding="utf-8")


def _choose(concepts: list[Concept], drawings: list[sources.Drawings]) -> set[str]:
    """Names of the concepts to include: from each category in turn, the one with the fewest characters."""
    waiting: dict[str, list[tuple[int, str]]] = {}
    for concept in concepts:
        lengths = [len(one.found[concept.name]) for one in drawings if concept.name in one.found]
        if len(lengths) >= MIN_STYLES:
            waiting.setdefault(concept.category, []).append((sum(lengths), concept.name))
    chosen: set[str] = set()
    spent = 0
    queues = [sorted(queue, reverse=True) for queue in waiting.values()]
    while any(queues):
        for queue in filter(None, queues):
            length, name = queue.pop()
            if spent + length <= BUDGET:
                chosen.add(name)
                spent += length
    return chosen


if __name__ == "__main__":
    cut_sample(Path(sys.argv[1]))
