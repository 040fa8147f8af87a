"""Rewrites prompts with a language model at an endpoint that the user named; where that fails, they stay as they are.

What the model writes is kept by content, so that nobody is asked twice for a prompt, a seed and a system prompt.

Source: the settings of the reasoner of the released Lens code: temperature 0.7, at most 4,096 tokens.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leanlens.endpoint import Answer, Endpoint, Question, ask_all, read_key
from leanlens.pipeline.reasoned import Ask, Reasoned
from leanlens.reason.rewrite_checks import broken_rules, count_words
from leanlens.reason.system_prompts import SystemPrompt
from leanlens.store import Store, content_key

TEMPERATURE = 0.7
MOST_TOKENS = 4096
DENSE_WORDS = 60  # from which a prompt is drawn as it is
PAUSE = 30.0  # seconds for which an endpoint that cannot be reached is not tried again
_FINAL = re.compile(r"<\|channel\|>\s*final\s*(?:<\|[^|>]*\|>\s*\w*\s*)*<\|message\|>|\bassistantfinal")
_ENDED = re.compile(r"<\|(?:end|return|eot_id|im_end|endoftext)\|>.*", re.DOTALL)
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"\A.*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?```", re.DOTALL)
_LABEL = re.compile(r"\AOutput: *", re.IGNORECASE)
_OUTER = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("「", "」"), ("『", "』"), ("'", "'"), ("`", "`"))


def answers_folder() -> Path:
    """Where rewrites are kept: `~/.cache/leanlens/rewrites`, or below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanlens" / "rewrites"


class EndpointReasoner:
    """Follows `leanlens.reason.Reasoner`.

    Args:
        endpoint: where the model is asked.
        prompt: the system prompt.
        folder: where answers are kept; `answers_folder()` without it.
        fits: whether a text fits the window of the text encoder; not checked without it.

    Raises:
        ValueError: the environment variable of the endpoint's key is not set.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompt: SystemPrompt,
        folder: Path | None = None,
        fits: Callable[[str], bool] | None = None,
    ):
        read_key(endpoint)
        self.endpoint, self.prompt, self.fits = endpoint, prompt, fits
        self.folder = folder or answers_folder()
        self.source = f"endpoint {endpoint.model}, prompt {prompt.label}"
        self._failed: dict[tuple[str, int], Answer] = {}
        self._down: tuple[float, Answer] | None = None

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]:
        """One record per ask, in order; the endpoint is asked for all of them at once."""
        reasons = [_left_alone(ask.prompt) for ask in asks]
        asked = [ask for ask, why in zip(asks, reasons, strict=True) if not why]
        answers = iter(self._answers(asked))
        return [
            self._kept_as_it_is(ask, why) if why else self._record(ask, next(answers))
            for ask, why in zip(asks, reasons, strict=True)
        ]

    def _answers(self, asks: Sequence[Ask]) -> list[Answer]:
        """The answer to each ask: from this process if it failed, else from the folder or the endpoint."""
        if self._down is not None and time.monotonic() - self._down[0] < PAUSE:
            known = {_key(ask): self._down[1] for ask in asks}
        else:
            known = {_key(ask): self._failed[_key(ask)] for ask in asks if _key(ask) in self._failed}
        new = {_key(ask): ask for ask in asks if _key(ask) not in known}
        found = ask_all(self.endpoint, [self._question(ask) for ask in new.values()], self.folder) if new else []
        for ask, answer in zip(new.values(), found, strict=True):
            known[_key(ask)] = self._with_what_was_spent(ask, answer)
            if answer.failure == "connection" or answer.detail.startswith(("HTTP 401", "HTTP 404")):
                self._down = (time.monotonic(), answer)
            elif answer.failure:
                self._failed[_key(ask)] = answer
        return [known[_key(ask)] for ask in asks]

    def _question(self, ask: Ask) -> Question:
        return Question(ask.prompt, self.prompt.text, temperature=TEMPERATURE, max_tokens=MOST_TOKENS, sample=ask.seed)

    def _with_what_was_spent(self, ask: Ask, answer: Answer) -> Answer:
        """An answer with the tokens that it took when it was written, also where it comes from the folder.

        The record of an image is then the same however often it is drawn.
        """
        if answer.failure:
            return answer
        store = Store(self.folder)
        key = content_key(
            kind="rewrite spent", url=self.endpoint.url, model=self.endpoint.model, system=self.prompt.text,
            prompt=ask.prompt, seed=ask.seed, text=answer.text,
        )  # fmt: skip
        if not answer.is_cached:
            store.save_json(key, [answer.prompt_tokens, answer.completion_tokens, answer.cost])
        spent = store.load_json(key)
        if not isinstance(spent, list) or len(spent) != 3:
            return answer
        return Answer(
            text=answer.text, finish_reason=answer.finish_reason, prompt_tokens=spent[0], completion_tokens=spent[1],
            cost=spent[2], seconds=answer.seconds, is_cached=answer.is_cached,
        )  # fmt: skip

    def _record(self, ask: Ask, answer: Answer) -> Reasoned:
        counted = (answer.prompt_tokens, answer.completion_tokens)
        spent: dict[str, Any] = {
            "tokens": counted if any(counted) else None,
            "cost": answer.cost,
            "seconds": answer.seconds,
        }
        if answer.failure:
            reason = f"the endpoint gave no answer ({answer.failure}: {answer.detail})"
            return self._kept_as_it_is(ask, reason).model_copy(update=spent)
        text = clean_answer(answer.text)
        broken = broken_rules(
            ask.prompt, text, finish_reason=answer.finish_reason, fits=self.fits, kept=_triggers_in(ask)
        )
        if broken:
            return self._kept_as_it_is(ask, f"the rewrite was not used: {'; '.join(broken)}").model_copy(update=spent)
        return Reasoned(original=ask.prompt, prompt=" ".join(text.split()), source=self.source, **spent)

    def _kept_as_it_is(self, ask: Ask, why: str) -> Reasoned:
        return Reasoned(original=ask.prompt, prompt=ask.prompt, source=self.source, left_alone=why)


def _key(ask: Ask) -> tuple[str, int]:
    return ask.prompt, ask.seed


def _triggers_in(ask: Ask) -> list[str]:
    return [trigger for trigger in ask.triggers if trigger and trigger in ask.prompt]


def _left_alone(prompt: str) -> str:
    """Why a prompt is not sent; "" for one that is."""
    from leanlens.reason.scenes import is_dense

    words = count_words(prompt)
    if words >= DENSE_WORDS:
        return f"it is dense enough ({words} words; from {DENSE_WORDS} on a prompt is drawn as it is)"
    return "it is dense enough (several whole sentences)" if is_dense(prompt) else ""


def clean_answer(text: str) -> str:
    """The caption in a model's answer, without its thoughts, the marks of its channels, a fence and outer quotes."""
    finals = list(_FINAL.finditer(text))
    text = text[finals[-1].end() :] if finals else text
    text = _THOUGHT_END.sub("", _THOUGHT.sub("", _ENDED.sub("", text))).strip()
    fenced = _FENCE.fullmatch(text)
    text = _LABEL.sub("", (fenced[1] if fenced else text).strip())
    for opening, closing in _OUTER:
        inner = text[1:-1]
        if (
            len(text) > 2
            and text.startswith(opening)
            and text.endswith(closing)
            and not {opening, closing} & set(inner)
        ):
            return inner.strip()
    return text
