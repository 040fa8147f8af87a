"""Measures how well a model understands words that no caption had: "puppy" for a dog, "crimson" for red.

It prints one JSON object. An image of a known thing is noised, and the error of the predicted velocity is measured with
three captions: with the known word, with an unseen word, and with the name of another thing. The score is

    (error under another name - error under the unseen word) / (error under another name - error under the known word),

1 if the unseen word is as good as the known one, 0 if it is no better than a wrong one, and null if the model hardly
distinguishes the known word from a wrong one. It is summed over images, levels and words, and needs no scorer.

    python benchmarks/words.py --model nano [--size 256] [--pictures 6] [--sources common]
"""

import argparse
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from machine import describe_machine
from torch import Tensor

from leanlens.flow.path import noised, velocity_loss
from leanlens.flow.times import spread_times
from leanlens.models import vae as autoencoder
from leanlens.pipeline.image import to_pixels
from leanlens.pipeline.open import open_model
from leanlens.scenes import describe
from leanlens.scenes.icons import COLORS, Library, library
from leanlens.scenes.layout import Rules
from leanlens.scenes.names import add_article, read_vocabulary
from leanlens.scenes.render import render
from leanlens.scenes.scene import PLAIN_COLORS, Scene, sample_scene

THINGS = {
    "dog": "puppy", "car": "automobile", "cat": "kitten", "pig": "piglet", "chicken": "hen", "house": "cottage",
    "rocket": "spaceship", "crown": "tiara", "robot": "android", "ghost": "phantom", "tree": "oak",
    "sailboat": "yacht", "flame": "blaze", "whale": "orca",
}  # fmt: skip
COLOR_WORDS = {
    "red": "crimson", "green": "emerald", "blue": "azure", "yellow": "golden", "purple": "violet", "brown": "chocolate",
    "black": "ebony", "grey": "silver",
}  # fmt: skip
LEVELS = 8
LEAST = 0.002  # of the error: below that a wrong word is not told from the known one
FIRST_SEED = 2**41  # no training and no evaluation counts from here


@dataclass(frozen=True)
class Case:
    """A picture, and its caption with the known word, the unseen one and a wrong one."""

    scene: Scene
    captions: tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=6, help="of each word")
    parser.add_argument("--sources", default="common")
    given = parser.parse_args()
    began, machine, icons = time.time(), describe_machine(), library(given.sources)
    require_unseen([*THINGS.values(), *COLOR_WORDS.values()], icons)
    if missing := [name for name in THINGS if name not in icons.concepts]:
        raise SystemExit(f"{given.sources} has no {', '.join(missing)}; give a library that does")
    pipeline = open_model(given.model, "cpu", "float32").pipeline
    result: dict[str, Any] = {}
    for kind, words in (("things", THINGS), ("colors", COLOR_WORDS)):
        result[kind] = {}
        for known, unseen in words.items():
            cases = list(cases_of(kind, known, unseen, icons, given.size, given.pictures))
            errors = torch.stack([errors_of(pipeline, case, icons, number) for number, case in enumerate(cases)])
            result[kind][unseen] = dict(zip(("known", "unseen", "other"), errors.sum(0).tolist(), strict=True))
    told = {
        "benchmark": "words", "command": f"python benchmarks/words.py --model {given.model} --size {given.size} "
        f"--pictures {given.pictures} --sources {given.sources}", "machine": machine,
        "seconds": round(time.time() - began, 1),
        "told apart": {kind: round(told_apart(rows.values()), 4) for kind, rows in result.items()},
        "understood": {kind: understood(rows.values()) for kind, rows in result.items()},
        "words": {kind: {word: understood([row]) for word, row in rows.items()} for kind, rows in result.items()},
    }  # fmt: skip
    print(json.dumps(told, indent=1))


def require_unseen(words: Iterable[str], icons: Library) -> None:
    """Stop if a caption of any scene of this library could hold one of the words."""
    vocabulary = read_vocabulary()
    texts = [*COLORS, *PLAIN_COLORS, *describe.STYLE_PHRASES.values(), *describe.OPENINGS, *describe.BRIEF_TEMPLATES]
    texts += [name for names in vocabulary["synonyms"].values() for name in names]
    everything = " ".join(texts + list(icons.concepts)).lower()
    if seen := [word for word in words if re.search(rf"\b{word}\b", everything)]:
        raise SystemExit(f"captions can hold {', '.join(seen)}; choose other words")


def cases_of(kind: str, known: str, unseen: str, icons: Library, size: int, pictures: int) -> Iterable[Case]:
    """Scenes of one thing: of a known name as drawn, or of a known colour; the wrong word is drawn by lot."""
    found, seed, lot = 0, FIRST_SEED, Random(known)
    while found < pictures:
        seed += 1
        scene = sample_scene(seed, icons, None, (size, size), Rules(least=min(44, size // 2)))
        thing = scene.things[0]
        if len(scene.things) > 1 or thing.count > 1 or thing.category in ("shape", "support", "sign"):
            continue
        if kind == "things" and thing.concept == known and thing.color is None:
            others = [name for name in THINGS if name != known]
            right, strange, wrong = (add_article(word) for word in (known, unseen, lot.choice(others)))
        elif kind == "colors" and thing.color == known:
            others = [name for name in COLOR_WORDS if name != known]
            names = (f"{word} {thing.concept}" for word in (known, unseen, lot.choice(others)))
            right, strange, wrong = (add_article(name) for name in names)
        else:
            continue
        found += 1
        yield Case(scene, (f"A picture of {right}", f"A picture of {strange}", f"A picture of {wrong}"))


@torch.no_grad()
def errors_of(pipeline: Any, case: Case, icons: Library, number: int) -> Tensor:
    """Sums over the levels of the mean squared error under each of the three captions: (3,)."""
    x0 = autoencoder.encode(pipeline.vae, to_pixels(render(case.scene, icons)))  # (1, L, C)
    side = autoencoder.token_pixels(pipeline.vae)
    grid = (1, case.scene.height // side, case.scene.width // side)
    t = spread_times(LEVELS, x0.shape[1])
    noise = torch.randn((LEVELS, *x0.shape[1:]), generator=torch.Generator().manual_seed(number))
    x0 = x0.expand(LEVELS, -1, -1)
    return torch.stack([_error(pipeline, x0, noise, t, grid, caption) for caption in case.captions])


def _error(pipeline: Any, x0: Tensor, noise: Tensor, t: Tensor, grid: tuple[int, int, int], caption: str) -> Tensor:
    text = pipeline.load_text_side()([caption]).repeat(LEVELS)
    predicted = pipeline.transformer(noised(x0, noise, t), text.layers, None, t, [grid])
    return velocity_loss(predicted, x0, noise).sum()


def told_apart(rows: Iterable[dict[str, float]]) -> float:
    """By how much a wrong word raises the error, as a share of it."""
    known, _, other = _sums(rows)
    return other / known - 1


def understood(rows: Iterable[dict[str, float]]) -> float | None:
    """The share of the distance between a wrong word and the known one that the unseen words cover."""
    rows = list(rows)
    known, unseen, other = _sums(rows)
    return round((other - unseen) / (other - known), 3) if told_apart(rows) > LEAST else None


def _sums(rows: Iterable[dict[str, float]]) -> tuple[float, ...]:
    kept = list(rows)
    return tuple(sum(row[name] for row in kept) for name in ("known", "unseen", "other"))


if __name__ == "__main__":
    main()
