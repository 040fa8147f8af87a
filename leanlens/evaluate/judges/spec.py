"""Reads what `--judge` says: at which endpoint a vision model is asked, how fast, and at what price."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from leanlens.endpoint import Endpoint
from leanlens.endpoint_spec import FORM, parse_endpoint
from leanlens.evaluate.judges.families import family_notes

_NAME = re.compile(r"([^=+,:/\\#\s][^=+,:/\\#\n]{0,59})=(?=https?://)")


@dataclass(frozen=True)
class JudgeSpec:
    """A judge of the evaluation.

    Attributes:
        name: for tables, unique in an evaluation.
    """

    name: str
    endpoint: Endpoint


def parse_judges(texts: Sequence[str]) -> list[JudgeSpec]:
    """The judges of an evaluation, each with a name of its own.

    Raises:
        ValueError: as `parse_judge`, or two judges have the same name.
    """
    found = [parse_judge(text) for text in texts]
    names = [spec.name for spec in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two judges have the name {name!r}; give each its own, such as --judge first=URL#MODEL")
    return found


def parse_judge(text: str) -> JudgeSpec:
    """Read one judge, such as `http://localhost:8000/v1#Qwen/Qwen3-VL-8B-Instruct,concurrency=8`.

    The name of a judge without one is that of its model, without the owner.

    Raises:
        ValueError: it is not of the form [NAME=]FORM, or a setting is unknown or invalid.
    """
    match = _NAME.match(text)
    endpoint = parse_endpoint(text[match.end() :] if match else text, f"judge {text!r}", f"[NAME=]{FORM}")
    return JudgeSpec(match[1].strip() if match else endpoint.model.rsplit("/", 1)[-1], endpoint)


def judge_notes(endpoints: Sequence[Endpoint]) -> list[str]:
    """What a report must say of its judges: which family judged, and whom that may favour."""
    return family_notes(endpoint.model for endpoint in endpoints)
