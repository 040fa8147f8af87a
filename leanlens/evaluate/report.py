"""Writes `report.html` for a comparison: one file with its images, which loads nothing from elsewhere."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leanlens.evaluate.published import Published, published_numbers
from leanlens.evaluate.rates import MOST_FAILED
from leanlens.evaluate.report_images import Encoded, encode_images
from leanlens.evaluate.results_file import (
    describe_failed,
    describe_judge,
    describe_rewriting,
    headline,
    image_files,
    is_incomplete,
    read_costs,
    read_results,
)
from leanlens.files import whole_file

MOST_BYTES = 25_000_000  # of the file; text comes first, and images share the rest
LEAST_FOR_IMAGES = 2_000_000  # even where the text leaves less
RAW_CHARACTERS = 6_000_000  # of all raw judgements; in a longer one the rest is left out, and the report says so
RAW_LIMITS = 300, 20_000  # characters of one
SCRIPTS = (
    "report_parts.js",
    "report_result.js",
    "report_tables.js",
    "report_chart.js",
    "report_gallery.js",
    "report_dialog.js",
    "report.js",
)
_HERE = Path(__file__).parent


def write_report(folder: Path, most: int = MOST_BYTES) -> None:
    """Write `report.html` into the folder of a comparison, from its `results.json`, `costs.json` and images.

    Args:
        most: bytes of the file. Images are scaled and compressed until they fit.

    Raises:
        ValueError: the folder holds no comparison.
    """
    results = read_results(folder)
    data = _escaped(_data(results, read_costs(folder)))
    files = image_files(results)
    before, after = _page(results["suite"]["title"], data)
    text = len(before.encode("utf-8")) + len(after.encode("utf-8")) + sum(len(file) + 40 for file in files)
    room = max(most - text, LEAST_FOR_IMAGES)
    encoded = encode_images([folder / file for file in files], room * 3 // 4)  # base64 takes 4 bytes for 3
    with whole_file(folder / "report.html") as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(before)
        for index, (name, one) in enumerate(zip(files, encoded, strict=True)):
            file.write(("," if index else "") + _escaped(_picture(name, one)))
        file.write(after)


def _page(title: str, data: str) -> tuple[str, str]:
    """The page before and after its pictures."""
    style, script = _read("report.css"), "\n".join(_read(name) for name in SCRIPTS)
    parts = {
        "title": html.escape(f"{title}, leanlens"),
        "style_sum": _checksum(style),
        "script_sum": _checksum(script),
        "style": style,
        "script": script,
        "data": data,
    }
    before, after = (
        re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], half)
        for half in _read("report.html").split("{{pictures}}")
    )
    return before, after


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _checksum(text: str) -> str:
    """As a content security policy states it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _escaped(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def _picture(file: str, one: Encoded) -> list[Any]:
    return [file, one.width, one.height, base64.b64encode(one.content).decode("ascii")]


def _data(results: Mapping[str, Any], costs: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows. An incomplete model has no scores here, so that none can be shown."""
    suite = results["suite"]
    scored = {name for name in results["models"] if not is_incomplete(results, name)}
    judgements = sum(len(row.get("judgements", {})) for row in _rows(results))
    judgements += sum(len(item.get("pairs", ())) for item in results["items"])
    room = min(max(RAW_CHARACTERS // max(judgements, 1), RAW_LIMITS[0]), RAW_LIMITS[1])
    return {
        "leanlens": results["leanlens"],
        "suite": suite,
        "models": [_model(results, costs, name) for name in results["models"]],
        "judges": [
            {"name": name, "title": describe_judge(name, judge), **judge} for name, judge in results["judges"].items()
        ],
        "rates": results["rates"],
        "comparisons": [one for one in results["comparisons"] if {one["first"], one["second"]} <= scored],
        "pairs": [_pair(one) for one in results.get("pairs", ())],
        "agreements": results.get("agreements", []),
        "set_scores": results.get("set_scores", {}),
        "set_scorers": results.get("set_scorers", {}),
        "items": [_item(item, room) for item in results["items"]],
        "published": _published(suite["name"]),
    }


def _rows(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for item in results["items"] for images in item["images"].values() for row in images]


def _model(results: Mapping[str, Any], costs: Mapping[str, Any], name: str) -> dict[str, Any]:
    one, incomplete = results["models"][name], is_incomplete(results, name)
    return {
        "name": name,
        "role": one.get("role", "model"),
        "identity": one.get("identity", {}),
        "costs": {
            **costs.get(name, {}),
            **{key: value for key, value in one.get("costs", {}).items() if value is not None},
        },
        "incomplete": incomplete,
        "failed": describe_failed(results, name),
        "failures": results["failures"].get(name, {}),
        "rewriting": describe_rewriting(results, name),
        "headline": headline(results, name),
        "metrics": [] if incomplete else results["metrics"].get(name, []),
        "categories": {} if incomplete else results["categories"].get(name, {}),
    }


def _pair(one: Mapping[str, Any]) -> dict[str, Any]:
    """What a judge says of two models' images; without numbers where too much failed."""
    if one["failed"] <= MOST_FAILED * (one["num"] + one["failed"]):
        return {**one, "incomplete": False}
    return {**one, "incomplete": True, "wins_of_second": None, "low": None, "high": None}


def _item(item: Mapping[str, Any], room: int) -> dict[str, Any]:
    pairs = [{**one, "raw": _shortened(one.get("raw"), room)} for one in item.get("pairs", ())]
    return {
        **item,
        **({"pairs": pairs} if pairs else {}),
        "images": {
            name: [
                {
                    **row,
                    "judgements": {
                        judge: {**one, "raw": _shortened(one.get("raw"), room)}
                        for judge, one in row.get("judgements", {}).items()
                    },
                }
                for row in rows
            ]
            for name, rows in item["images"].items()
        },
    }


def _shortened(raw: Any, room: int) -> Any:
    """A raw judgement, or the start of its text where it is too long."""
    text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    if len(text) <= room:
        return raw
    return f"{text[:room]} ... {len(text) - room} more characters are in results.json"


def _published(suite: str) -> list[dict[str, Any]]:
    """The published numbers of a suite, a table for each source; none where none are kept."""
    numbers = [one for one in published_numbers() if one.suite == suite]
    sources = dict.fromkeys(one.source for one in numbers)
    return [_published_table([one for one in numbers if one.source == source]) for source in sources]


def _published_table(numbers: list[Published]) -> dict[str, Any]:
    first = numbers[0]
    models: dict[str, dict[str, Any]] = {}
    for one in numbers:
        row = models.setdefault(
            one.model, {"model": one.model, "values": {}, "steps": one.steps, "rewriting": one.rewriting}
        )
        row["values"][one.metric] = one.value
    return {
        "source": first.source,
        "date": f"read {first.date}" if first.is_read_date else str(first.date),
        "resolution": first.resolution,
        "judge": first.judge,
        "unit": first.unit,
        "metrics": list(dict.fromkeys(one.metric for one in numbers)),
        "rows": list(models.values()),
    }
