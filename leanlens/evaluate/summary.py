"""Writes the results of an evaluation as Markdown, for the terminal and for `table.md`."""

from collections.abc import Mapping, Sequence
from typing import Any

from leanlens.evaluate.rates import MOST_FAILED, rates_from_json
from leanlens.evaluate.results_file import is_incomplete
from leanlens.evaluate.table import in_cell, render_table


def render_results(results: Mapping[str, Any], costs: Mapping[str, Any]) -> str:
    """The tables of an evaluation, each under its heading.

    Args:
        results, costs: `results.json` and `costs.json`.
    """
    suite = results["suite"]
    each = "an image" if suite["images_per_prompt"] == 1 else f"{suite['images_per_prompt']} images"
    title = f"# {suite['title']}\n\n{suite['num']} prompts, {each} for each, seed {suite['seed']}"
    parts = [
        title,
        _metrics(results),
        *_comparisons(results),
        *_pairs(results),
        *_rates(results),
        *_categories(results),
    ]
    parts += [*_sets(results), _costs(results, costs), *_notes(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metrics(results: Mapping[str, Any]) -> str:
    """Metrics by model; a model too many of whose judgements failed has no numbers."""
    names = [name for name, one in results["models"].items() if one["role"] == "model"]
    by_name = {name: {one["name"]: one for one in results["metrics"][name]} for name in names}
    criteria = {
        full
        for judge, one in results["judges"].items()
        for name in one["criteria"]
        for full in (name.replace("_", " "), f"{name.replace('_', ' ')} ({judge})")
    }
    metrics = list(dict.fromkeys(metric for row in by_name.values() for metric in row))
    metrics = [name for name in metrics if name not in criteria] or metrics  # the tables of criteria have the others
    if not metrics:
        return "Nothing was judged, since the suite has no judge here. `leanlens evaluate vote` asks people."
    lines = [
        [
            metric,
            *("incomplete" if is_incomplete(results, name) else show(by_name[name].get(metric)) for name in names),
        ]
        for metric in metrics
    ]
    return markdown(["metric", *names], lines)


def show(metric: Mapping[str, Any] | None) -> str:
    """A value with its interval; shares as percent."""
    if metric is None or metric["value"] is None:
        return ""
    numbers = [metric[name] for name in ("value", "low", "high")]
    value, *ends = [_number(number, metric.get("unit", "share")) for number in numbers]
    return f"{value} ({ends[0]} to {ends[1]})" if None not in numbers else value


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if unit == "share" else f"{value:.4g}"


def _comparisons(results: Mapping[str, Any]) -> list[str]:
    """The headline and all other metrics of each pair of models: difference, interval, adjusted p, win rates."""
    complete = [
        one for one in results["comparisons"]
        if not any(is_incomplete(results, one[side]) for side in ("first", "second"))
    ]  # fmt: skip
    if not complete:
        return []
    units = {one["name"]: one["unit"] for row in results["metrics"].values() for one in row}
    lines = [
        [
            f"{one['second']} against {one['first']}", one["metric"],
            show({"value": one["difference"], "low": one["low"], "high": one["high"], "unit": units[one["metric"]]}),
            f"{one['p_holm']:.3f}", f"{one['wins']} / {one['ties']} / {one['losses']}",
        ]
        for one in complete
    ]  # fmt: skip
    heading = "## Differences\n\nSecond minus first, paired by prompt; p by sign flips, adjusted over the pairs (Holm)."
    return [f"{heading}\n\n{markdown(['models', 'metric', 'difference', 'p', 'won / tied / lost'], lines)}"]


def _pairs(results: Mapping[str, Any]) -> list[str]:
    """Who wins before each judge, and how far judges agree."""
    if not results.get("pairs"):
        return []
    lines = [
        [
            one["judge"], f"{one['second']} against {one['first']}", _won(one),
            str(one["num"]), _number(one["flips"], "share"), str(one["failed"]),
        ]
        for one in results["pairs"]
    ]  # fmt: skip
    header = ["judge", "models", "pairs won by the first named, %", "prompts", "contradicted itself, %", "failed"]
    text = f"## Pairs, each shown in both orders\n\n{markdown(header, lines)}"
    for one in results["agreements"]:
        kappa = "not defined" if one["kappa"] is None else f"{one['kappa']:.2f}"
        text += f"\n\n{' and '.join(one['judges'])}: Cohen's kappa {kappa} over {one['num']} pairs"
    return [text]


def _won(pair: Mapping[str, Any]) -> str:
    """The share of pairs that the second model wins; none where too much failed."""
    if pair["failed"] > MOST_FAILED * (pair["num"] + pair["failed"]):
        return "incomplete"
    return show({**pair, "value": pair["wins_of_second"]})


def _rates(results: Mapping[str, Any]) -> list[str]:
    """A table of criteria for each judge: share of prompts that meet each in full."""
    found = []
    for judge, rows in results["rates"].items():
        table = render_table({name: rates_from_json(rates) for name, rates in rows.items()}).rstrip()
        found.append(
            f"## Criteria, judged by {judge}\n\nShare of the prompts that meet a criterion in full.\n\n{table}"
        )
    return found


def _categories(results: Mapping[str, Any]) -> list[str]:
    names = [name for name, one in results["models"].items() if one["role"] == "model"]
    categories = list(dict.fromkeys(category for name in names for category in results["categories"][name]))
    if not categories:
        return []
    lines = [
        [
            category,
            *(
                "incomplete" if is_incomplete(results, name) else show(results["categories"][name].get(category))
                for name in names
            ),
        ]
        for category in categories
    ]
    metric = next(one[0]["name"] for one in results["metrics"].values() if one)
    return [f"## Categories, {metric}\n\n{markdown(['category', *names], lines)}"]


def _sets(results: Mapping[str, Any]) -> list[str]:
    """Numbers of whole sets of images, by network."""
    scores = results.get("set_scores", {})
    if not scores:
        return []
    lines = [[name, *(_set_score(row.get(name)) for row in scores.values())] for name in results["set_scorers"]]
    lines = [line for line in lines if any(line[1:])]
    return [f"## Sets of images\n\n{markdown(['number', *scores], lines)}"] if lines else []


def _set_score(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _costs(results: Mapping[str, Any], costs: Mapping[str, Any]) -> str:
    lines = []
    for name, measured in costs.items():
        exact = results["models"][name]["costs"]
        seconds, peak = measured["seconds"]["median"], measured["peak_bytes"]
        lines.append([
            name,
            "" if exact.get("flop") is None else _rounded(exact['flop'] / 1e9),
            "" if seconds is None else f"{seconds:.2f}",
            "" if exact.get("weight_bytes") is None else _rounded(exact['weight_bytes'] / 1e6),
            "" if peak is None else _rounded(peak / 1e6),
            measured["machine"] or "",
        ])  # fmt: skip
    header = ["model", "GFLOP an image", "seconds (median)", "weights, MB", "peak memory, MB", "machine"]
    return f"## Costs\n\n{markdown(header, lines)}" if lines else ""


def _rounded(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _notes(results: Mapping[str, Any]) -> list[str]:
    """Failures and deviations, a line each."""
    lines = []
    for name, one in results["failures"].items():
        if one["failed"]:
            reasons = "; ".join(f"{count} x {reason}" for reason, count in list(one["reasons"].items())[:3])
            state = "incomplete, no headline: " if one["incomplete"] else ""
            lines.append(f"- {name}: {state}{one['failed']} of {one['num']} judgements failed ({reasons}){_where(one)}")
    lines += [f"- {text}" for text in results["suite"]["deviations"]]
    return ["## Notes\n\n" + "\n".join(lines)] if lines else []


def _where(failures: Mapping[str, Any]) -> str:
    """Failures by category."""
    parts = [f"{name} {one['failed']} of {one['num']}" for name, one in failures["categories"].items()]
    return f"; {', '.join(parts)}" if parts else ""


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = ["| " + " | ".join(map(in_cell, line)) + " |" for line in (header, *lines)]
    return "\n".join([rows[0], f"|{'---|' * len(header)}", *rows[1:]])
