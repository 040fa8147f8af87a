"""Rewrites a call's prompts with the reasoner that a user gave the pipeline."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from leanlens.pipeline.reasoned import Ask, Reasoned

_SEEDS = 2**64


class PromptReasoner(Protocol):
    """The protocol of the reasoners in `leanlens.reason`; `source` is a name and version."""

    source: str

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]: ...


PromptRewriter = Callable[[list[str]], list[str]] | PromptReasoner


def reads_each_image(reasoner: PromptRewriter | None) -> bool:
    """Whether it rewrites the prompt anew for each image; a function rewrites it once for all images of a prompt."""
    return isinstance(getattr(reasoner, "source", None), str)


def rewrite_prompts(
    reasoner: PromptRewriter | None,
    prompts: list[str],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    size: tuple[int, int],
    starts_from_an_image: bool,
) -> list[Reasoned]:
    """Rewrite prompts; returns a record for each.

    Args:
        reasoner: the pipeline's reasoner, or a function from prompts to prompts.
        prompts: one for each image if `reads_each_image`.
        generator: as the pipeline's call has it; what a prompt leaves open is chosen by its initial seed, which counts
            up where one generator serves all images, and by 0, 1 and so on without one.
        size: height and width, pixels.
        starts_from_an_image: a reasoner leaves such prompts alone, a function does not.

    Raises:
        ValueError: there is no reasoner, or a function does not return a string for each prompt.
    """
    if reasoner is None:
        raise ValueError(
            "enable_reasoner needs a reasoner; set pipeline.reasoner to leanlens.reason.reasoner_of_model('nano'), "
            "or to a function from a list of prompts to a list of prompts"
        )
    if not reads_each_image(reasoner):
        return _of_function(reasoner, prompts)
    asker: Any = reasoner
    if starts_from_an_image:
        why = "the image starts from another"
        return [Reasoned(original=text, prompt=text, source=asker.source, left_alone=why) for text in prompts]
    height, width = size
    asks = [Ask(text, seed, width, height) for text, seed in zip(prompts, _seeds(generator, prompts), strict=True)]
    return list(asker(asks))


def _of_function(function: Any, prompts: list[str]) -> list[Reasoned]:
    given = list(function(prompts))
    if len(given) != len(prompts) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"reasoner gave {str(given)[:80]} for {len(prompts)} prompts; it has to give a text for each")
    name = getattr(function, "__name__", type(function).__name__)
    return [Reasoned(original=text, prompt=new, source=name) for text, new in zip(prompts, given, strict=True)]


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, prompts: list[str]) -> list[int]:
    if isinstance(generator, Sequence):
        return [generator[index % len(generator)].initial_seed() for index in range(len(prompts))]
    first = 0 if generator is None else generator.initial_seed()
    return [(first + index) % _SEEDS for index in range(len(prompts))]
