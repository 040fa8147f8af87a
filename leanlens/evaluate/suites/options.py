"""Defines the options that every suite is opened with."""

from dataclasses import dataclass
from pathlib import Path

from leanlens.endpoint import Endpoint


@dataclass(frozen=True)
class SuiteOptions:
    """What a user chooses of a suite; each suite reads what applies to it.

    Attributes:
        num: how many prompts, chosen evenly over the categories; all without it.
        seed: of prompts that are made.
        data: folder with the suite's own files, in place of a download.
        endpoints: the vision models that judge.
        answers: folder where their answers are kept; nothing is kept without it.
        scorer: command of the suite's own scorer, which runs in an environment of its own.
        size: pixels of a side of the requested images; the model's own without it.
        prompts: which prompts, in the words of the suite.
        library: drawings that scenes are made of.

    Raises:
        ValueError: an invalid number.
    """

    num: int | None = None
    seed: int = 0
    data: Path | None = None
    endpoints: tuple[Endpoint, ...] = ()
    answers: Path | None = None
    scorer: str | None = None
    size: int | None = None
    prompts: str | None = None
    library: str | None = None

    def __post_init__(self) -> None:
        for name in ("num", "size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"invalid {name} {value}: expected a whole number from 1")
