"""The embedded reasoner for models that learnt the captions of `scenes/describe.py`: rules, no weights."""

import time
from collections.abc import Sequence

from leanlens.pipeline.reasoned import Reasoned
from leanlens.reason.reasoner import Ask

SOURCE = "scenes 1"


class SceneReasoner:
    """Reads free text in common phrasings and writes the caption that the model learnt."""

    source = SOURCE

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]:
        """One record for each, in order."""
        return [self._reason(ask) for ask in asks]

    def _reason(self, ask: Ask) -> Reasoned:
        began = time.perf_counter()
        return Reasoned(
            original=ask.prompt,
            prompt=ask.prompt,
            source=self.source,
            seconds=time.perf_counter() - began,
            left_alone="it is not read yet",
        )
