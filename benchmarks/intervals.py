"""Measures whether the intervals of an evaluation hold: differences of simulated models.

It prints one JSON object. Differences: two models of one rate whose results on a prompt are correlated are compared
many times; the interval should hold zero 95 times of 100. With a true difference it should leave zero out; the closed
form of that share stands beside what was simulated. The suite of categories is made like GenEval: six categories of
different rates, four images a prompt, the mean of category means.

    python benchmarks/intervals.py [--repeats 400] [--more 2000]
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
from machine import describe_machine

from leanlens.evaluate.compare import compare_metrics, holm
from leanlens.evaluate.metric import Metric, mean_of_ratios, ratio
from leanlens.evaluate.rates import wilson

PROMPTS, RATE, GAIN, CORRELATION = 600, 0.85, 0.05, 0.5
CATEGORY_SIZES = (80, 99, 80, 94, 100, 100)
CATEGORY_RATES = (0.98, 0.88, 0.66, 0.83, 0.62, 0.65)
IMAGES = 4
FIRST_SEED = 23

Repeats = Iterator[tuple[Metric, Metric, list[str] | None]]
"""The metric of both models and the strata, of each repeat."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400, help="repeats of each comparison")
    parser.add_argument("--more", type=int, default=2000, help="repeats of the equal models, to know the share better")
    given = parser.parse_args()
    began, machine = time.time(), describe_machine()
    found = {
        "benchmark": "intervals",
        "command": f"python benchmarks/intervals.py --repeats {given.repeats} --more {given.more}",
        "machine": machine,
        "differences": differences(given.repeats, given.more),
    }
    found["seconds"] = round(time.time() - began, 1)
    print(json.dumps(found, indent=1))


def differences(repeats: int, more: int) -> dict[str, Any]:
    """Equal models and models with a true difference, on a plain suite and on one with categories."""
    up, down = RATE + GAIN, RATE - GAIN
    return {
        "settings": {
            "prompts": PROMPTS, "rate": RATE, "correlation": CORRELATION, "resamples": 10_000,
            "category_sizes": CATEGORY_SIZES, "category_rates": CATEGORY_RATES, "images": IMAGES,
        },
        "equal": equal(plain(RATE, RATE, repeats)),
        "equal, more repeats": equal(plain(RATE, RATE, more, FIRST_SEED + 1)),
        "equal, by category": equal(by_category(repeats)),
        f"{RATE} and {up:.2f}": different(plain(RATE, up, repeats), GAIN, power(RATE, up)),
        f"{RATE} and {down:.2f}": different(plain(RATE, down, repeats), -GAIN, power(RATE, down)),
    }  # fmt: skip


def equal(repeats: Repeats) -> dict[str, Any]:
    """How often the interval holds zero, and how often p is below .05, alone and after Holm's rule for five tests."""
    found = [compare_metrics(first, second, strata, seed=at) for at, (first, second, strata) in enumerate(repeats)]
    kept = [one for one in found if one is not None]
    p = [one.p for one in kept]
    families = [p[at : at + 5] for at in range(0, len(p), 5)]
    return {
        "interval holds zero": share([one.low <= 0 <= one.high for one in kept]),
        "p below .05": share([one < 0.05 for one in p]),
        "a family of five with an adjusted p below .05": share([min(holm(one)) < 0.05 for one in families]),
        "half width": round(float(np.mean([(one.high - one.low) / 2 for one in kept])), 4),
    }


def different(repeats: Repeats, gain: float, expected: float) -> dict[str, Any]:
    """How often a true difference is found: the interval leaves zero out on the right side."""
    found = [compare_metrics(first, second, strata, seed=at) for at, (first, second, strata) in enumerate(repeats)]
    kept = [one for one in found if one is not None]
    return {
        "found": share([one.low > 0 if gain > 0 else one.high < 0 for one in kept]),
        "found, closed form": round(expected, 4),
        "interval holds the true difference": share([one.low <= gain <= one.high for one in kept]),
        "p below .05": share([one.p < 0.05 for one in kept]),
    }


def share(held: list[bool]) -> dict[str, Any]:
    """A share with its Wilson interval."""
    low, high = wilson(sum(held), len(held))
    return {"share": round(sum(held) / len(held), 4), "low": round(low, 4), "high": round(high, 4), "num": len(held)}


def power(first: float, second: float) -> float:
    """The probability that a normal 95 % interval of the paired difference leaves zero out on the right side."""
    spread = first * (1 - first) + second * (1 - second)
    spread -= 2 * CORRELATION * math.sqrt(first * (1 - first) * second * (1 - second))
    return NormalDist().cdf(abs(second - first) / math.sqrt(spread / PROMPTS) - NormalDist().inv_cdf(0.975))


def plain(first: float, second: float, repeats: int, seed: int = FIRST_SEED) -> Repeats:
    """Prompts that each model meets or not."""
    lot = np.random.default_rng(seed)
    for _ in range(repeats):
        yield *(as_metric(met[:, None]) for met in correlated(first, second, PROMPTS, lot)), None


def by_category(repeats: int) -> Repeats:
    """Two equal models on categories of different rates; images of a prompt are as alike as the models are."""
    lot = np.random.default_rng(FIRST_SEED)
    strata = [str(at) for at, size in enumerate(CATEGORY_SIZES) for _ in range(size)]
    rates = np.repeat(CATEGORY_RATES, CATEGORY_SIZES)
    # A beta-binomial: prompts differ in how often they are met, which correlates all images of a prompt.
    scale = (1 - CORRELATION) / CORRELATION
    for _ in range(repeats):
        of_prompt = lot.beta(rates * scale, (1 - rates) * scale)[:, None]
        first, second = ((lot.random((len(rates), IMAGES)) < of_prompt).astype(float) for _ in range(2))
        yield as_grouped(first, strata), as_grouped(second, strata), strata


def correlated(first: float, second: float, num: int, lot: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two rows of 0 and 1 with these rates, whose correlation is exactly CORRELATION in expectation."""
    both = first * second + CORRELATION * math.sqrt(first * (1 - first) * second * (1 - second))
    case = lot.choice(4, num, p=(both, first - both, second - both, 1 - first - second + both))
    return np.isin(case, (0, 1)).astype(float), np.isin(case, (0, 2)).astype(float)


def as_metric(met: np.ndarray) -> Metric:
    """(N, images) of 0 and 1 -> the mean over prompts."""
    return Metric("overall", np.stack([met.mean(axis=1), np.ones(len(met))], axis=1), ratio, len(met))


def as_grouped(met: np.ndarray, strata: list[str]) -> Metric:
    """(N, images) of 0 and 1 -> the mean of category means."""
    sums = np.zeros((len(met), 2 * len(CATEGORY_SIZES)))
    at = np.array([int(one) for one in strata])
    sums[np.arange(len(met)), 2 * at] = met.sum(axis=1)
    sums[np.arange(len(met)), 2 * at + 1] = IMAGES
    return Metric("overall", sums, mean_of_ratios, len(met))


if __name__ == "__main__":
    main()
