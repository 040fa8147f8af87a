"""OneIG-Bench: alignment by questions and text by transcripts; reasoning and style by a scorer that the user brings.

1,120 prompts in English and 1,320 in Chinese, four images each. Its repository states no licence, so it is not
downloaded: `options.data` is the user's clone of it. Diversity compares the images of a prompt with one another, which
no judge here does, so neither it nor the mean of all five numbers is given; diversity also rewards models that do not
follow the prompt, and would have to stand apart.

Source: OneIG-Bench/OneIG-Benchmark, scripts/alignment/alignment_score.py, scripts/text/text_score.py.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from leanlens.evaluate.judges.answered import question_metric
from leanlens.evaluate.judges.process import ProcessJudge
from leanlens.evaluate.judges.questions import CRITERION, PARENT
from leanlens.evaluate.judges.text import OCR, counts_of
from leanlens.evaluate.metric import Metric, count_metric, mean_metric, ratio
from leanlens.evaluate.scorers.installed import scorer_command
from leanlens.evaluate.suite import Item, Judge, Judgement, Suite
from leanlens.evaluate.suites.asking import Judged, metrics_per_judge, question_judges, text_judges, warn_of_none
from leanlens.evaluate.suites.data import SOURCES, choose, describe_choice, describe_source, fetch_data, with_size
from leanlens.evaluate.suites.oneig_text import COUNTS, CRITERIA, LONGEST, measure, text_score
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.files import read_json, read_text

FOLDERS = {
    "Anime_Stylization": "anime",
    "Portrait": "human",
    "General_Object": "object",
    "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning",
    "Multilingualism": "multilingualism",
}
ALIGNED = ("anime", "human", "object", "multilingualism")
SCORED = {"reasoning": "answer", "style": "style"}  # criterion of a scorer -> what it needs in the truth
MANY_WORDS, FEW_TOKENS, MANY_TOKENS = 60, 128, 256  # of a text, and of its transcript


def oneig(options: SuiteOptions) -> Suite:
    """The suite; `options.prompts` is "en", the default, or "zh"; `options.scorer` may score "reasoning" and "style".

    A truth has `questions`, `text`, `answer` or `style`, whatever the prompt is judged by. Prompts of reasoning are
    left out without a scorer.

    Raises:
        ValueError: no folder, another language, a file that is not that of the pinned commit, or a scorer that does not
            start or has neither criterion.
    """
    language = options.prompts or "en"
    if language not in LONGEST:
        raise ValueError(f"invalid prompts {language!r}: expected en or zh")
    if options.data is None:
        source = SOURCES["oneig"]
        raise ValueError(
            f"oneig needs a clone of the repository {source.repository} at {source.commit[:7]}, which states no "
            "licence: give its folder with --data"
        )
    files = fetch_data("oneig", options.data)
    scorer = _scorer(options.scorer)
    everything = tuple(read_prompts(files, language, with_reasoning=scorer is not None))
    items = with_size(choose(everything, options.num), options.size)
    judges = (*_judges(options), *((scorer,) if scorer else ()))
    return Suite(
        name="oneig",
        title="OneIG-Bench" if language == "en" else "OneIG-Bench, Chinese",
        items=items,
        images_per_prompt=4,
        judges=judges,
        metrics=lambda items, judged: _metrics(judges, LONGEST[language], items, judged),
        source=describe_source("oneig"),
        settings={"language": language},
        deviations=(*describe_choice(items, everything), *_deviations(judges)),
        warnings=warn_of_none("oneig", judges, scorer=True, ocr=True),
    )


class PartJudge:
    """Hands a judge the items that have something for it; no criterion applies to the images of the others.

    Args:
        keys: of a truth, one of which an item needs.
        finish: judgement and item -> the judgement as this suite has it.
    """

    def __init__(
        self,
        judge: Judge,
        name: str,
        keys: Sequence[str],
        finish: Callable[[Judgement, Item], Judgement] = lambda judgement, item: judgement,
    ):
        self.judge, self.name, self.keys, self.finish = judge, name, tuple(keys), finish
        self.criteria: tuple[str, ...] = judge.criteria

    def identity(self) -> dict[str, Any]:
        """See `Judge`."""
        return {"kind": "oneig", "format": 1, "of": list(self.keys), "judge": self.judge.identity()}

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        """See `Judge`."""
        if len(images) != len(items):
            raise ValueError(f"items has {len(items)} entries for {len(images)} images: expected one per image")
        mine = [index for index, item in enumerate(items) if any(key in item.truth for key in self.keys)]
        found = [Judgement(dict.fromkeys(self.criteria))] * len(items)
        judged = self.judge([images[index] for index in mine], [items[index] for index in mine])
        for index, judgement in zip(mine, judged, strict=True):
            found[index] = self.finish(judgement, items[index])
        return found


def _judges(options: SuiteOptions) -> tuple[PartJudge, ...]:
    """One judge of alignment and one of text for each endpoint, and one of text by the recogniser."""
    asked = question_judges(options, "oneig", zero_dependents=False) if options.endpoints else ()
    reading = text_judges(options, CRITERIA, measure)
    return (
        *(PartJudge(judge, judge.name, ["questions"], zero_by_parents) for judge in asked),
        *(
            PartJudge(judge, judge.name if judge.name == OCR else f"{judge.name} as reader", ["text"])
            for judge in reading
        ),
    )


def _scorer(command: str | None) -> PartJudge | None:
    if not command:
        return None
    judge = ProcessJudge(scorer_command(command))
    keys = [SCORED[name] for name in judge.criteria if name in SCORED]
    if not keys:
        judge.close()
        raise ValueError(f"invalid scorer {command!r}: expected one with the criteria {' or '.join(SCORED)}")
    return PartJudge(judge, judge.name, keys, _only_what_applies)


def _only_what_applies(judgement: Judgement, item: Item) -> Judgement:
    score = {name: value if SCORED.get(name) in item.truth else None for name, value in judgement.score.items()}
    return replace(judgement, score=score)


def zero_by_parents(judgement: Judgement, item: Item) -> Judgement:
    """A judgement of questions where one with a parent that was answered no is not met.

    The official script looks at the answers of the parents alone: a question whose parent was zeroed, but answered yes,
    keeps its own answer. A question that failed, or has a parent that did, is left out and counted.
    """
    if not isinstance(judgement.raw, dict):
        return judgement
    answers, failed = judgement.raw["answers"], dict(judgement.raw["failed"])
    parents = {row["id"]: row["parents"] for row in item.truth["questions"]}
    for name, above in parents.items():
        if name not in failed and any(isinstance(answers[parent], dict) for parent in above):
            failed[name] = PARENT
    values = {
        name: float(answers[name] == "yes" and all(answers[parent] == "yes" for parent in above))
        for name, above in parents.items()
        if name not in failed
    }
    met = {name: value > 0 for name, value in values.items()}
    share = sum(values.values()) / len(values) if values else judgement.score[CRITERION]
    return Judgement({CRITERION: share}, {**judgement.raw, "values": values, "met": met, "failed": failed})


def read_prompts(files: Mapping[str, Path], language: str, with_reasoning: bool = True) -> Iterator[Item]:
    """The prompts, each with what it is judged by. An id is the folder of the official images and the number there.

    Args:
        files: path in the repository -> file.
        language: "en" or "zh".
    """
    ending = "" if language == "en" else "_zh"
    questions = {
        folder: read_json(files[f"scripts/alignment/Q_D/{folder}{ending}.json"])
        for folder in ALIGNED
        if f"scripts/alignment/Q_D/{folder}{ending}.json" in files
    }
    texts = {row["id"]: row["text_content"] for row in _rows(files[f"scripts/text/text_content{ending}.csv"])}
    answers = read_json(files[f"scripts/reasoning/gt_answer{ending}.json"])
    styles = {row["id"]: row["class"] for row in _rows(files["scripts/style/style.csv"])}
    for row in _rows(files["OneIG-Bench.csv" if language == "en" else "OneIG-Bench-ZH.csv"]):
        folder, number = FOLDERS[row["category"]], row["id"]
        truth: dict[str, Any] = {}
        if folder in questions:
            truth["questions"] = questions_of(questions[folder][number])
        if folder == "text":
            many = len(texts[number].split()) > MANY_WORDS
            truth |= {"text": texts[number], "max_tokens": MANY_TOKENS if many else FEW_TOKENS}
        if folder == "anime" and styles.get(number):
            truth["style"] = styles[number]
        if folder == "reasoning":
            truth["answer"] = answers[number]
        if folder != "reasoning" or with_reasoning:
            prompt = row["prompt_en" if language == "en" else "prompt_cn"]
            yield Item(f"{folder}-{number}", prompt, (folder, *([row["class"]] if row["class"] else [])), truth)


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_text(path), newline="")))


def questions_of(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An entry of the files of questions, whose two tables are JSON within JSON, in the form of `read_questions`."""
    asked, above = (
        json.loads(table) if isinstance(table, str) else table for table in (entry["question"], entry["dependency"])
    )
    return [
        {"id": name, "question": question, "parents": [str(one) for one in above.get(name, []) if one != 0]}
        for name, question in asked.items()
    ]


