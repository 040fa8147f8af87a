"""The embedded reasoner, for models trained on the captions of `scenes/describe.py`: rules without weights."""

import re
import time
from collections.abc import Iterator, Sequence
from functools import partial

from leanlens.pipeline.reasoned import Ask, Reasoned, Unknown
from leanlens.reason import lexicon
from leanlens.reason.choose import Contradiction, choose
from leanlens.reason.facts import fix, list_facts
from leanlens.reason.language import find_language
from leanlens.reason.meaning import Meaning
from leanlens.reason.nearest import nearest
from leanlens.reason.parse import parse
from leanlens.reason.weights import without_weights
from leanlens.reason.words import QUOTED, known_things, tag, words_of
from leanlens.reason.write import LAST, write

SOURCE = "scenes 1"
MAX_CHARACTERS = 1_000  # of a prompt; the captions of the model have half of that
MAX_UNREAD = 5  # unknown words that a prompt may have, plus two for each known thing
MAX_UNKNOWN = 12  # unknown words listed in a record
# Minimum sentences, words, and words per sentence of a dense caption.
LEAST_SENTENCES, LEAST_WORDS, LEAST_LENGTH = 3, 25, 5.0
_REQUEST = re.compile(
    r"\b(please|draw|want|wants|can you|could you|make me|make it|give me|thanks|hi|hello|i'd|i|me|my)\b", re.IGNORECASE
)


class SceneReasoner:
    """Parses free text in common phrasings and writes a caption in the style that the model was trained on.

    Args:
        library: the things that the model was trained on, "common" or "everyday".
    """

    source = SOURCE

    def __init__(self, library: str = "common") -> None:
        self.library = library

    def __call__(self, asks: Sequence[Ask]) -> list[Reasoned]:
        """One record per ask, in order."""
        return [self._reason(ask) for ask in asks]

    def _reason(self, ask: Ask) -> Reasoned:
        began = time.perf_counter()
        answer = self._read(ask)
        return answer.model_copy(update={"seconds": time.perf_counter() - began})

    def _read(self, ask: Ask) -> Reasoned:
        if len(ask.prompt) > MAX_CHARACTERS:  # parsing time grows faster than linearly
            why = f"it is longer than {MAX_CHARACTERS:,} characters"
            return Reasoned(original=ask.prompt, prompt=ask.prompt, source=self.source, left_alone=why)
        language = find_language(_without(ask.prompt, ask.triggers))
        words = words_of(language)
        left_alone = partial(Reasoned, original=ask.prompt, prompt=ask.prompt, language=language, source=self.source)
        if (language == "en" and is_dense(ask.prompt)) or f"{LAST.capitalize()}." in ask.prompt:
            return left_alone(left_alone="it is a dense caption already")
        tags = tag(without_weights(ask.prompt), words, ask.triggers)
        meaning = parse(tags, words)
        if language != "en":
            keep_english(meaning)
        keep_known(meaning, known_things(self.library))
        fixed = fix(meaning, ask.fixed)
        left_alone = partial(left_alone, fixed=fixed)
        unknown = tuple(unknown_words(meaning, known_things(self.library), language))
        known = sum(noun.known for noun in meaning.things)
        if not meaning.unsure and sum(not tag.readings for tag in tags) > MAX_UNREAD + 2 * known:
            meaning.unsure = "most of its words are not understood"
        if meaning.unsure:
            return left_alone(left_alone=meaning.unsure, not_understood=unknown)
        try:
            plan = choose(meaning, ask.seed, ask.width, ask.height)
        except Contradiction as error:
            return left_alone(left_alone=f"it asks for {error}", not_understood=unknown)
        return Reasoned(
            original=ask.prompt,
            prompt=write(plan, meaning, ask.seed),
            facts=list_facts(meaning, plan),
            fixed=fixed,
            not_understood=unknown,
            language=language,
            source=self.source,
        )


def _without(prompt: str, triggers: Sequence[str]) -> str:
    """The prompt without the trigger words of LoRAs, which do not belong to any language."""
    for trigger in triggers:
        prompt = prompt.replace(trigger, " ") if trigger else prompt
    return prompt


def is_dense(prompt: str) -> bool:
    """Whether a prompt is already a dense caption: several whole sentences, none of them a request."""
    prompt = QUOTED.sub("", prompt)
    sentences = [part.split() for part in re.split(r"[.!?]+(?:\s|$)", prompt) if part.strip()]
    words = sum(map(len, sentences))
    if len(sentences) < LEAST_SENTENCES or words < LEAST_WORDS or words / len(sentences) < LEAST_LENGTH:
        return False
    return not _REQUEST.search(prompt)


def keep_english(meaning: Meaning) -> None:
    """Drop unknown words, and unknown things if others remain: captions are English."""
    for index, noun in enumerate(meaning.things):
        meaning.unread += [*noun.adjectives, *noun.part.split()]
        meaning.change(index, adjectives=(), part="")
    english = {*lexicon.concepts(), *lexicon.emoji().values()}
    kept = [index for index, noun in enumerate(meaning.things) if noun.known or noun.name in english]
    if kept:
        meaning.unread += [noun.name for index, noun in enumerate(meaning.things) if index not in kept]
        meaning.keep(kept)


def keep_known(meaning: Meaning, things: Sequence[str]) -> None:
    """Mark things that the model's library does not have as unknown; they stay in the caption."""
    for index, noun in enumerate(meaning.things):
        if noun.known and noun.name in known_things() and noun.name not in things:
            meaning.change(index, known=False)


def unknown_words(meaning: Meaning, things: Sequence[str], language: str = "en") -> Iterator[Unknown]:
    """The things, attributes and styles that the model does not know, and ignored words.

    Nearest things are given for English words only.
    """
    said = [noun.name for noun in meaning.things if not noun.known]
    said += [word for noun in meaning.things for word in noun.adjectives]
    said += [noun.part for noun in meaning.things if noun.part]
    said += [meaning.other_style] if meaning.other_style else []
    said += [word.lower() for word in meaning.unread if len(word) > 2]
    for word in list(dict.fromkeys(said))[:MAX_UNKNOWN]:
        near = nearest(word) if language == "en" or word in lexicon.concepts() else None
        if near is not None and near.concept not in things:
            near = None
        yield Unknown(word=word, nearest=near.concept if near else None, nearness=near.nearness if near else 0.0)
