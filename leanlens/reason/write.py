"""Writes a plan as a caption, in the words of `scenes/describe.py`, in the order that the model learnt best from.

The order is: the things, the background, texts, relations, then the size and position of each thing. The caption states
nothing that is not in the plan.
"""

from random import Random

from leanlens.reason.choose import Placed, Plan
from leanlens.reason.meaning import Backdrop, Meaning
from leanlens.scenes.describe import NUMBERS, STYLE_PHRASES, join
from leanlens.scenes.names import add_article, pluralize

OPENINGS = (
    "this {style} picture shows {shown}",
    "{styled} illustration shows {shown}",
    "the picture presents {shown}, all of it in {styled} style",
)
RELATIONS = {
    "left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below", "on": "on top of",
    "inside": "inside", "in front of": "in front of", "between": "between",
}  # fmt: skip
ARRANGEMENTS = {
    "row": "side by side, one next to the other",
    "column": "one above the other in a single column",
    "sides": "one on the left and one on the right",
    "group": "in a loose group of several rows",
}
LAST = "nothing else appears in the picture"
SIZES = {"small": "small in the frame", "medium": "of medium size", "large": "large in the frame"}


def write(plan: Plan, meaning: Meaning, seed: int) -> str:
    """Write the caption of a plan."""
    rng = Random(f"words {seed}")
    style = meaning.other_style or STYLE_PHRASES[plan.style]
    shown = join([_full(plan, meaning, index) for index in plan.order])
    sentences = [rng.choice(OPENINGS).format(style=style, styled=add_article(style), shown=shown)]
    sentences.append(background_words(plan.background))
    sentences += [_letters(plan, text.on, text.string) for text in meaning.texts if text.on is not None]
    sentences += [_relation(plan, *row) for row in plan.relations]
    sentences += [_thing(plan, index) for index in plan.order]
    sentences.append(LAST)
    sentences += meaning.triggers  # verbatim
    return " ".join(
        f"{sentence[0].upper()}{sentence[1:]}." if sentence not in meaning.triggers else f"{sentence}."
        for sentence in sentences
    )


def noun_words(placed: Placed, article: str = "a", bare: bool = False) -> str:
    """ "a red apple", "three red apples", "the three red apples"."""
    noun = placed.noun
    before = [*([noun.color] if noun.color else []), *noun.adjectives]
    part = f" {noun.part}" if noun.part and not bare else ""
    if placed.count == 1:
        phrase = " ".join([*before, noun.name])
        return (f"the {phrase}" if article == "the" else add_article(phrase)) + part
    number = NUMBERS[placed.count] if placed.count < len(NUMBERS) else str(placed.count)
    name = noun.name if not noun.known and noun.name.endswith("s") else pluralize(noun.name)
    phrase = " ".join([number, *before, name])
    return (f"the {phrase}" if article == "the" else phrase) + part


def background_words(background: Backdrop) -> str:
    """A sentence on the background."""
    first, second = background.colors[0], background.colors[-1]
    ends = ("on the left", "on the right") if background.turned else ("at the top", "at the bottom")
    run = "vertical" if background.turned else "horizontal"
    return {
        "plain": f"a single even {first} tone fills the background",
        "gradient": f"the background fades smoothly from {first} {ends[0]} to {second} {ends[1]}",
        "ground": f"the ground is {first} and the sky above it is {second}",
        "dots": f"the background is {first} with regular {second} dots",
        "stripes": f"the background has {run} stripes in {first} and {second}",
        "checks": f"the background is a checkered pattern of {first} and {second}",
    }[background.kind]


def _noun(plan: Plan, index: int, article: str = "a") -> str:
    return noun_words(plan.things[index], article, bare=article == "the")


def _letters(plan: Plan, on: int, string: str) -> str:
    verb = "says" if plan.things[on].count == 1 else "say"
    return f'{_noun(plan, on, "the")} {verb} "{_quotable(string)}"'


def _quotable(string: str) -> str:
    """A text that is safe between quotation marks."""
    return string.replace('"', "'")


def _full(plan: Plan, meaning: Meaning, index: int) -> str:
    strings = [text.string for text in meaning.texts if text.on == index]
    noun = _noun(plan, index)
    return noun + "".join(
        f' that {"says" if plan.things[index].count == 1 else "say"} "{_quotable(string)}"' for string in strings
    )


def _relation(plan: Plan, a: int, word: str, b: int) -> str:
    verb = "is" if plan.things[a].count == 1 else "are"
    return f"{_noun(plan, a, 'the')} {verb} {RELATIONS[word]} {_noun(plan, b, 'the')}"


def _thing(plan: Plan, index: int) -> str:
    placed = plan.things[index]
    subject = _noun(plan, index, "the")
    if placed.count > 1:
        size = f"{SIZES[placed.size]} and " if placed.noun.size else ""
        where = f" {placed.place}" if placed.noun.side else ""
        return f"{subject} are {size}arranged {ARRANGEMENTS[placed.arrangement]}{where}"
    return f"{subject} is {SIZES[placed.size]} and sits {placed.place}"
