"""Defines the protocol of scorers, through which curation, training, evaluation and the safety check call them."""

from collections.abc import Mapping
from typing import Any, Protocol

from PIL import Image

Score = Mapping[str, float | None]
"""Criterion -> value from 0 (no) to 1 (yes), or None where the criterion does not apply to the picture."""


class Scorer(Protocol):
    """Judges pictures one by one: the score of a picture does not depend on its neighbours in the list.

    Attributes:
        name: short, for tables and files.
        criteria: every name that a `Score` of it has, in the order of its tables.
    """

    name: str
    criteria: tuple[str, ...]

    def __call__(
        self, images: list[Image.Image], prompts: list[str], truths: list[dict[str, Any]] | None = None
    ) -> list[Score]:
        """Score every picture.

        Args:
            images: RGB pictures of any size.
            prompts: what was asked for, one for each picture.
            truths: what must be true of each picture, in the form the scorer documents; a scorer that judges by prompt
                alone takes None.

        Returns:
            One score for each picture, with all of `criteria`.

        Raises:
            ValueError: the lists differ in length, or a truth that the scorer needs is missing.
        """
        ...


def require_same_length(images: list[Any], prompts: list[Any], truths: list[Any] | None) -> None:
    """Raise a ValueError unless there is one prompt, and one truth where truths are given, for each picture."""
    for name, values in (("prompts", prompts), ("truths", truths)):
        if values is not None and len(values) != len(images):
            raise ValueError(f"{name} has {len(values)} entries for {len(images)} images; give one for each image")
