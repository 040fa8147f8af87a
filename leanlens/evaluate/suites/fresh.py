"""The suite `fresh`: new prompts from a published date, made again by anyone and used once.

No model can have been tuned to prompts that did not exist when it was trained. The date is any text that is published
before the evaluation and not chosen by whoever trained a model, such as the day of the comparison.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from leanlens.evaluate.questions import HELD_OUT_SEEDS, Question, held_out_questions
from leanlens.evaluate.suite import Item, Suite
from leanlens.evaluate.suites.asking import metrics_per_judge, question_judges, question_metrics
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.scenes.describe import NUMBERS
from leanlens.scenes.icons import Library
from leanlens.scenes.names import add_article, pluralize
from leanlens.score.protocol import Scorer

VERSION = 1  # of how prompts are made from a date; results of different versions are not comparable
PROMPTS = 200
KINDS = ("drawings", "photos")
DIGITS = 12  # hexadecimal, of the checksum that becomes the seed
PHOTOGRAPHED = (
    "animal", "ball", "building", "clothing", "drink", "food", "instrument", "object", "plant", "support", "tool",
    "vehicle",
)  # fmt: skip
PLACES = {"left of": "to the left of", "right of": "to the right of", "on": "on top of"}


def fresh(options: SuiteOptions) -> Suite:
    """The suite: `options.prompts` is "drawings", judged exactly, or "photos", judged by endpoints.

    Raises:
        ValueError: there is no date, an unknown kind, or photos without an endpoint that judges them.
    """
    from leanlens.evaluate.suites.scenes import open_scorers
    from leanlens.scenes.icons import library

    icons, kind = library(options.library), options.prompts or KINDS[0]
    if kind not in KINDS:
        raise ValueError(f"invalid prompts {kind!r}: expected {' or '.join(KINDS)}")
    if kind == "photos":
        return photos(icons, options)
    return drawings(open_scorers(options, icons), icons, options)


def seed_of_date(date: str | None) -> int:
    """The seed that a date stands for: the first digits of its SHA-256.

    Raises:
        ValueError: there is none.
    """
    text = " ".join((date or "").split())
    if not text:
        raise ValueError("fresh needs a date: a published text, such as the date 2026-12-01")
    return int(hashlib.sha256(f"leanlens fresh {VERSION} {text}".encode()).hexdigest()[:DIGITS], 16)


def drawings(scorers: Sequence[Scorer], library: Library, options: SuiteOptions) -> Suite:
    """Captions of new scenes, dense and brief ones in turns, with exact truths."""
    from leanlens.evaluate.suites.scenes import suite_of

    num, seed, size = options.num or PROMPTS, seed_of_date(options.date), options.size or 256
    both = [held_out_questions(num, seed, library, kind, size=size) for kind in ("dense", "brief")]
    questions = [both[index // 3 % 2][index] for index in range(num)]
    return _dated(suite_of("fresh", "Fresh drawings", questions, scorers, library), options, "drawings")


def photos(library: Library, options: SuiteOptions) -> Suite:
    """Photographs of new combinations, judged by questions that follow from what was asked for."""
    num, judges = options.num or PROMPTS, question_judges(options, "fresh")
    items = photo_items(num, seed_of_date(options.date), library, options.size)
    return _dated(
        Suite(
            "fresh", "Fresh photographs", items, 1, judges,
            lambda items, judged: metrics_per_judge(judges, items, judged, question_metrics),
            source={"library": library.fingerprint},
            deviations=("A vision model judges: its errors are part of the numbers.",),
        ),
        options, "photos",
    )  # fmt: skip


def _dated(suite: Suite, options: SuiteOptions, kind: str) -> Suite:
    """The suite with its date, and the checksum by which anyone can tell that they made the same prompts."""
    prompts = json.dumps([[item.prompt, item.truth] for item in suite.items], sort_keys=True)
    made = {"date": options.date, "version": VERSION, "prompts": kind}
    return replace(
        suite,
        title=f"{suite.title} of {options.date}",
        source={**suite.source, "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest()},
        settings={**made, "size": options.size},
        warnings=(*suite.warnings, f"these prompts are for {options.date} alone: once seen, they are no longer fresh"),
    )


def photo_items(num: int, seed: int, library: Library, size: int | None = None) -> tuple[Item, ...]:
    """`num` photographs of one to three kinds of things, with counts, colours and places, and their questions."""
    found: list[Item] = []
    at = 0
    while len(found) < num:
        for question in held_out_questions(num, seed + at, library, "brief"):
            stated = photo_truth(question)
            if stated["objects"] and len(found) < num:
                things = ("one object", "two objects", "three or more objects")[min(len(stated["objects"]), 3) - 1]
                truth = {**stated, "questions": photo_questions(stated)}
                sides = None if size is None else (size, size)
                found.append(Item(f"{len(found):05d}", photo_prompt(stated), (things,), truth, sides))
        at += HELD_OUT_SEEDS
    return tuple(found)


def photo_truth(question: Question) -> dict[str, Any]:
    """What of a scene's truth a photograph can show: things that there are, and where they stand."""
    objects = [one for one in question.truth["objects"] if one["category"] in PHOTOGRAPHED]
    here = {one["id"] for one in objects}
    relations = [row for row in question.truth["relations"] if {row[0], row[2]} <= here and row[1] in PLACES]
    return {"objects": objects, "relations": relations[:1]}


def photo_prompt(truth: dict[str, Any]) -> str:
    """Such as "a photo of two red cars to the left of a duck"."""
    phrases = {one["id"]: thing_phrase(one) for one in truth["objects"]}
    related = [name for row in truth["relations"] for name in (row[0], row[2])]
    parts = [f"{phrases[a]} {PLACES[word]} {phrases[b]}" for a, word, b in truth["relations"]]
    parts += [phrase for name, phrase in phrases.items() if name not in related]
    listed = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    return f"a photo of {listed}"


def thing_phrase(stated: dict[str, Any]) -> str:
    """Such as "two red cars"."""
    color = "" if stated["color"] == "natural" else f"{stated['color']} "
    if stated["count"] == 1:
        return add_article(f"{color}{stated['concept']}")
    return f"{NUMBERS[stated['count']]} {color}{pluralize(stated['concept'])}"


def photo_questions(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether each thing is there, then its number, its colour and its place, which depend on it."""
    found: list[dict[str, Any]] = []

    def ask(question: str, category: str, *parents: str) -> str:
        found.append({"id": str(len(found) + 1), "question": question, "parents": list(parents), "category": category})
        return str(len(found))

    there = {}
    for one in truth["objects"]:
        many = pluralize(one["concept"])
        name = add_article(one["concept"])
        there[one["id"]] = ask(f"Is there {name} in the picture?", "object")
        if one["count"] > 1:
            ask(f"Are there exactly {NUMBERS[one['count']]} {many} in the picture?", "count", there[one["id"]])
        if one["color"] != "natural":
            shown = f"Is the {one['concept']}" if one["count"] == 1 else f"Are the {many}"
            ask(f"{shown} {one['color']}?", "color", there[one["id"]])
    concepts = {one["id"]: one["concept"] for one in truth["objects"]}
    for a, word, b in truth["relations"]:
        place = f"Is the {concepts[a]} {PLACES[word]} the {concepts[b]}?"
        ask(place, "position", there[a], there[b])
    return found
