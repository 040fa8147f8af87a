"""Transcribes the text in images by a recogniser or a vision model, and compares each transcript with the wanted text.

Nothing here decides what counts as equal: each suite brings its own measure, as its official script has it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from leanlens.endpoint import Endpoint, Question, ask_all
from leanlens.evaluate.judges.blind import blind_png
from leanlens.evaluate.metric import Counts
from leanlens.evaluate.suite import Item, Judgement
from leanlens.install import install_extra
from leanlens.score.ocr import read_texts, recogniser_identity
from leanlens.score.protocol import Failed

FORMAT = 1  # of the request and of how a transcript is read
INSTRUCTION = (
    "Transcribe the text that this image shows. Answer with the transcript alone, and write what occurs several times "
    "only once. If there is no text in the image, answer: No text recognized"
)
# The answer for no text, and a token that Qwen2.5-VL leaks.
NO_TEXT = re.compile(r"addCriterion|No text recognized\.?", re.IGNORECASE)
LETTERS = "\u4e00-\u9fa5a-zA-Z0-9àâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ"
"""A class of a regular expression: the characters that LongText-Bench and OneIG-Bench compare."""
MOST_TOKENS = 1024  # of a transcript
OCR = "rapidocr"


class TextReader(Protocol):
    """Transcribes images."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides a transcript besides the image, as JSON values."""
        ...

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[str | Failed]:
        """The transcript of each image, "" where it shows no text."""
        ...


class Recogniser:
    """Reads by RapidOCR, from top to bottom, one line for each string that it finds; always the same for an image.

    Raises:
        ValueError: the extra `ocr` is not installed.
    """

    def __init__(self) -> None:
        found = recogniser_identity()
        if found is None:
            raise ValueError(f"text cannot be read without a recogniser: {install_extra('ocr')}")
        self._identity = found

    def identity(self) -> dict[str, Any]:
        return {"reader": OCR, **self._identity}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[str | Failed]:
        return [_recognise(image) for image in images]


def _recognise(image: Image.Image) -> str | Failed:
    try:
        return "\n".join(read_texts(image) or [])
    except Exception as error:  # whatever OpenCV or onnxruntime makes of one image must not end the run
        return Failed(f"{OCR}: {type(error).__name__}: {error}"[:200])


@dataclass(frozen=True)
class VisionModel:
    """Reads by a vision model behind an endpoint, which guesses words that a recogniser cannot make out.

    Attributes:
        answers: folder where transcripts are kept; none are without it.
        max_tokens: of a transcript; an item with `truth["max_tokens"]` has its own. A transcript that is cut off there
            is taken as it is.
    """

    endpoint: Endpoint
    answers: Path | None = None
    max_tokens: int = MOST_TOKENS

    def identity(self) -> dict[str, Any]:
        return {
            "reader": "endpoint",
            "url": self.endpoint.url.rstrip("/"),
            "model": self.endpoint.model,
            "instruction": INSTRUCTION,
            "max_tokens": self.max_tokens,
        }

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[str | Failed]:
        questions = [
            Question(INSTRUCTION, images=(blind_png(image),), max_tokens=item.truth.get("max_tokens", self.max_tokens))
            for image, item in zip(images, items, strict=True)
        ]
        answers = ask_all(self.endpoint, questions, self.answers)
        return [Failed(f"{one.failure}: {one.detail}") if one.failure else one.text for one in answers]


Measured = tuple[Mapping[str, float], Mapping[str, Any]]
"""The score of a transcript, and the counts that it comes from as JSON values, which a suite's metrics add up."""


@dataclass
class TextJudge:
    """Compares the transcript of an image with the text of its item.

    Attributes:
        criteria: the keys of the scores that `measure` gives.
        measure: transcript and item -> `Measured`.

    An item without `truth["text"]` asks for no text: its image is not read, and no criterion applies to it.
    """

    name: str
    read: TextReader
    criteria: tuple[str, ...]
    measure: Callable[[str, Item], Measured]

    def identity(self) -> dict[str, Any]:
        return {"kind": "text", "format": FORMAT, **self.read.identity()}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        if len(images) != len(items):
            raise ValueError(f"images has {len(images)} entries for {len(items)} items: expected one per item")
        asked = [index for index, item in enumerate(items) if "text" in item.truth]
        texts = self.read([images[index] for index in asked], [items[index] for index in asked])
        found = [Judgement(dict.fromkeys(self.criteria))] * len(items)
        for index, text in zip(asked, texts, strict=True):
            found[index] = self._judge(text, items[index])
        return found

    def _judge(self, text: str | Failed, item: Item) -> Judgement:
        if isinstance(text, Failed):
            return Judgement(dict.fromkeys(self.criteria, text))
        score, counts = self.measure(text, item)
        return Judgement(dict(score), {"text": text, **counts})


def counts_of(rows: Sequence[Sequence[Judgement]], names: Sequence[str]) -> Counts:
    """The named counts of each image that a `TextJudge` read, in the form that `count_metric` adds up."""
    return [[_counts(judgement, names) for judgement in row] for row in rows]


def _counts(judgement: Judgement, names: Sequence[str]) -> tuple[float, ...] | Failed | None:
    for value in judgement.score.values():
        if isinstance(value, Failed):
            return value
    return None if judgement.raw is None else tuple(float(judgement.raw[name]) for name in names)
