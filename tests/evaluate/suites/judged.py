"""Judgements as question judges make them, for tests."""

from leanlens.evaluate.suite import Judgement
from leanlens.score.protocol import Failed

MISSING = Judgement({"questions": Failed("the image could not be drawn")})


def judgement(answers: dict[str, str | None], parents: dict[str, list[str]] | None = None) -> Judgement:
    """The judgement for answers "yes", "no" or None for a failed one, with dependencies in the order of the answers."""
    values: dict[str, float] = {}
    failed = {}
    for name, answer in answers.items():
        above = (parents or {}).get(name, [])
        if answer is None or any(parent in failed for parent in above):
            failed[name] = "timeout" if answer is None else "parent"
        else:
            values[name] = float(answer == "yes" and all(values[parent] > 0 for parent in above))
    raw = {
        "answers": {name: answer or {"failed": "timeout"} for name, answer in answers.items()},
        "values": values,
        "met": {name: value > 0 for name, value in values.items()},
        "failed": failed,
        "num": len(answers),
    }
    score = sum(values.values()) / len(values) if values else Failed("no question was answered")
    return Judgement({"questions": score}, raw)


def probable(values: dict[str, float | None], unseen: dict[str, float] | None = None) -> Judgement:
    """The judgement for probabilities of expected answers, None for a failed question."""
    known = {name: value for name, value in values.items() if value is not None}
    raw = {
        "answers": {name: "yes" if value is not None else {"failed": "timeout"} for name, value in values.items()},
        "values": known,
        "met": {name: value >= 0.5 for name, value in known.items()},
        "failed": {name: "timeout" for name in values if name not in known},
        "num": len(values),
        "unseen": unseen or {},
    }
    return Judgement({"questions": sum(known.values()) / len(known) if known else Failed("no answer")}, raw)
