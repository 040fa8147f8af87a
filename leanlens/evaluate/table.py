"""Writes rates and differences as a Markdown table, and a comparison as a section of a model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from leanlens.evaluate.rates import MOST_FAILED, Difference, Failures, Rate
from leanlens.evaluate.results_file import describe_failed, describe_judge, describe_rewriting, is_incomplete


def render_table(
    rows: Mapping[str, Mapping[str, Rate | None]],
    fid: Mapping[str, float | None] | None = None,
    differences: Mapping[str, Difference | None] | None = None,
) -> str:
    """A Markdown table with a line per criterion and a column per row of results: rate, interval, number of prompts.

    Args:
        rows: name of a column -> rates.
        fid: name of a column -> distance, for a last line; omitted if there is none.
        differences: criterion -> the second row minus the first, for an extra column.
    """
    criteria = list(dict.fromkeys(name for rates in rows.values() for name in rates))
    table = [
        [
            criterion.replace("_", " "),
            *(_cell(rates.get(criterion), differences is not None) for rates in rows.values()),
        ]
        for criterion in criteria
    ]
    table = [["criterion", *rows], *table]
    if fid and any(value is not None for value in fid.values()):
        table.append(["FID (fid-helper)", *("" if fid.get(name) is None else f"{fid[name]:.1f}" for name in rows)])
    if differences is not None:
        column = ["difference", *(_gain(differences.get(criterion)) for criterion in criteria), ""]
        for line, cell in zip(table, column, strict=False):
            line.insert(3, cell)
    lines = [f"| {' | '.join(map(in_cell, line))} |" for line in table]
    return "\n".join([lines[0], f"|---|{'---|' * (len(table[0]) - 1)}", *lines[1:]]) + "\n"


def _cell(rate: Rate | None, counted: bool) -> str:
    if rate is None:
        return ""
    failed = f", {rate.failed} failed" if rate.failed else ""
    if not rate.num:
        return f"not judged{failed}"
    met = f"{rate.yes:.1f}" if isinstance(rate.yes, float) else str(rate.yes)
    of = f", {met} of {rate.num}" if counted or isinstance(rate.yes, float) else f" of {rate.num}"
    return f"{rate.rate:.2f} ({rate.low:.2f} to {rate.high:.2f}){of}{failed}"


def describe_failures(rows: Mapping[str, Failures]) -> str:
    """A line for each row of results some judgements of which failed; nothing where none did.

    Args:
        rows: name of a column -> its failures.
    """
    lines = []
    for name, one in rows.items():
        if one.failed:
            reasons = "; ".join(f"{count} x {reason}" for reason, count in list(one.reasons.items())[:3])
            state = "incomplete: " if one.is_incomplete else ""
            lines.append(f"{name}: {state}{one.failed} of {one.num} judgements failed ({reasons})\n")
    return "\n".join(lines)


def _gain(one: Difference | None) -> str:
    return "" if one is None else f"{one.mean:+.2f} ({one.low:+.2f} to {one.high:+.2f})"


def render_card(results: Mapping[str, Any], metrics: Sequence[str] = ()) -> str:
    """A comparison as Markdown for a model card: scores, differences, and everything that a reader needs to judge them.

    Args:
        results: as `results_file.read_results` gives them.
        metrics: names of the metrics to show; all of them if there are none.

    Raises:
        ValueError: a metric that the results do not have.
    """
    known = list(dict.fromkeys(one["name"] for row in results["metrics"].values() for one in row))
    for name in metrics:
        if name not in known:
            raise ValueError(f"invalid metric {name!r}: expected one of {', '.join(known)}")
    shown = [name for name in known if name in metrics] or known
    lines = [["model", *shown], *(_scores(results, name, shown) for name in results["models"])]
    table = [f"| {' | '.join(map(in_cell, line))} |" for line in lines]
    table.insert(1, f"|---|{'---|' * len(shown)}")
    differences = [_difference(results, one) for one in results["comparisons"] if one["metric"] in shown]
    said = [*(line for line in differences if line), *map(_pair, results.get("pairs", ())), *_circumstances(results)]
    points = [f"- {line}" for line in said]
    return "\n".join([f"### {results['suite']['title']}", "", *table, "", *points]) + "\n"


def in_cell(text: str) -> str:
    """Text as a cell of a Markdown table, which it cannot end."""
    return " ".join(text.replace("|", "\\|").splitlines())


def _scores(results: Mapping[str, Any], name: str, shown: Sequence[str]) -> list[str]:
    role = results["models"][name].get("role", "model")
    title = name if role == "model" else f"{name} ({role})"
    if is_incomplete(results, name):
        return [title, *("incomplete" for _ in shown)]
    found = {one["name"]: one for one in results["metrics"].get(name, ())}
    return [title, *(_score(found.get(metric)) for metric in shown)]


def _score(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric.get("value") is None:
        return ""
    scale, digits = (100, 1) if metric.get("unit", "share") == "share" else (1, 2)
    value, low, high = metric["value"], metric.get("low"), metric.get("high")
    text = f"{value * scale:.{digits}f}"
    return text if low is None or high is None else f"{text} ({low * scale:.{digits}f} to {high * scale:.{digits}f})"


def _difference(results: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """A comparison in words; empty where one side is incomplete, or nothing was compared."""
    names = (one["first"], one["second"])
    if one.get("difference") is None or any(is_incomplete(results, name) for name in names):
        return ""
    unit = next((row.get("unit", "share") for row in results["metrics"][names[0]] if row["name"] == one["metric"]), "")
    scale, word = (100, " points") if unit == "share" else (1, "")
    value, low, high = (one[key] * scale for key in ("difference", "low", "high"))
    p = one["p"] if one.get("p_holm") is None else one["p_holm"]
    return (
        f"{names[1]} less {names[0]}, {one['metric']}: {value:+.1f}{word} ({low:+.1f} to {high:+.1f}), p = {p:.3g}; "
        f"better on {one['wins']}, equal on {one['ties']} and worse on {one['losses']} of {one['num']} prompts"
    )


def _pair(one: Mapping[str, Any]) -> str:
    """What a judge says of two models' images side by side."""
    who = f"{one['judge']}, pairs in both orders: {one['second']} against {one['first']}"
    if one["failed"] > MOST_FAILED * (one["num"] + one["failed"]):
        return f"{who}: incomplete, {one['failed']} failed"
    share = _score({"value": one["wins_of_second"], "low": one["low"], "high": one["high"]})
    return f"{who} wins {share} % of {one['num']} prompts, {one['failed']} failed"


def _circumstances(results: Mapping[str, Any]) -> list[str]:
    suite, names = results["suite"], list(results["models"])
    drawn = [name for name in names if results["models"][name].get("role", "model") == "model"]
    judges = ", ".join(describe_judge(name, judge) for name, judge in results["judges"].items())
    each = suite["images_per_prompt"]
    lines = [
        f"Suite: {suite['title']}, {suite['num']} prompts, {each} {'image' if each == 1 else 'images'} each, "
        f"seed {suite['seed']}; leanlens {results['leanlens']}",
        f"Judge: {judges}",
        *(f"Rewriting, {name}: {describe_rewriting(results, name)}" for name in drawn),
        "Intervals: 95 %, paired bootstrap over prompts" + ("; p after Holm" if results["comparisons"] else ""),
    ]
    failed = [(name, describe_failed(results, name)) for name in names]
    lines += [f"Failed, {name}: {text}" for name, text in failed if text]
    lines += [f"Incomplete, so not scored: {name}" for name in names if is_incomplete(results, name)]
    deviations = suite.get("deviations") or ["none"]
    return [*lines, *(f"Deviation from the official protocol: {one}" for one in deviations)]
