"""A file of one's own prompts.

`.txt` has a prompt on each line, as `leanlens generate --prompts` reads it. `.jsonl` has an object on each line:
`prompt`, and where wanted `questions` (strings, or objects with `question` and `id`, `parents`, `expected`,
`category`), `categories` (strings) and `size` (pixels of a side, or width and height). Lines with a `truth` are judged
exactly, by the suite `scenes`.

Endpoints are asked the questions, or for a prompt without any whether the image shows everything that it states. A
scorer such as HPSv3 may judge beside them or in their place. Without either nothing is judged, and the images are for a
look and for votes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leanlens.evaluate.judges.questions import CRITERION, read_questions
from leanlens.evaluate.metric import Metric
from leanlens.evaluate.suite import Item, Judge, Suite
from leanlens.evaluate.suites.asking import (
    Judged,
    general_question,
    metrics_per_judge,
    question_judges,
    question_metrics,
    scorer_judges,
    scorer_metrics,
    warn_of_none,
)
from leanlens.evaluate.suites.data import choose, describe_choice, with_size
from leanlens.evaluate.suites.options import SuiteOptions
from leanlens.evaluate.suites.scenes import scenes
from leanlens.files import parse_json, read_text, sha256
from leanlens.pipeline.request import MAX_PROMPT_CHARACTERS

LARGEST = 16_384  # pixels of a side
FIELDS = ("prompt", "questions", "categories", "size")
QUESTION_FIELDS = ("question", "id", "parents", "expected", "category")


def own(options: SuiteOptions) -> Suite:
    """The suite of the file `options.prompts`.

    Raises:
        ValueError: no file is named, it is neither `.txt` nor `.jsonl`, or a line is invalid; the message names both.
    """
    if not options.prompts:
        raise ValueError("own needs a file of prompts: name a .txt or .jsonl file with --prompts")
    path = Path(options.prompts)
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise ValueError(f"invalid prompts {options.prompts!r}: expected a file that ends in .txt or .jsonl")
    rows = read_lines(path)
    if any("truth" in row for _, row in rows):
        return scenes(options) if options.size else _of_any_size(scenes(options))
    everything = [item_of(row, what, index) for index, (what, row) in enumerate(rows)]
    items = with_size(choose(everything, options.num), options.size)
    judges: tuple[Judge, ...] = (
        *(question_judges(options, "own") if options.endpoints else ()),
        *scorer_judges(options),
    )
    return Suite(
        name="own",
        title=f"Prompts of {path.name}",
        items=items,
        images_per_prompt=1,
        judges=judges,
        metrics=lambda items, judged: metrics_per_judge(judges, items, judged, metrics_of),
        warnings=warn_of_none("own", judges, scorer=True),
        source={"prompts_sha256": sha256(path)},
        deviations=describe_choice(items, everything),
    )


def _of_any_size(suite: Suite) -> Suite:
    """The suite with images of each model's own size."""
    items, control = (tuple(replace(item, size=None) for item in some) for some in (suite.items, suite.control))
    return replace(suite, items=items, control=control, settings={**suite.settings, "size": None})


def metrics_of(judge: Judge, items: Sequence[Item], judged: Judged) -> list[Metric]:
    """The shares of questions that are met, or the mean score of another scorer."""
    return question_metrics(judge, items, judged) if CRITERION in judge.criteria else scorer_metrics(judge, judged)


def read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a file that are not blank: where each stands, and its object.

    Raises:
        ValueError: it cannot be read, holds nothing, or a line of `.jsonl` is no object.
    """
    is_text, found = path.suffix.lower() == ".txt", []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        what = f"{path} line {number}"
        if line.strip():
            row = {"prompt": line.strip()} if is_text else parse_json(line, what)
            if not isinstance(row, dict):
                raise ValueError(f"{what} is a {type(row).__name__}; give an object with prompt")
            found.append((what, row))
    if not found:
        form = "a prompt on each line" if is_text else 'lines of {"prompt": "..."}'
        raise ValueError(f"{path} holds no prompt; give {form}")
    return found


def item_of(row: dict[str, Any], what: str, index: int) -> Item:
    """A line as an item.

    Args:
        what: the file and the line, for errors.

    Raises:
        ValueError: an unknown key, or a value of another form.
    """
    _require_known(row, FIELDS, what)
    if "prompt" not in row:
        raise ValueError(f"{what} has no prompt")
    prompt = row["prompt"]
    if not _is_words(prompt):
        raise ValueError(f"{what}: invalid prompt {prompt!r}: expected words")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise ValueError(
            f"{what}: prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are accepted"
        )
    categories = row.get("categories", [])
    if not isinstance(categories, list) or not all(map(_is_words, categories)):
        raise ValueError(f"{what}: invalid categories {categories!r}: expected a list of strings")
    questions = _questions_of(row.get("questions", []), what) or general_question(prompt)
    item = Item(f"{index:05d}", prompt, tuple(categories), {"questions": questions}, _size_of(row.get("size"), what))
    try:
        read_questions(item)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return item


def _require_known(row: dict[str, Any], known: Sequence[str], what: str) -> None:
    for name in row:
        if name not in known:
            raise ValueError(f"{what}: {name} is not known; known are {', '.join(known)}")


def _is_words(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _size_of(size: Any, what: str) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= LARGEST for side in sides):
        raise ValueError(
            f"{what}: invalid size {size!r}: expected pixels of a side from 1 to {LARGEST}, or two of them"
        )
    return sides[0], sides[1]


def _questions_of(questions: Any, what: str) -> list[dict[str, Any]]:
    """The questions in the form of `read_questions`; one without an id has its number, from 1."""
    if not isinstance(questions, list):
        raise ValueError(f"{what}: invalid questions {questions!r}: expected a list")
    return [_question_of(one, f"{what}: question {number}", str(number)) for number, one in enumerate(questions, 1)]


def _question_of(question: Any, what: str, number: str) -> dict[str, Any]:
    row = {"question": question} if isinstance(question, str) else question
    if not isinstance(row, dict) or not _is_words(row.get("question")):
        raise ValueError(f"{what} is {question!r}: expected a string, or an object with question")
    _require_known(row, QUESTION_FIELDS, what)
    if not isinstance(row.get("parents", []), list):
        raise ValueError(f"{what}: invalid parents {row['parents']!r}: expected a list of ids")
    expected = row.get("expected", "yes")
    for word in expected if isinstance(expected, list) else [expected]:
        if word not in ("yes", "no"):
            raise ValueError(f"{what}: invalid expected {word!r}: expected yes or no")
    return {"id": number, **row}
