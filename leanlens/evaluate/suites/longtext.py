"""LongText-Bench: how many words of several long texts an image shows.

160 prompts in English and 160 in Chinese, four images each. A vision model transcribes an image, and the words of the
transcript are compared with the wanted ones as bags: order does not matter, and further words cost nothing. The Text
Score is the share of matched words among the words of all images, so that long texts weigh more.

Source: X-Omni-Team/X-Omni, textbench/evaluate_text_reward.py and summary_scores.py.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from leanlens.evaluate.judges.text import NO_TEXT, Measured, TextJudge, counts_of, text_judges
from leanlens.evaluate.metric import Metric, count_metric
from leanlens.evaluate.suite import Item, Judgement, Suite
from leanlens.evaluate.suites.data import choose, describe_source, fetch_data, with_size
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.files import read_text

FILES = {"en": "text_prompts.jsonl", "zh": "text_prompts_zh.jsonl"}
READER = "Qwen2.5-VL-7B-Instruct"  # the official one, in bfloat16, with at most 1,024 new tokens
CRITERIA = ("words", "words (corrected)")
_KEPT = "\u4e00-\u9fa5a-zA-Z0-9àâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ"
_DROPPED = {"en": re.compile(rf"[^{_KEPT}\s]"), "zh": re.compile(rf"[^{_KEPT}]")}


def longtext(options: SuiteOptions) -> Suite:
    """The suite; `options.prompts` is "en", the default, or "zh".

    Raises:
        ValueError: another language, a wrong file, or nothing that can read text.
    """
    language = options.prompts or "en"
    if language not in FILES:
        raise ValueError(f"invalid prompts {language!r}: expected en or zh")
    path = fetch_data("longtext", options.data)[FILES[language]]
    rows = [json.loads(line) for line in read_text(path).split("\n") if line.strip()]
    everything = [_item(row, language) for row in rows]
    items = with_size(choose(everything, options.num), options.size)
    judges = text_judges(options.endpoints, options.answers, CRITERIA, measure)
    return Suite(
        "longtext",
        "LongText-Bench" if language == "en" else "LongText-Bench (Chinese)",
        items,
        images_per_prompt=4,
        judges=judges,
        metrics=partial(_metrics, [judge.name for judge in judges]),
        source=describe_source("longtext"),
        settings={"language": language},
        deviations=_deviations(judges, len(items), len(everything)),
    )


def _item(row: dict[str, Any], language: str) -> Item:
    truth = {"text": row["text"], "language": language}
    return Item(f"{row['prompt_id']:04d}", row["prompt"], (row["category"], row["length"]), truth)


def _deviations(judges: Sequence[TextJudge], num: int, total: int) -> tuple[str, ...]:
    reader = judges[0].name
    return (
        *((f"Text is read by {reader} and not by {READER}.",) if reader != READER else ()),
        "The vision model is asked for a transcript in other words than the official ones.",
        "The official cleaner leaves a leaked token, and the answer for no text without its full stop, in the "
        "transcript, where their words can match; the corrected score removes them.",
        "An image that is missing or cannot be read is counted as failed; the official script leaves it out.",
        *((f"{num} of {total} prompts.",) if num < total else ()),
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


def _metrics(names: Sequence[str], items: Sequence[Item], judged: Sequence[dict[str, list[Judgement]]]) -> list[Metric]:
    found = []
    for name in names:
        reader = "" if name == names[0] else f" by {name}"
        for label, matched in (("", "matched"), (", corrected", "matched_corrected")):
            found.append(count_metric(f"text score{label}{reader}", counts_of(judged, name, (matched, "words"))))
    return found
