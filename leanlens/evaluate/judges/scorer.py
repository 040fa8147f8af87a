"""Turns a scorer, which takes truths, into a judge of an evaluation."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

import leanlens
from leanlens.evaluate.suite import Item, Judgement
from leanlens.score.protocol import Scorer


class ScorerJudge:
    """A `Judge` that asks a scorer, with the truth of each item."""

    def __init__(self, scorer: Scorer):
        self.scorer, self.name, self.criteria = scorer, scorer.name, tuple(scorer.criteria)

    def identity(self) -> dict[str, Any]:
        """See `Judge`; a scorer that has no `identity` counts by its name and the version of this library."""
        own = getattr(self.scorer, "identity", None)
        return {"scorer": self.name, **(own() if callable(own) else {"leanlens": leanlens.__version__})}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        """See `Judge`."""
        prompts, truths = [item.prompt for item in items], [item.truth for item in items]
        return [Judgement(score) for score in self.scorer(list(images), prompts, truths)]
