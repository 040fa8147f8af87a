"""Writes rates and differences as a Markdown table."""

from collections.abc import Mapping

from leanlens.evaluate.rates import Difference, Failures, Rate


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
    lines = [f"| {' | '.join(line)} |" for line in table]
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
