"""Defines the options that every suite is opened with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from leanlens.endpoint import Endpoint

LARGEST = 1_000_000  # number of prompts, or pixels of a side


@dataclass(frozen=True)
class SuiteOptions:
    """What a user chooses of a suite; each suite reads what applies to it.

    Attributes:
        num: how many prompts, chosen evenly over the categories; all without it.
        seed: of prompts that are made.
        date: published text that fresh prompts are made from.
        data: folder with the suite's own files, in place of a download.
        endpoints: the vision models that judge.
        judges: names of these; made of their models without them.
        answers: folder where their answers are kept; nothing is kept without it.
        scorer: command of the suite's own scorer, which runs in an environment of its own.
        size: pixels of a side of the requested images; the model's own without it.
        prompts: which prompts, in the words of the suite.
        library: drawings that scenes are made of.
        scorers: names of the scorers that judge scenes; the first gives the headline.
        pairs: whether the endpoints also compare the images of every two models.
        needs_truth: whether a column shows the true images.

    Raises:
        ValueError: an invalid number.
    """

    num: int | None = None
    seed: int = 0
    date: str | None = None
    data: Path | None = None
    endpoints: tuple[Endpoint, ...] = ()
    judges: tuple[str, ...] = ()
    answers: Path | None = None
    scorer: str | None = None
    size: int | None = None
    prompts: str | None = None
    library: str | None = None
    scorers: tuple[str, ...] = ("scene",)
    pairs: bool = False
    needs_truth: bool = False

    def __post_init__(self) -> None:
        for name in ("num", "size"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= LARGEST:
                raise ValueError(f"invalid {name} {value}: expected a whole number from 1 to {LARGEST:,}")
        for name in ("scorers", "judges"):
            given = getattr(self, name)
            if twice := next((one for one in given if given.count(one) > 1), None):
                raise ValueError(f"invalid {name[:-1]} {twice!r}: it is given twice")

    def as_json(self) -> dict[str, Any]:
        """What is not the default, as JSON values; `from_json` reads it."""
        plain = SuiteOptions()
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        changed = {name: value for name, value in values.items() if value != getattr(plain, name)}
        return {name: _plain(value) for name, value in changed.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SuiteOptions":
        """The inverse of `as_json`."""
        read: dict[str, Any] = dict(values)
        for name in ("data", "answers"):
            if name in read:
                read[name] = Path(read[name])
        if "endpoints" in read:
            read["endpoints"] = tuple(Endpoint(**one) for one in read["endpoints"])
        for name in ("scorers", "judges"):
            if name in read:
                read[name] = tuple(read[name])
        return cls(**read)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Endpoint):
        return asdict(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