def _metrics(
    judges: Sequence[PartJudge], longest: int, items: Sequence[Item], judged: Sequence[dict[str, list[Judgement]]]
) -> list[Metric]:
    """Alignment, text, and what a scorer gives, each of every judge that has it."""
    found = []
    for keys, of in ((("questions",), _alignment), (("text",), _text(longest)), (tuple(SCORED.values()), _scored)):
        having = [judge for judge in judges if set(keys) & set(judge.keys)]
        found += metrics_per_judge(having, items, judged, of)
    return found


def _with(key: str, items: Sequence[Item], judged: Judged) -> Judged:
    """The judgements of the items that have something in the truth; none of the others, also where images failed."""
    return [row if key in item.truth else [] for item, row in zip(items, judged, strict=True)]


def _alignment(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    plain = [item if "questions" in item.truth else replace(item, truth={"questions": []}) for item in items]
    return [question_metric("alignment", plain, judged)]


def _text(longest: int) -> Callable[[Judge, Sequence[Item], Judged], list[Metric]]:
    def metrics(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
        read = _with("text", items, judged)
        counts = counts_of(read, COUNTS)
        corrected = counts_of(read, [f"{name}_corrected" for name in COUNTS])
        formula = text_score(longest)
        return [
            count_metric("text", counts, formula, len(COUNTS)),
            count_metric("text, corrected", corrected, formula, len(COUNTS)),
            count_metric("ED (fewer is better)", counts_of(read, ("edits", "images")), ratio, unit=""),
            count_metric("CR", counts_of(read, ("exact", "images"))),
            count_metric("WAC", counts_of(read, ("matched", "words"))),
        ]

    return metrics


def _scored(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    names = [name for name in judge.criteria if name in SCORED]
    return [
        mean_metric(
            f"{name} score", [[one.score.get(name) for one in row] for row in _with(SCORED[name], items, judged)]
        )
        for name in names
    ]


def _deviations(judges: Sequence[PartJudge]) -> tuple[str, ...]:
    keys = {key for judge in judges for key in judge.keys}
    given = {"questions": "alignment", "text": "text", "answer": "reasoning", "style": "style"}
    missing = [name for key, name in given.items() if key not in keys]
    names = ", ".join(judge.name for judge in judges) or "nothing"
    return (
        f"Judged by {names}; the official judge of alignment and text is Qwen2.5-VL-7B-Instruct, those of reasoning, "
        "style and diversity are LLM2CLIP, CSD with the OneIG style encoder, and DreamSim.",
        f"Left out: {', '.join([*missing, 'diversity'])}, and so the mean of the five numbers.",
        "Each image is judged by itself as PNG; the official script cuts four out of one WebP and writes JPEG.",
        "Questions and the wish for a transcript are put in other words than the official ones. An answer that is "
        "neither yes nor no counts as failed, and not as no.",
        "The official script compares with the texts as its table writes them, where a line break leaves an n between "
        "two words; the corrected score compares with the texts.",
    )
