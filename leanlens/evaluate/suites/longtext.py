"""LongText-Bench: how many words of several long texts an image shows.

160 prompts in English and 160 in Chinese, four images each. A vision model transcribes an image, and the words of the
transcript are compared with the wanted ones as bags: order does not matter, and further words cost nothing. The Text
Score is the share of matched words among the words of all images, so that long texts weigh more.

Source: X-Omni-Team/X-Omni, textbench/evaluate_text_reward.py and summary_scores.py.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from leanlens.evaluate.judges.text import LETTERS, NO_TEXT, Measured, counts_of
from leanlens.evaluate.metric import Metric, count_metric
from leanlens.evaluate.suite import Item, Judge, Suite
from leanlens.evaluate.suites.asking import Judged, metrics_per_judge, text_judges, warn_of_none
from leanlens.evaluate.suites.data import choose, describe_choice, describe_source, fetch_data, read_rows, with_size
from leanlens.evaluate.suites.options import SuiteOptions

FILES = {"en": "text_prompts.jsonl", "zh": "text_prompts_zh.jsonl"}
READER = "Qwen2.5-VL-7B-Instruct"  # the official one, in bfloat16, with at most 1,024 new tokens
CRITERIA = ("words", "words (corrected)")
_DROPPED = {"en": re.compile(rf"[^{LETTERS}\s]"), "zh": re.compile(rf"[^{LETTERS}]")}


def longtext(options: SuiteOptions) -> Suite:
    """The suite; `options.prompts` is "en", the default, or "zh".

    Raises:
        ValueError: another language, or a wrong file.
        DownloadError: the file could not be downloaded.
    """
    language = options.prompts or "en"
    if language not in FILES:
        raise ValueError(f"invalid prompts {language!r}: expected en or zh")
    path = fetch_data("longtext", options.data)[FILES[language]]
    everything = [_item(row, language) for row in read_rows(path)]
    items = with_size(choose(everything, options.num), options.size)
    judges = text_judges(options, CRITERIA, measure)
    return Suite(
        name="longtext",
        title="LongText-Bench" if language == "en" else "LongText-Bench, Chinese",
        items=items,
        images_per_prompt=4,
        judges=judges,
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        source=describe_source("longtext"),
        settings={"language": language},
        deviations=(*describe_choice(items, everything), *_deviations(judges)),
        warnings=warn_of_none("longtext", judges, ocr=True),
    )


def _item(row: dict[str, Any], language: str) -> Item:
    truth = {"text": row["text"], "language": language}
    return Item(f"{row['prompt_id']:04d}", row["prompt"], (row["category"], row["length"]), truth)


def _deviations(judges: Sequence[Judge]) -> tuple[str, ...]:
    reader = judges[0].name if judges else "nothing"
    return (
        *((f"Text is read by {reader} and not by {READER}.",) if reader != READER else ()),
        "The vision model is asked for a transcript in other words than the official ones.",
        "The official cleaner leaves a leaked token, and the answer for no text without its full stop, in the "
        "transcript, where their words can match; the corrected score removes them.",
        "An image that is missing or cannot be read is counted as failed; the official script leaves it out.",
    )


def words_of(text: str, language: str) -> list[str]:
    """The words of an English text in lower case, or the characters of a Chinese one, without punctuation.

    Letters that the official script does not list, such as ñ, are dropped like punctuation.
    """
    kept = _DROPPED[language].sub("", text)
    return kept.lower().split() if language == "en" else list(kept)


def measure(text: str, item: Item) -> Measured:
    """The share of wanted words that a transcript has, cleaned as in the official script and as it was meant.

    Raises:
        ValueError: the item asks for no words.
    """
    language = item.truth["language"]
    wanted = Counter(words_of(" ".join(item.truth["text"]), language))
    if not wanted:
        raise ValueError(f"item {item.id} asks for no words")
    cleaned = text.replace("No text recognized.", ""), NO_TEXT.sub("", text)
    official, corrected = ((wanted & Counter(words_of(one, language))).total() for one in cleaned)
    score = dict(zip(CRITERIA, (official / wanted.total(), corrected / wanted.total()), strict=True))
    return score, {"matched": official, "matched_corrected": corrected, "words": wanted.total()}


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """The Text Score with the official cleaner, and with the one that was meant."""
    return [
        count_metric("text score", counts_of(judged, ("matched", "words"))),
        count_metric("text score, corrected", counts_of(judged, ("matched_corrected", "words"))),
    ]
