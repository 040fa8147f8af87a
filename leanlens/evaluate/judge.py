"""Judges the images of an evaluation, and keeps every judgement by the content of image, question and judge."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.evaluate.draw import KeptImage
from leanlens.evaluate.judges.answered import question_failures
from leanlens.evaluate.suite import Item, Judge, Judgement
from leanlens.score.protocol import Failed, score_as_json, score_from_json
from leanlens.store import Store, content_key

TOGETHER = 32  # images judged at once


def judge_images(
    judge: Judge,
    items: Sequence[Item],
    images: Sequence[Sequence[KeptImage]],
    store: Store,
    say: Callable[[str], None] = lambda text: None,
    retry: bool = True,
) -> list[list[Judgement]]:
    """The judgements of each item's images, from the store or newly made.

    Args:
        images: one list for each item, one image for each seed.
        store: where judgements are kept.
        say: told of progress.
        retry: judge again where a kept judgement failed.
    """
    flat = [(item, image) for item, row in zip(items, images, strict=True) for image in row]
    found: list[Judgement] = []
    for start in range(0, len(flat), TOGETHER):
        found += _judge_some(judge, flat[start : start + TOGETHER], store, retry)
        say(f"{judge.name}: judged {len(found)} of {len(flat)}")
    left = iter(found)
    return [[next(left) for _ in row] for row in images]


def _judge_some(judge: Judge, pairs: Sequence[tuple[Item, KeptImage]], store: Store, retry: bool) -> list[Judgement]:
    """Judgements of up to TOGETHER images; what the store lacks is judged in one call."""
    identity = judge.identity()
    found: dict[int, Judgement] = {}
    asked: list[tuple[int, Image.Image, Item, str]] = []
    for index, (item, image) in enumerate(pairs):
        if image.path is None:
            found[index] = failed_judgement(judge, f"not drawn: {image.failed}")
            continue
        picture = image.open()
        key = judgement_key(judge.name, identity, picture, item)
        kept = read_judgement(store, key, judge.criteria)
        if kept is not None and not (retry and has_failed(kept)):
            found[index] = kept
        else:
            asked.append((index, picture, item, key))
    if asked:
        made = judge([picture for _, picture, _, _ in asked], [item for _, _, item, _ in asked])
        for (index, _, _, key), judgement in zip(asked, made, strict=True):
            found[index] = _with_finite_score(judgement)
            store.save_json(key, {"score": score_as_json(found[index].score), "raw": judgement.raw})
    return [found[index] for index in range(len(pairs))]


def _with_finite_score(judgement: Judgement) -> Judgement:
    """The judgement, in which a value that is no number, such as nan, is a failure."""
    return replace(judgement, score={name: _finite(value) for name, value in judgement.score.items()})


def _finite(value: float | Failed | None) -> float | Failed | None:
    if value is None or isinstance(value, Failed):
        return value
    return float(value) if math.isfinite(value) else Failed(f"the score is {float(value)}")


def failed_judgement(judge: Judge, reason: str) -> Judgement:
    """A judgement that failed in every criterion."""
    return Judgement(dict.fromkeys(judge.criteria, Failed(reason)))


def has_failed(judgement: Judgement) -> bool:
    """Whether a criterion, or one of the questions behind it, failed."""
    return question_failures([judgement]).failed > 0


def judgement_key(name: str, identity: dict[str, Any], picture: Image.Image, item: Item) -> str:
    """A key of everything that decides a judgement. The image counts by its pixels, not by its file."""
    pixels = hashlib.sha256(picture.tobytes()).hexdigest()
    return content_key(
        judge=name, identity=identity, pixels=pixels, size=picture.size, prompt=item.prompt, truth=item.truth
    )


def read_judgement(store: Store, key: str, criteria: Sequence[str]) -> Judgement | None:
    """The kept judgement; None where there is none, or it is damaged or lacks one of the criteria."""
    kept = store.load_json(key)
    if not isinstance(kept, dict) or not {"score", "raw"} <= kept.keys() or not isinstance(kept["score"], dict):
        return None
    values = [kept["score"].get(name, "") for name in criteria]
    if not all(_is_value(value) for value in values) or not _counts(kept["raw"]):
        return None
    return Judgement(score_from_json(kept["score"]), kept["raw"])


def _is_value(value: Any) -> bool:
    """Whether this is a value of a score as JSON."""
    return value is None or isinstance(value, int | float) or (isinstance(value, dict) and "failed" in value)


def _counts(raw: Any) -> bool:
    """Whether what is said of questions, if anything is, can be counted."""
    if not isinstance(raw, dict) or not {"num", "failed"} <= raw.keys():
        return True
    return isinstance(raw["num"], int) and isinstance(raw["failed"], dict)


def forget_judgements(judges: Sequence[Judge], item: Item, images: Sequence[KeptImage], store: Store) -> int:
    """Remove the kept judgements of an item's images, so that they are judged again; returns how many there were."""
    gone = 0
    for image in images:
        for judge in judges if image.path is not None else ():
            path: Path = store.path(judgement_key(judge.name, judge.identity(), image.open(), item), ".json")
            gone += path.is_file()
            path.unlink(missing_ok=True)
    return gone
