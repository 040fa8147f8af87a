"""Defines the protocol of scorers, through which curation, training, evaluation and the safety check call them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class Failed:
    """A criterion applies to the image, but could not be judged. It is neither a yes nor a no, and is counted."""

    reason: str


Score = Mapping[str, float | Failed | None]
"""Criterion -> value from 0 (no) to 1 (yes), `Failed`, or None if the criterion does not apply to the image."""


class Scorer(Protocol):
    """Scores images independently: the score of an image does not depend on the others in the list.

    Attributes:
        name: short name for tables and files.
        criteria: the keys of its `Score`s, in the order of tables.
    """

    name: str
    criteria: tuple[str, ...]

    def __call__(
        self, images: list[Image.Image], prompts: list[str], truths: list[dict[str, Any]] | None = None
    ) -> list[Score]:
        """Score every image.

        Args:
            images: RGB images of any size.
            prompts: one prompt per image.
            truths: one truth per image, in the form that the scorer documents; None for a scorer that needs none.

        Returns:
            One score per image, with all of `criteria`.

        Raises:
            ValueError: the lists differ in length, or a required truth is missing.
        """
        ...


def require_same_length(images: list[Any], prompts: list[Any], truths: list[Any] | None) -> None:
    """Raise a ValueError unless there is one prompt, and one truth if truths are given, per image."""
    for name, values in (("prompts", prompts), ("truths", truths)):
        if values is not None and len(values) != len(images):
            raise ValueError(f"{name} has {len(values)} entries for {len(images)} images: expected one per image")


def score_as_json(score: Score) -> dict[str, float | dict[str, str] | None]:
    """A score as JSON values; a failure becomes {"failed": reason}."""
    return {name: {"failed": value.reason} if isinstance(value, Failed) else value for name, value in score.items()}


def score_from_json(values: Mapping[str, Any]) -> dict[str, float | Failed | None]:
    """The inverse of `score_as_json`."""
    return {name: Failed(value["failed"]) if isinstance(value, dict) else value for name, value in values.items()}
