"""Ranks models by people's votes: Bradley-Terry with ties and a bias for one side, with intervals.

Ties are Davidson's (1970, Journal of the American Statistical Association 65, 317-328); the bias is that of Davidson
and Beaver (1977, Biometrics 33, 693-702). With the log strengths l and r of the models of the two images, the bias b
and the tie parameter t, the outcomes have the log odds

    left: l + b / 2        right: r - b / 2        tie: t + (l + r) / 2

Shapes: R resamples, M models, C = 3 M^2 cells (left model, right model, outcome), M + 2 parameters (strengths, b, t).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from leanlens.evaluate.bootstrap import resampled
from leanlens.evaluate.rates import Z

OUTCOMES = ("left", "right", "tie")
RESAMPLES = 1000
_PRIOR = 0.02  # half the inverse variance of a parameter a priori: it stays finite for a model that wins every vote


@dataclass(frozen=True)
class Ballot:
    """What one person said of two images of one prompt.

    Attributes:
        left, right: the models.
        outcome: one of OUTCOMES.
    """

    voter: str
    prompt: str
    left: str
    right: str
    outcome: str


@dataclass(frozen=True)
class Standing:
    """A model among the others.

    Attributes:
        strength: log odds against a model of the mean strength, with its 95 % interval.
        win_rate: expected share of votes against each of the others in turn, a tie counted as half, with its interval.
        best, worst: the ranks that the model may have, from 1 for the strongest: models whose difference has an
            interval that holds zero may change places.
    """

    model: str
    strength: float
    low: float
    high: float
    win_rate: float
    win_low: float
    win_high: float
    best: int
    worst: int


@dataclass(frozen=True)
class Ranking:
    """All models, the strongest first, and what else the votes say.

    Attributes:
        left_share: share of the decided votes on equal images that go to the left one, with its 95 % interval.
        tie_share: share of ties on equal images.
        num, voters, prompts: how many votes, voters and prompts there are.
    """

    standings: list[Standing]
    left_share: float
    left_low: float
    left_high: float
    tie_share: float
    num: int
    voters: int
    prompts: int


def rank(ballots: Sequence[Ballot], seed: int = 0, resamples: int = RESAMPLES) -> Ranking:
    """The models in the order of their strength.

    Votes of one person, and votes on one prompt, are dependent. The variance behind an interval is that of a bootstrap
    over prompts plus that of one over voters, less that of one over single votes, which both contain (Cameron, Gelbach
    and Miller 2011, Journal of Business & Economic Statistics 29, 238-249); it is at least the larger of the first two.

    Raises:
        ValueError: there are no votes, an outcome is unknown, or a model meets itself.
    """
    models = _models(ballots)
    at, num = {name: place for place, name in enumerate(models)}, len(models)
    cells = np.array([(at[one.left] * num + at[one.right]) * 3 + OUTCOMES.index(one.outcome) for one in ballots])
    best_fit = fit(np.bincount(cells, minlength=3 * num**2).astype(np.float64), num)
    clusters: tuple[list[Hashable], ...] = (
        [one.prompt for one in ballots], [one.voter for one in ballots], list(range(len(ballots)))
    )  # fmt: skip
    refits = [
        fit(resampled(_by_cluster(cells, labels, num), seed=seed + step, resamples=resamples), num)
        for step, labels in enumerate(clusters)
    ]

    def interval(quantity: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value, half = quantity(best_fit), Z * np.sqrt(_variance([quantity(one) for one in refits]))
        return value, value - half, value + half

    share, low, high = (float(_logistic(one)) for one in interval(lambda found: found[..., -2]))
    ties = float(1 / (1 + 2 * np.exp(-best_fit[-1])))
    prompts, voters = (len(set(labels)) for labels in clusters[:2])
    return Ranking(_standings(models, interval), share, low, high, ties, len(ballots), voters, prompts)


def _models(ballots: Sequence[Ballot]) -> list[str]:
    """The models in the order in which they are met."""
    if not ballots:
        raise ValueError("there are no votes")
    for one in ballots:
        if one.outcome not in OUTCOMES:
            raise ValueError(f"invalid outcome {one.outcome!r}: expected {', '.join(OUTCOMES)}")
        if one.left == one.right:
            raise ValueError(f"a vote compares {one.left!r} with itself: expected two models")
    return list(dict.fromkeys(name for one in ballots for name in (one.left, one.right)))


def _by_cluster(cells: np.ndarray, labels: Sequence[Hashable], num: int) -> np.ndarray:
    """How often each cluster has each cell: (clusters, C)."""
    rows = {label: row for row, label in enumerate(dict.fromkeys(labels))}
    counts = np.zeros((len(rows), 3 * num**2))
    np.add.at(counts, (np.array([rows[label] for label in labels]), cells), 1)
    return counts


def _variance(refits: list[np.ndarray]) -> np.ndarray:
    """The variance of a quantity, from its values (R, ...) in resamples of prompts, of voters and of votes."""
    prompts, voters, votes = (one.var(axis=0) for one in refits)
    return np.maximum(prompts + voters - votes, np.maximum(prompts, voters))


def _standings(models: list[str], interval: Callable) -> list[Standing]:
    num = len(models)
    strength = np.stack(interval(lambda found: found[..., :num]), axis=1)
    wins = _logistic(np.stack(interval(lambda found: _logit(_win_rates(found, num))), axis=1))
    _, low, high = interval(lambda found: found[..., :num, None] - found[..., None, :num])
    best, worst = 1 + (high < 0).sum(axis=1), num - (low > 0).sum(axis=1)
    order = np.argsort(-strength[:, 0], kind="stable")
    return [
        Standing(models[at], *strength[at].tolist(), *wins[at].tolist(), int(best[at]), int(worst[at]))  # type: ignore
        for at in order
    ]


def fit(counts: np.ndarray, num: int) -> np.ndarray:
    """The most probable parameters, with a weak normal prior.

    Args:
        counts: (..., C) how often each outcome of each ordered pair of models occurred.
        num: number of models.

    Returns:
        (..., M + 2) log strengths with a mean of zero, bias of the left side, tie parameter.
    """
    from scipy.optimize import minimize

    table = counts.reshape(-1, num * num, 3)
    used = table.any(axis=(0, 2))
    table, design = table[:, used], _design(num)[used]
    total = np.maximum(table.sum(axis=(1, 2)), 1.0)
    seen = table.sum(axis=2)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean negative log posterior of each row, summed, and its gradient; rows do not depend on each other."""
        found = flat.reshape(len(table), num + 2)
        odds = found @ design.reshape(-1, num + 2).T
        odds = odds.reshape(table.shape)
        logs = odds - np.logaddexp.reduce(odds, axis=2, keepdims=True)
        excess = seen[..., None] * np.exp(logs) - table
        gradient = excess.reshape(len(table), -1) @ design.reshape(-1, num + 2) + 2 * _PRIOR * found
        value = _PRIOR * (found**2).sum(axis=1) - (table * logs).sum(axis=(1, 2))
        return float((value / total).sum()), (gradient / total[:, None]).ravel()

    start = np.zeros(len(table) * (num + 2))
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-7, "ftol": 1e-15}
    ).x.reshape(len(table), num + 2)
    found[:, :num] -= found[:, :num].mean(axis=1, keepdims=True)
    return found.reshape(*counts.shape[:-1], num + 2)


def _design(num: int) -> np.ndarray:
    """The log odds of each pair's outcomes as linear functions of the parameters: (M^2, 3, M + 2)."""
    design = np.zeros((num, num, 3, num + 2))
    for left in range(num):
        for right in range(num):
            design[left, right, 0, [left, -2]] = 1, 0.5
            design[left, right, 1, [right, -2]] = 1, -0.5
            design[left, right, 2, -1] = 1
            design[left, right, 2, left] += 0.5
            design[left, right, 2, right] += 0.5
    return design.reshape(num * num, 3, num + 2)


def _win_rates(found: np.ndarray, num: int) -> np.ndarray:
    """(..., M + 2) parameters -> each model's expected share of votes against the others, without a bias: (..., M)."""
    gain = (found[..., :num, None] - found[..., None, :num]) / 2
    tie = np.exp(found[..., -1])[..., None, None]
    share = (np.exp(gain) + tie / 2) / (np.exp(gain) + np.exp(-gain) + tie)
    return (share.sum(axis=-1) - 0.5) / (num - 1)  # without its own half


def _logistic(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def _logit(share: np.ndarray) -> np.ndarray:
    return np.log(share) - np.log1p(-share)
