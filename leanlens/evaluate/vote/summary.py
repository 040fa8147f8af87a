"""Describes votes as text: the ranking, and how far voters can be relied on."""

import math
from collections.abc import Sequence

from leanlens.evaluate.bradley_terry import Ranking, rank
from leanlens.evaluate.vote.plan import QUESTIONS
from leanlens.evaluate.vote.raters import Rater, agreement_of, ballots_of, check_raters
from leanlens.evaluate.vote.votes import Vote


def without_failing(votes: Sequence[Vote]) -> list[Vote]:
    """The votes of voters who do not fail the checks."""
    failed = {one.voter for one in check_raters(votes) if one.failed}
    return [one for one in votes if one.voter not in failed]


def describe_votes(votes: Sequence[Vote], seed: int = 0) -> str:
    """The ranking by each question as a Markdown table, with agreement, ties and position bias; then the checks.

    Raises:
        ValueError: there are no votes.
    """
    if not votes:
        raise ValueError("there are no votes; all were undone, or all voters fail the checks")
    asked = [question for question in QUESTIONS if ballots_of(votes, question)]
    parts = [_describe_question(votes, question, seed) for question in asked]
    return "\n".join([*parts, describe_raters(check_raters(votes))])


def _describe_question(votes: Sequence[Vote], question: str, seed: int) -> str:
    ranking = rank(ballots_of(votes, question), seed)
    bad = sum(one.choice == "bad" for one in votes if one.kind == "pair" and one.question == question)
    lines = [
        QUESTIONS[question], "", *_table(ranking), "",
        f"{_of(ranking.num, 'vote')} of {_of(ranking.voters, 'voter')} on {_of(ranking.prompts, 'prompt')}; "
        f"{bad} both bad, counted as ties.",
        f"Left image: {_percent(ranking.left_share)} of the decided votes on equal images "
        f"({_percent(ranking.left_low)} to {_percent(ranking.left_high)}).",
    ]  # fmt: skip
    agreement = agreement_of(votes, question)
    if agreement is not None:
        alpha = "" if math.isnan(agreement.alpha) else f"; Krippendorff's alpha {agreement.alpha:.2f}"
        lines.append(
            f"Agreement: {_percent(agreement.share)} of {_of(agreement.num, 'pair')} of votes by two voters on the "
            f"same images{alpha}."
        )
    return "\n".join([*lines, ""])


def _table(ranking: Ranking) -> list[str]:
    rows = []
    for one in ranking.standings:
        wins = f"{_percent(one.win_rate)} ({_percent(one.win_low)} to {_percent(one.win_high)})"
        strength = f"{one.strength:+.2f} ({one.low:+.2f} to {one.high:+.2f})"
        rows.append(f"| {one.model.replace('|', '/')} | {wins} | {strength} | {_ranks(one.best, one.worst)} |")
    return ["| model | win rate | strength, log odds | rank |", "|---|---|---|---|", *rows]


def _ranks(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best} to {worst}"


def describe_raters(raters: Sequence[Rater]) -> str:
    """How all voters did on gold pairs and repeats, and who fails."""
    golds, repeats = sum(one.golds for one in raters), sum(one.repeats for one in raters)
    lines = [
        f"Gold pairs: {sum(one.gold for one in raters)} of {golds} right. "
        f"Repeats: {sum(one.same for one in raters)} of {repeats} answered as the first time."
    ]
    for one in raters:
        if one.failed:
            lines.append(
                f"{one.voter} fails the checks: {one.gold} of {one.golds} gold pairs right, {one.same} of "
                f"{one.repeats} repeats the same, {_of(one.num, 'vote')}; --exclude-failing leaves them out."
            )
    return "\n".join(lines) + "\n"


def _of(num: int, what: str) -> str:
    return f"{num} {what}{'' if num == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
