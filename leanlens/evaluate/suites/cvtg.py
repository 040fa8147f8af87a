"""CVTG-2K: how many words an image shows of texts in two to five places.

2,000 prompts, half of them with colours, sizes and fonts, one image each. A recogniser reads the image, and each word
in quotation marks of the prompt is looked for among the words that it found: equal, or how near the nearest one is.
CLIPScore, VQAScore and the aesthetic score of the official script are left out.

The authors publish the prompts without a licence and in no repository, so they are not downloaded: `options.data` is
the unpacked CVTG-2K.zip, with the folders `CVTG` and `CVTG-style` and in each the files `2.json` to `5.json`, or
`2_combined.json` to `5_combined.json`: `{"data_list": [{"index": 0, "prompt": "..."}]}`.

Source: unified_metrics_eval.py of the TextCrafter authors.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leanlens.evaluate.judges.text import NO_TEXT, OCR, Measured, counts_of
from leanlens.evaluate.metric import Counts, Metric, count_metric
from leanlens.evaluate.suite import Item, Judge, Suite
from leanlens.evaluate.suites.asking import Judged, metrics_per_judge, text_judges, warn_of_none
from leanlens.evaluate.suites.data import choose, with_size
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.files import read_json, sha256
from leanlens.score.edit_distance import edit_distance

FOLDERS = ("CVTG", "CVTG-style")
REGIONS = (2, 3, 4, 5)
PROMPTS = 2000
CRITERIA = ("words", "likeness")
SMALL = 1e-5  # added to the longer length, as in the official script
_QUOTED = re.compile(r"'(.*?)'")


def cvtg(options: SuiteOptions) -> Suite:
    """The suite.

    Raises:
        ValueError: no folder is given, it has none of the files, or one has another form.
    """
    if options.data is None:
        raise ValueError(
            "cvtg needs a folder with the files of CVTG-2K.zip, which its authors publish: give it with --data"
        )
    files = _find_files(options.data)
    everything = [item for where, path in files.items() for item in _read_items(path, *where)]
    items = with_size(choose(everything, options.num), options.size)
    judges = text_judges(options, CRITERIA, measure)
    judges = (
        (*judges[-1:], *judges[:-1]) if judges and judges[-1].name == OCR else judges
    )  # the official one is a recogniser too
    return Suite(
        name="cvtg",
        title="CVTG-2K",
        items=items,
        images_per_prompt=1,
        judges=judges,
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        source={"files": {f"{path.parent.name}/{path.name}": {"sha256": sha256(path)} for path in files.values()}},
        deviations=_deviations(judges, len(items)),
        warnings=warn_of_none("cvtg", judges, ocr=True),
    )


def _find_files(folder: Path) -> dict[tuple[str, int], Path]:
    """(folder, number of texts) -> its file, for those that are there."""
    there = {path.name.casefold(): path for path in folder.iterdir()} if folder.is_dir() else {}
    found: dict[tuple[str, int], Path] = {}
    for name in FOLDERS:
        for regions in REGIONS:
            for file in (f"{regions}.json", f"{regions}_combined.json"):
                path = there.get(name.casefold(), folder / name) / file
                if path.is_file():
                    found.setdefault((name, regions), path)
    if not found:
        raise ValueError(f"{folder} has no file such as CVTG/2.json; give the folder of the unpacked CVTG-2K.zip")
    return found


def _read_items(path: Path, folder: str, regions: int) -> Iterator[Item]:
    table = read_json(path)
    rows = table.get("data_list") if isinstance(table, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'{path} has no prompts; expected {{"data_list": [{{"index": 0, "prompt": "..."}}]}}')
    for number, row in enumerate(rows):
        yield _item(row, f"{path} entry {number}", folder, regions, number)


def _item(row: Any, what: str, folder: str, regions: int, number: int) -> Item:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    texts = _QUOTED.findall(prompt) if isinstance(prompt, str) else []
    if not isinstance(prompt, str) or not any(text.split() for text in texts):
        raise ValueError(f"{what} has no prompt with words in single quotation marks")
    index = row.get("index", number)
    return Item(f"{folder}-{regions}-{index}", prompt, (f"{regions} regions", folder), {"text": texts})


def _deviations(judges: Sequence[Judge], num: int) -> tuple[str, ...]:
    reader = judges[0].name if judges else "nothing"
    return (
        f"Text is read by {reader}; the official reader is PaddleOCR 2.10.0 with its English models, which the paper "
        "does not name.",
        "CLIPScore, VQAScore and the aesthetic score are left out.",
        "Case is ignored, punctuation is kept, and a word that is wanted twice matches one word twice, as in the "
        "official script.",
        "An image that is missing or cannot be read is counted as failed; the official script counts it as 0.",
        *((f"{num} of {PROMPTS:,} prompts.",) if num != PROMPTS else ()),
    )


def measure(text: str, item: Item) -> Measured:
    """The share of wanted words that a transcript has, and the mean likeness of each to the nearest word there."""
    wanted = [word for one in item.truth["text"] for word in one.lower().split()]
    there = NO_TEXT.sub("", text).lower().split() or [""]
    found, likeness = sum(word in there for word in wanted), sum(_likeness(word, there) for word in wanted)
    score = dict(zip(CRITERIA, (found / len(wanted), likeness / len(wanted)), strict=True))
    return score, {"words": len(wanted), "found": found, "likeness": round(likeness, 9)}


def _likeness(word: str, there: Sequence[str]) -> float:
    """1 - edits / longer length, with the word that difflib calls nearest."""
    (nearest,) = difflib.get_close_matches(word, there, n=1, cutoff=0.0)
    return 1 - edit_distance(word, nearest) / (max(len(word), len(nearest)) + SMALL)


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """Word accuracy and NED over all words, and over those of the prompts with two, three, four and five texts."""
    found = []
    for title, count in (("word accuracy", "found"), ("NED", "likeness")):
        counts = counts_of(judged, (count, "words"))
        found += [count_metric(title, counts), *_by_regions(title, items, counts)]
    return found


def _by_regions(title: str, items: Sequence[Item], counts: Counts) -> list[Metric]:
    groups = dict.fromkeys(item.categories[0] for item in items)
    return [
        count_metric(
            f"{title}, {group}",
            [row if item.categories[0] == group else [] for row, item in zip(counts, items, strict=True)],
        )
        for group in groups
    ]
