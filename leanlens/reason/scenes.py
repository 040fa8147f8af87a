"""The embedded reasoner for models that learnt the captions of `scenes/describe.py`: rules, no weights."""

import time
from collections.abc import Sequence

from leanlens.pipeline.reasoned import Reasoned
from leanlens.reason.choose import Contradiction, choose
from leanlens.reason.parse import parse
from leanlens.reason.reasoner import Ask
from leanlens.reason.words import tag, words_of
from leanlens.reason.write import write

SOURCE = "scenes 1"


class SceneReasoner:
    """Reads free text in common phrasings and writes the caption that the model learnt."""

    source = SOURCE

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]:
        """One record for each, in order."""
        return [self._reason(ask) for ask in asks]

    def _reason(self, ask: Ask) -> Reasoned:
        began = time.perf_counter()
        words = words_of("en")
        meaning = parse(tag(ask.prompt, words), words)
        prompt, left = ask.prompt, meaning.unsure
        if not left:
            try:
                prompt = write(choose(meaning, ask.seed, ask.width, ask.height), meaning, ask.seed)
            except Contradiction as error:
                left = str(error)
        return Reasoned(
            original=ask.prompt, prompt=prompt, source=self.source, seconds=time.perf_counter() - began, left_alone=left
        )
