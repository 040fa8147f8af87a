"""Measures whether the ranking by people's votes holds: the voters are simulated, and the order of the models is known.

It prints one JSON object. A tenth of the voters click at random; the others say "left" in a tenth of their answers
whatever they see. The true rank of every model should lie within its interval.

    python benchmarks/votes.py [--studies 100]
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from intervals import share
from machine import describe_machine

from leanlens.evaluate.bradley_terry import OUTCOMES, Ranking, rank
from leanlens.evaluate.vote.raters import ballots_of, check_raters
from leanlens.evaluate.vote.votes import CHOICES, Vote

STRENGTHS = {"first": 0.45, "second": 0.15, "third": -0.15, "fourth": -0.45}
TIE = -0.6  # log odds of a tie between equal images
_OBVIOUS = {"left": 8.0, "right": -8.0}  # log odds of a gold pair
RESAMPLES = 500
FIRST_SEED = 23
PROMPT_SPREAD, VOTER_SPREAD = 0.5, 0.2  # standard deviation of a model's strength over prompts and over voters


@dataclass(frozen=True)
class Study:
    """What is simulated.

    Attributes:
        left_bias: share of an attentive voter's answers that are "left" whatever is shown.
        clickers: share of the voters who press any of the four buttons at random.
        pairs: different pairs that each voter judges; a tenth are repeated, a twentieth are gold pairs.
    """

    voters: int = 400
    prompts: int = 200
    pairs: int = 20
    left_bias: float = 0.1
    clickers: float = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=100, help="simulated studies of each kind")
    given = parser.parse_args()
    began, machine = time.time(), describe_machine()
    studies = {
        "400 voters of 20 pairs": Study(),
        "100 voters of 80 pairs": Study(voters=100, pairs=80),
        "30 voters of 20 pairs": Study(voters=30),
    }
    found = {
        "benchmark": "votes",
        "command": f"python benchmarks/votes.py --studies {given.studies}",
        "machine": machine,
        "strengths": STRENGTHS,
        "votes": {name: measure(study, given.studies, RESAMPLES, FIRST_SEED) for name, study in studies.items()},
    }
    found["seconds"] = round(time.time() - began, 1)
    print(json.dumps(found, indent=1))


def simulate(study: Study, seed: int) -> tuple[list[Vote], set[str]]:
    """All votes, and the voters who click at random."""
    lot = np.random.default_rng(seed)
    models = list(STRENGTHS)
    of_prompt = lot.normal(0, PROMPT_SPREAD, (study.prompts, len(models)))
    clickers = {f"v{at}" for at in range(round(study.voters * study.clickers))}
    votes: list[Vote] = []
    for at in range(study.voters):
        voter = f"v{at}"
        strengths = np.array(list(STRENGTHS.values())) + of_prompt + lot.normal(0, VOTER_SPREAD, len(models))
        for number, prompt in enumerate(lot.choice(study.prompts, study.pairs, replace=False).tolist()):
            left, right = lot.choice(len(models), 2, replace=False).tolist()
            kinds = ["pair"] + ["repeat"] * (number % 10 == 9) + ["gold"] * (number % 20 == 19)
            for kind in kinds:
                if kind == "repeat":
                    left, right = right, left
                answer = ("left", "right")[lot.integers(2)] if kind == "gold" else ""
                gain = _OBVIOUS.get(answer, strengths[prompt, left] - strengths[prompt, right])
                choice = _click(lot) if voter in clickers else _choose(gain, study.left_bias, lot)
                shown = (models[left], models[right])
                votes.append(_vote(f"{voter} {number}", voter, kind, prompt, shown, choice, answer))
    return votes, clickers


def _click(lot: np.random.Generator) -> str:
    return CHOICES[lot.integers(len(CHOICES))]


def _choose(gain: float, left_bias: float, lot: np.random.Generator) -> str:
    """What an attentive voter says of two images, the left of which is stronger by `gain`."""
    if lot.random() < left_bias:
        return "left"
    odds = np.exp([gain / 2, -gain / 2, TIE])
    choice = OUTCOMES[lot.choice(3, p=odds / odds.sum())]
    return "bad" if choice == "tie" and lot.random() < 0.3 else choice


def _vote(name: str, voter: str, kind: str, prompt: int, shown: tuple[str, str], choice: str, answer: str) -> Vote:
    """A vote; the images of a gold pair are of one model, one for this prompt and one for the next."""
    left, right = (shown[0], shown[0]) if answer else shown
    images = [f"{left} {prompt + (answer == 'right')}", f"{right} {prompt + (answer == 'left')}"]
    return Vote(f"{name} {kind}", voter, "prompt", kind, str(prompt), left, right, *images, choice, answer, 1.0, "")


def measure(study: Study, studies: int, resamples: int, first_seed: int) -> dict[str, Any]:
    """Many studies: whether the true order lies within the intervals, and what the checks of the voters are worth."""
    found = [_one(study, first_seed + at, resamples) for at in range(studies)]
    return {
        "studies": studies,
        "true order within the intervals": share([one["held"] for one in found]),
        "true order within the intervals, failing voters excluded": share([one["held, excluded"] for one in found]),
        "estimated order is the true one": share([one["right"] for one in found]),
        "pairs of models told apart": mean([one["resolved"] for one in found]),
        "pairs of models told apart, failing voters excluded": mean([one["resolved, excluded"] for one in found]),
        "left image on equal images": mean([one["left"] for one in found]),
        "clickers who fail the checks": mean([one["caught"] for one in found]),
        "attentive voters who fail the checks": mean([one["wronged"] for one in found]),
    }


def _one(study: Study, seed: int, resamples: int) -> dict[str, float]:
    votes, clickers = simulate(study, seed)
    failed = {one.voter for one in check_raters(votes) if one.failed}
    kept = [one for one in votes if one.voter not in failed]
    every, cleaned = (rank(ballots_of(rows, "prompt"), seed, resamples) for rows in (votes, kept))
    return {
        "held": order_is_within(every),
        "held, excluded": order_is_within(cleaned),
        "right": [one.model for one in every.standings] == list(STRENGTHS),
        "resolved": resolved(every),
        "resolved, excluded": resolved(cleaned),
        "left": every.left_share,
        "caught": len(failed & clickers) / max(len(clickers), 1),
        "wronged": len(failed - clickers) / (study.voters - len(clickers)),
    }


def order_is_within(ranking: Ranking) -> bool:
    """Whether the true rank of every model lies within its interval."""
    true = {name: place for place, name in enumerate(STRENGTHS, 1)}
    return all(one.best <= true[one.model] <= one.worst for one in ranking.standings)


def resolved(ranking: Ranking) -> float:
    """The share of the pairs of models whose order is certain."""
    num = len(ranking.standings)
    return 1 - sum(one.worst - one.best for one in ranking.standings) / (num * (num - 1))


def mean(values: Sequence[float]) -> float:
    """Rounded to four digits."""
    return round(float(np.mean(values)), 4)


if __name__ == "__main__":
    main()
