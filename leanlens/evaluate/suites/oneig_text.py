"""Compares a transcript with the text that a prompt of OneIG-Bench asks for.

Source: OneIG-Bench/OneIG-Benchmark, scripts/text/text_score.py and text_utils.py.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable

import numpy as np

from leanlens.evaluate.judges.text import LETTERS, NO_TEXT, Measured
from leanlens.evaluate.suite import Item
from leanlens.score.edit_distance import edit_distance

CRITERIA = ("words", "exact")
COUNTS = ("edits", "exact", "images", "matched", "words")
LONGEST = {"en": 100, "zh": 50}  # edits that count in full
_DROPPED = re.compile(rf"[^{LETTERS}\s]")
_SPACE = re.compile(r"\s+")
_CHINESE = re.compile("[\u4e00-\u9fff]")


def cleaned(text: str) -> str:
    """Letters and digits with single spaces between words, or without spaces in a Chinese text. Case stays."""
    kept = _DROPPED.sub("", text)
    return _SPACE.sub("" if _CHINESE.search(kept) else " ", kept).strip()


def measure(transcript: str, item: Item) -> Measured:
    """Edits, equality and matched words of a transcript, as the official script has them and as they were meant.

    `truth["text"]` is the list of texts as the official table writes it. The script compares with that writing, where a
    line break is a backslash and an n, and the n then stays between two words; the counts that end in `_corrected` are
    of the texts themselves, and leave out the answer for no text in whatever form.
    """
    said = transcript.replace("addCriterion", "").replace("No text recognized.", "")
    official = _count(item.truth["text"], said)
    corrected = _count(" ".join(ast.literal_eval(item.truth["text"])), NO_TEXT.sub("", transcript))
    score = {"words": official["matched"] / official["words"], "exact": float(official["exact"])}
    return score, {**official, **{f"{name}_corrected": value for name, value in corrected.items()}}


def _count(wanted: str, said: str) -> dict[str, int]:
    wanted, said = cleaned(wanted), cleaned(said)
    edits = edit_distance(said, wanted)
    parts: Callable[[str], list[str]] = list if _CHINESE.search(wanted) else str.split
    there = Counter(parts(wanted))
    matched = (there & Counter(parts(said))).total()
    values = (edits, int(edits == 0), 1, matched, there.total())
    return dict(zip(COUNTS, values, strict=True))


def text_score(longest: int) -> Callable[[np.ndarray], np.ndarray]:
    """1 - min(longest, ED) / longest * (1 - CR) * (1 - WAC).

    ED is the mean number of edits, CR the share of exact images, WAC the share of matched words among all words.

    Args:
        longest: edits that count in full.

    Returns:
        The formula of a `Metric` whose sums (..., 5) are those of COUNTS.
    """

    def formula(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):  # nan where nothing was judged
            edits, exact = sums[..., 0] / sums[..., 2], sums[..., 1] / sums[..., 2]
            words = sums[..., 3] / sums[..., 4]
        return np.asarray(1 - np.minimum(longest, edits) * (1 - exact) * (1 - words) / longest)

    return formula
