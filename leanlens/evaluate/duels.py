"""Has judges compare the images of every two models prompt by prompt, and adds up who wins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from leanlens.evaluate.agreement import agreements, flip_metric, win_metric
from leanlens.evaluate.compare import interval
from leanlens.evaluate.draw import KeptImage, Say
from leanlens.evaluate.judges.pairs import PairJudge, PairJudgement
from leanlens.evaluate.results_json import rounded
from leanlens.evaluate.suite import Item
from leanlens.score.protocol import Failed

if TYPE_CHECKING:
    from leanlens.evaluate.run import Row

TOGETHER = 16  # pairs judged at once


@dataclass(frozen=True)
class Duel:
    """What one judge says of the images of two models.

    Attributes:
        judged: one list for each item, one judgement for each seed.
    """

    judge: str
    first: str
    second: str
    judged: list[list[PairJudgement]]

    def results(self) -> list[float | Failed | None]:
        """The results of all pairs, prompt by prompt."""
        return [one.result for row in self.judged for one in row]


def fight(judges: Sequence[PairJudge], rows: "Sequence[Row]", say: Say = lambda text: None) -> list[Duel]:
    """Every two models, before every judge. Judges keep their own answers, so nothing is asked twice."""
    found = []
    for judge in judges:
        for first, second in combinations(rows, 2):
            say(f"{judge.name}: comparing {first.name} and {second.name}")
            judged = _judge(judge, first.items, first.images, second.images)
            found.append(Duel(judge.name, first.name, second.name, judged))
    return found


Images = Sequence[Sequence[KeptImage]]


def _judge(judge: PairJudge, items: Sequence[Item], first: Images, second: Images) -> list[list[PairJudgement]]:
    """One list for each item; a pair one of whose images could not be drawn fails."""
    flat = list(_pairs(items, first, second))
    whole = [index for index, (_, one, other) in enumerate(flat) if one.path is not None and other.path is not None]
    found = [PairJudgement(Failed(f"not drawn: {one.failed or other.failed}")) for _, one, other in flat]
    for start in range(0, len(whole), TOGETHER):
        chosen = whole[start : start + TOGETHER]
        asked, ones, others = zip(*(flat[index] for index in chosen), strict=True)
        judged = judge([one.open() for one in ones], [one.open() for one in others], asked)
        for index, judgement in zip(chosen, judged, strict=True):
            found[index] = judgement
    left = iter(found)
    return [[next(left) for _ in _both(*row)] for row in zip(first, second, strict=True)]


def _pairs(items: Sequence[Item], first: Images, second: Images) -> Iterator[tuple[Item, KeptImage, KeptImage]]:
    for item, ones, others in zip(items, first, second, strict=True):
        for one, other in _both(ones, others):
            yield item, one, other


def _both(ones: Sequence[KeptImage], others: Sequence[KeptImage]) -> Iterator[tuple[KeptImage, KeptImage]]:
    """The images of a prompt side by side, seed by seed; those that one model has more of are left out."""
    return zip(ones, others, strict=False)


def duels_as_json(duels: Sequence[Duel], strata: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """The share of pairs that the second model wins, with its interval, and how often the judge contradicted itself."""
    found = []
    for duel in duels:
        wins, flips = win_metric("wins", duel.judged), flip_metric("flips", duel.judged)
        low, high = interval(wins, strata, seed) or (None, None)
        found.append({
            "judge": duel.judge,
            "first": duel.first,
            "second": duel.second,
            "wins_of_second": rounded(1 - wins.value),
            "low": None if high is None else rounded(1 - high),
            "high": None if low is None else rounded(1 - low),
            "num": wins.num,
            "flips": rounded(flips.value),
            "failed": wins.failed,
        })  # fmt: skip
    return found


def agreements_as_json(duels: Sequence[Duel]) -> list[dict[str, Any]]:
    """How far every two judges agree over the pairs of all models."""
    results: dict[str, list[float | Failed | None]] = {}
    for duel in duels:
        results.setdefault(duel.judge, []).extend(duel.results())
    return [
        {"judges": list(names), "kappa": rounded(one.kappa), "share": rounded(one.share), "num": one.num}
        for names, one in agreements(results).items()
    ]


def item_duels(duels: Sequence[Duel], index: int) -> list[dict[str, Any]]:
    """What was said of the images of one item."""
    return [
        {
            "judge": duel.judge, "first": duel.first, "second": duel.second, "image": place,
            "result": {"failed": one.result.reason} if isinstance(one.result, Failed) else one.result,
            **({} if one.raw is None else {"raw": one.raw}),
        }
        for duel in duels for place, one in enumerate(duel.judged[index])
    ]  # fmt: skip
