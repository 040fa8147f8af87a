"""Asks which of two images of one prompt is better, in both orders, and counts only answers that agree.

Source: position bias and its cure, Zheng et al., arXiv 2306.05685, section 3.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from leanlens.endpoint import Answer, Endpoint, Question, Totals, add_up, ask_all
from leanlens.evaluate.judges.blind import blind_png
from leanlens.evaluate.judges.questions import added
from leanlens.evaluate.suite import Item
from leanlens.score.protocol import Failed

FORMAT = 1  # of the request and of how its answer is read
FIRST, TIE, SECOND = 1.0, 0.5, 0.0  # results
ASKED = (
    "Two pictures were drawn for one prompt. The first picture is A, the second is B. Which of them shows better what "
    "the prompt asks for? If both do so equally well, say tie."
)
PAIRS_AT_ONCE = 8  # in the requests of one call, which hold their images


@dataclass(frozen=True)
class PairJudgement:
    """What a judge says of two images of one prompt.

    Attributes:
        result: 1 where the first is better, 0 where the second is, 0.5 for a tie; `Failed`; or None where the judge
            contradicts itself when the images change places, so that its answer does not count.
        raw: what the result comes from, as JSON values.
    """

    result: float | Failed | None
    raw: Any = None


class PairJudge(Protocol):
    """Compares two images of one prompt, independently of other pairs.

    Attributes:
        name: short name for tables and files.
    """

    name: str

    def identity(self) -> dict[str, Any]:
        """Everything that decides a judgement besides images and item, as JSON values."""
        ...

    def __call__(
        self, first: Sequence[Image.Image], second: Sequence[Image.Image], items: Sequence[Item]
    ) -> list[PairJudgement]:
        """A judgement for each pair, whose images were drawn for the item at its place.

        Raises:
            ValueError: the lists differ in length.
        """
        ...


class VisionPairJudge:
    """A vision model that is shown both images of a pair, once in each order.

    `PairJudgement.raw` has `answers`, what it said first and with the images swapped ("A", "B", "tie" or
    {"failed": reason}), and `flipped`, whether both answers contradict each other. A tie in one order alone is such a
    contradiction.

    Args:
        answers: folder where answers are kept as they come; nothing is kept without it.
        asked: what is asked; the prompt follows.
        ties: whether "tie" is an answer. Leave it out of `asked` too.
        system: the system message.
        max_tokens: of an answer; a model that reasons first needs more.
        extra: further fields of the request, as in `leanlens.endpoint.Question`.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        answers: str | Path | None = None,
        *,
        asked: str = ASKED,
        ties: bool = True,
        system: str = "",
        max_tokens: int = 16,
        extra: dict[str, Any] | None = None,
    ):
        self.name, self.endpoint, self.answers = name, endpoint, answers
        self.asked, self.system, self.max_tokens, self.extra = asked, system, max_tokens, dict(extra or {})
        self.choices = ("A", "B", "tie") if ties else ("A", "B")
        self.totals: Totals = add_up([])

    def identity(self) -> dict[str, Any]:
        """Everything that decides a judgement besides images and item, as JSON values."""
        return {
            "kind": "pairs",
            "format": FORMAT,
            "url": self.endpoint.url,
            "model": self.endpoint.model,
            "asked": self.asked,
            "choices": list(self.choices),
            "system": self.system,
            "max_tokens": self.max_tokens,
            "extra": self.extra,
        }

    def __call__(
        self, first: Sequence[Image.Image], second: Sequence[Image.Image], items: Sequence[Item]
    ) -> list[PairJudgement]:
        """A judgement for each pair.

        Raises:
            ValueError: the lists differ in length, or the environment variable of the endpoint's key is not set.
        """
        for name, images in (("first", first), ("second", second)):
            if len(images) != len(items):
                raise ValueError(f"{name} has {len(images)} entries for {len(items)} items: expected one per item")
        found: list[PairJudgement] = []
        for start in range(0, len(items), PAIRS_AT_ONCE):
            chosen = slice(start, start + PAIRS_AT_ONCE)
            requests = [
                self._request(pair, item.prompt)
                for one, other, item in zip(first[chosen], second[chosen], items[chosen], strict=True)
                for pair in _both_orders(blind_png(one), blind_png(other))
            ]
            answers = ask_all(self.endpoint, requests, self.answers)
            self.totals = added(self.totals, add_up(answers))
            found += [_judge(*answers[at : at + 2]) for at in range(0, len(answers), 2)]
        return found

    def _request(self, pair: tuple[bytes, bytes], prompt: str) -> Question:
        return Question(
            f"{self.asked}\nAnswer with one word: {' or '.join(self.choices)}.\nPrompt: {prompt}",
            system=self.system,
            images=pair,
            choices=self.choices,
            max_tokens=self.max_tokens,
            extra=self.extra,
        )


def _both_orders(one: bytes, other: bytes) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    return (one, other), (other, one)


def _judge(straight: Answer, swapped: Answer) -> PairJudgement:
    told = [
        {"failed": f"{answer.failure}: {answer.detail}"} if answer.failure else answer.value
        for answer in (straight, swapped)
    ]
    failure = straight.failure or swapped.failure
    if failure:
        return PairJudgement(Failed(failure), {"answers": told, "flipped": False})
    first = {"A": FIRST, "B": SECOND, "tie": TIE}[straight.value]
    second = {"A": SECOND, "B": FIRST, "tie": TIE}[swapped.value]
    is_flipped = first != second
    return PairJudgement(None if is_flipped else first, {"answers": told, "flipped": is_flipped})
