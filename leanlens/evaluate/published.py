"""Reads the numbers that others published, which are shown apart from measured ones."""

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from leanlens.config import Section
from leanlens.files import read_toml

NUMBERS = Path(__file__).with_name("published.toml")
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Published:
    """One number as its source states it.

    Attributes:
        suite: its command's name, such as "geneval"; the title is how tables call it.
        unit: "share" of 1, "s", or "" for other numbers.
        source: paper with its table, or repository with commit and file.
        date: when the source appeared, or where `is_read_date`, when it was read, because it states no date.
        rewriting, resolution, steps, judge: the settings, "not stated" where the source does not say.
    """

    suite: str
    title: str
    metric: str
    model: str
    value: float
    unit: str
    source: str
    date: datetime.date
    is_read_date: bool
    rewriting: str
    resolution: str
    steps: str
    judge: str


class _Source(Section):
    reference: str = Field(min_length=1)
    published: datetime.date | None = None
    read: datetime.date | None = None

    @model_validator(mode="after")
    def _dated(self) -> "_Source":
        if (self.published is None) == (self.read is None):
            raise ValueError(f"source {self.reference!r} needs one date, published or read")
        return self


class _Table(Section):
    suite: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str = Field(min_length=1)
    source: str
    where: str = Field(min_length=1)
    metrics: tuple[str, ...] = Field(min_length=1)
    unit: Literal["share", "s", ""]
    resolution: str = Field(min_length=1)
    judge: str = Field(min_length=1)
    steps: dict[str, str] = Field(default_factory=dict)
    rewriting: dict[str, str] = Field(default_factory=dict)
    rows: dict[str, tuple[float | Literal["-"], ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> "_Table":
        place = f"published table {self.suite} of {self.source}, {self.where}"
        for model, values in self.rows.items():
            if len(values) != len(self.metrics):
                raise ValueError(f"{place}: {model} has {len(values)} values for {len(self.metrics)} metrics")
            if self.unit == "share" and any(not isinstance(value, str) and not 0 <= value <= 1 for value in values):
                raise ValueError(f"{place}: {model} has a share outside 0 to 1")
        unknown = sorted({*self.rewriting, *self.steps} - set(self.rows))
        if unknown:
            raise ValueError(f"{place} has no row for {unknown[0]!r}, which settings name")
        return self


class _File(Section):
    sources: dict[str, _Source]
    tables: tuple[_Table, ...]

    @model_validator(mode="after")
    def _named(self) -> "_File":
        for table in self.tables:
            if table.source not in self.sources:
                raise ValueError(f"published table {table.suite} names source {table.source!r}, which is not listed")
        return self


def published_numbers(suite: str | None = None, path: Path = NUMBERS) -> list[Published]:
    """The numbers of one suite, or of all, in the order of the file.

    Raises:
        ValueError: the suite has none; the message names those that have. Or the file is invalid: an unknown key, a
            share outside 0 to 1, a table without a source, the same number twice.
    """
    numbers = _read(path)
    names = list(dict.fromkeys(one.suite for one in numbers))
    if suite is not None and suite not in names:
        raise ValueError(f"no numbers of suite {suite!r} are kept; expected one of {', '.join(names)}")
    return [one for one in numbers if suite in (None, one.suite)]


def _read(path: Path) -> list[Published]:
    try:
        file = _File.model_validate_json(json.dumps(read_toml(path), default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path} is invalid at {place or 'its top'}: {first['msg']}") from error
    numbers = [one for table in file.tables for one in _rows(table, file.sources[table.source])]
    counts = Counter((one.suite, one.metric, one.model, one.rewriting) for one in numbers)
    twice = [" ".join(key[:3]) for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{path} has {twice[0]} twice; give each number once")
    return numbers


def _rows(table: _Table, source: _Source) -> list[Published]:
    date = source.published or source.read
    assert date is not None  # `_Source` requires one of them
    return [
        Published(
            table.suite,
            table.title,
            metric,
            model,
            value,
            table.unit,
            f"{source.reference}, {table.where}",
            date,
            source.published is None,
            table.rewriting.get(model, NOT_STATED),
            table.resolution,
            table.steps.get(model, NOT_STATED),
            table.judge,
        )
        for model, values in table.rows.items()
        for metric, value in zip(table.metrics, values, strict=True)
        if not isinstance(value, str)
    ]


def render_published(numbers: Sequence[Published]) -> str:
    """Markdown tables of published numbers, one for each source, with the settings of each row."""
    parts = []
    for source in dict.fromkeys(one.source for one in numbers):
        rows = [one for one in numbers if one.source == source]
        first = rows[0]
        date = f"read {first.date}" if first.is_read_date else str(first.date)
        settings = f"Resolution: {first.resolution}. Judge: {first.judge}."
        parts.append(f"{first.title}, as published: {source} ({date}). {settings}\n\n{_table(rows)}")
    return "\n".join([*parts, "These numbers were not measured here. Do not compare them with measured ones.\n"])


def _table(rows: Sequence[Published]) -> str:
    metrics = list(dict.fromkeys(one.metric for one in rows))
    lines = [["model", *metrics, "steps", "rewriting"]]
    for model in dict.fromkeys(one.model for one in rows):
        here = {one.metric: one for one in rows if one.model == model}
        first = next(iter(here.values()))
        cells = [f"{here[name].value:.3f}" if name in here else "" for name in metrics]
        lines.append([model, *cells, first.steps, first.rewriting])
    written = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([written[0], f"|---|{'---|' * (len(lines[0]) - 1)}", *written[1:]]) + "\n"
