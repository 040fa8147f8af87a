"""Writes a brief caption (6 to 14 words) and a dense one (60 to 120) from the ground truth of a scene.

Both are strictly true: everything they say is in the ground truth, or follows from its boxes by rules in this file.
"""

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import NamedTuple

from leanlens.scenes.layout import Frame
from leanlens.scenes.names import add_article, pluralize, read_vocabulary
from leanlens.scenes.scene import Scene, Thing
from leanlens.scenes.sources import STYLES

BRIEF_WORDS = (6, 14)
DENSE_WORDS = (60, 120)
DENSE_AIM = 66  # words up to which optional sentences are added

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
RELATION_PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "higher up than"),
    "below": ("below", "underneath", "lower down than"),
    "on": ("on", "on top of", "resting on"),
    "inside": ("inside", "within", "in the middle of"),
    "in front of": ("in front of", "partly covering"),
}
SPEECH = ("reading", "that says", "that reads", "with the text")
STYLE_PHRASES = {style.name: style.phrase for style in STYLES}
LETTERS = {
    "bebas-neue": "tall, narrow",
    "fredoka": "rounded, friendly",
    "inter": "plain, bold",
    "permanent-marker": "handwritten",
    "press-start-2p": "blocky pixel",
    "roboto-slab": "bold slab serif",
}


class Caption(NamedTuple):
    """A caption and its template; pass the template as `avoid` to get a different one next time."""

    text: str
    template: str


def brief(scene: Scene, rng: Random, avoid: str = "") -> Caption:
    """A caption of 6 to 14 words: the main content, and sometimes the background or the style."""
    words = _Words(scene, rng)
    for attempt in range(60):
        template = rng.choice(BRIEF_TEMPLATES) if attempt < 40 else BRIEF_TEMPLATES[attempt % len(BRIEF_TEMPLATES)]
        core = words.core(complete=attempt < 20)
        background = words.short_background()
        text = template.format(core=core, background=background, style=words.style, styled=add_article(words.style))
        if template != avoid and BRIEF_WORDS[0] <= len(text.split()) <= BRIEF_WORDS[1]:
            return Caption(_sentence(text), template)
    raise ValueError(f"scene {scene.seed} has no brief caption of {BRIEF_WORDS[0]} to {BRIEF_WORDS[1]} words")


BRIEF_TEMPLATES = (
    "{core}",
    "{core} against {background}",
    "{core}, {style} style",
    "{core} in {styled} style",
    "{styled} picture of {core}",
    "{styled} drawing of {core}",
    "a picture of {core}",
    "an illustration of {core}",
    "an image showing {core}",
    "against {background}: {core}",
    "{styled} image: {core}",
    "there you see {core}",
    "{core}, drawn against {background}",
    "a simple scene with {core}",
    "on display: {core}",
    "{core}, set against {background}",
)


def dense(scene: Scene, rng: Random, avoid: str = "", facts_first: float = 0.0) -> Caption:
    """A caption of 60 to 120 words: every thing with its count and colour, relations, texts, background, style.

    With probability `facts_first`, the background, the texts, and the size and position of each thing come first, so
    that a truncated caption still contains nearly everything.
    """
    words = _Words(scene, rng)
    openings = [at for at in range(len(OPENINGS)) if f"opening {at}" != avoid.split(",")[0]]
    opening = rng.choice(openings)
    shown, background = words.listing(range(len(scene.things))), words.long_background()
    sentences = [OPENINGS[opening].format(shown=shown, style=words.style, styled=add_article(words.style))]
    required = [*words.text_sentences(), background]
    relations = words.relation_sentences()
    rng.shuffle(relations)
    facts = words.thing_sentences()
    optional = [*facts, words.total(), words.canvas(), *words.closing()]
    rng.shuffle(optional)
    order = rng.choice(("relations first", "background first"))
    if facts_first and rng.random() < facts_first:
        order = "facts first"
        rng.shuffle(required)
        facts = [sentence for sentence in facts if not sentence.endswith(" paint")]
        optional.sort(key=lambda sentence: sentence not in facts)
    total = _count([*sentences, *required])
    kept_relations, kept_optional = [], []
    for sentence in relations if order != "facts first" else []:
        if total + _count([sentence]) <= DENSE_WORDS[1] - 12:
            kept_relations.append(sentence)
            total += _count([sentence])
    for sentence in optional:
        wanted = sentence in facts and order == "facts first"
        if (wanted or total < DENSE_AIM + rng.randint(0, 24)) and total + _count([sentence]) <= DENSE_WORDS[1]:
            kept_optional.append(sentence)
            total += _count([sentence])
    middle = [*kept_relations, *required] if order == "relations first" else [*required, *kept_relations]
    text = " ".join(_sentence(sentence) + "." for sentence in [*sentences, *middle, *kept_optional])
    if not DENSE_WORDS[0] <= len(text.split()) <= DENSE_WORDS[1]:
        raise ValueError(
            f"scene {scene.seed} has no dense caption of {DENSE_WORDS[0]} to {DENSE_WORDS[1]} words: {text}"
        )
    return Caption(text, f"opening {opening},{order}")


OPENINGS = (
    "{styled} illustration shows {shown}",
    "this {style} picture shows {shown}",
    "the image, drawn in {styled} style, contains {shown}",
    "drawn in {styled} style, the scene holds {shown}",
    "here is {styled} drawing of {shown}",
    "in {styled} style, the artist has drawn {shown}",
    "we are looking at {styled} scene with {shown}",
    "{styled} composition brings together {shown}",
    "the picture presents {shown}, all of it in {styled} style",
    "what can be seen is {shown}, rendered in {styled} style",
    "an artwork in {styled} style depicts {shown}",
    "{styled} graphic features {shown}",
    "{shown}: that is what this {style} illustration is made of",
    "the subject of this {style} image is quickly told: {shown}",
    "this digital picture, whose look is {style}, shows {shown}",
    "someone made {styled} picture of {shown}",
)


class _Words:
    """Builds the phrases of one caption; each thing keeps the name chosen for it first."""

    def __init__(self, scene: Scene, rng: Random) -> None:
        self.scene, self.rng = scene, rng
        self.style = STYLE_PHRASES[scene.style]
        self.texts = {text.on: text for text in scene.texts}
        self.names = [self._choose_name(thing) for thing in scene.things]

    def _choose_name(self, thing: Thing) -> str:
        others = read_vocabulary()["synonyms"].get(thing.concept, ())
        return self.rng.choice(others) if others and self.rng.random() < 0.25 else thing.concept

    def noun(self, index: int, article: str = "a", size: bool = False) -> str:
        """ "a red apple", "three red apples", "the three red apples"."""
        thing = self.scene.things[index]
        name = self.names[index]
        adjectives = [thing.size] if size and thing.size != "medium" else []
        adjectives += [thing.color] if thing.color else []
        if thing.count == 1:
            phrase = " ".join([*adjectives, name])
            return f"the {phrase}" if article == "the" else add_article(phrase)
        phrase = " ".join([NUMBERS[thing.count], *adjectives, pluralize(name)])
        return f"the {phrase}" if article == "the" else phrase

    def full(self, index: int) -> str:
        """The noun with the text that is written on it."""
        noun = self.noun(index)
        return f'{noun} {self.rng.choice(SPEECH)} "{self.texts[index].string}"' if index in self.texts else noun

    def verb(self, index: int) -> str:
        return "is" if self.scene.things[index].count == 1 else "are"

    def listing(self, indices: range | list[int]) -> str:
        return join([self.full(index) for index in indices])

    def core(self, complete: bool) -> str:
        """The content of a brief caption: a relation, or the things; all of them if `complete`."""
        scene = self.scene
        if len(scene.things) == 1:
            return self.full(0)
        if scene.relations and (self.rng.random() < 0.75 or len(scene.things) > 3):
            a, word, b = self.rng.choice(scene.relations)
            phrase = self.rng.choice(RELATION_PHRASES[word])
            return f"{self.full(a)} {phrase} {self.full(b)}"
        if complete:
            return self.listing(range(len(scene.things)))
        return self.full(self.rng.randrange(len(scene.things)))

    def short_background(self) -> str:
        background = self.scene.background
        first = background.colors[0]
        second = background.colors[-1]
        return {
            "plain": self.rng.choice((f"plain {first}", f"{add_article(first)} background", first)),
            "gradient": self.rng.choice(("a gradient", f"{add_article(first)} gradient", "a smooth gradient")),
            "ground": self.rng.choice((f"{add_article(second)} sky", f"{first} ground and sky")),
            "dots": self.rng.choice((f"{second} dots", "a dotted background")),
            "stripes": self.rng.choice((f"{first} and {second} stripes", "a striped background")),
            "checks": self.rng.choice((f"{first} and {second} checks", "a checkered background")),
        }[background.kind]

    def long_background(self) -> str:
        background = self.scene.background
        first, second = background.colors[0], background.colors[-1]
        ends = ("on the left", "on the right") if background.turned else ("at the top", "at the bottom")
        run = "vertical" if background.turned else "horizontal"
        return self.rng.choice(
            {
                "plain": (
                    f"the background is plain {first}",
                    f"behind everything is a flat {first} backdrop",
                    f"a single even {first} tone fills the background",
                    f"all of it is set against {add_article(first)} background without any texture",
                ),
                "gradient": (
                    f"the background fades smoothly from {first} {ends[0]} to {second} {ends[1]}",
                    f"behind it, {first} {ends[0]} turns gradually into {second} {ends[1]}",
                    f"the backdrop is a soft gradient, {first} {ends[0]} and {second} {ends[1]}",
                ),
                "ground": (
                    f"the ground is {first} and the sky above it is {second}",
                    f"{add_article(second)} sky stretches over {first} ground",
                    f"below the straight horizon lies {first} ground, above it {add_article(second)} sky",
                ),
                "dots": (
                    f"the background is {first} with regular {second} dots",
                    f"{second} dots cover the {first} background",
                    f"behind it is {add_article(first)} backdrop sprinkled evenly with {second} dots",
                ),
                "stripes": (
                    f"the background has {run} stripes in {first} and {second}",
                    f"{run} {first} and {second} stripes fill the background",
                    f"behind it, {run} bands of {first} alternate with bands of {second}",
                ),
                "checks": (
                    f"the background is a checkered pattern of {first} and {second}",
                    f"{first} and {second} squares alternate across the background",
                    f"behind it lies a checkerboard in {first} and {second}",
                ),
            }[background.kind]
        )

    def relation_sentences(self) -> list[str]:
        found = []
        for a, word, b in self.scene.relations:
            phrase = self.rng.choice(RELATION_PHRASES[word])
            subject, target, verb = self.noun(a, "the"), self.noun(b, "the"), self.verb(a)
            forms = [f"{subject} {verb} {phrase} {target}", f"{subject} can be found {phrase} {target}"]
            if word in ("left of", "right of", "above", "below"):
                forms.append(f"{phrase} {target} {verb} {self.noun(a, 'the')}")
            found.append(self.rng.choice(forms))
        return found

    def text_sentences(self) -> list[str]:
        found = []
        for text in self.scene.texts:
            board, letters, quoted = self.noun(text.on, "the"), LETTERS[text.font], f'"{text.string}"'
            found.append(
                self.rng.choice(
                    (
                        f"{board} says {quoted} in {letters} letters",
                        f"{quoted} is written on {board} in {letters} letters",
                        f"in {letters} letters {board} spells out {quoted}",
                        f"{letters} lettering on {board} reads {quoted}",
                    )
                )
            )
        return found

    def thing_sentences(self) -> list[str]:
        """A sentence on the size and position of each thing, or on the arrangement of several."""
        found = []
        for index, thing in enumerate(self.scene.things):
            subject, verb = self.noun(index, "the"), self.verb(index)
            if thing.count == 1:
                place = self.rng.choice(PLACE_FORMS).format(place=place_of(thing.boxes[0], self.scene))
                size = {"small": "small in the frame", "medium": "of medium size", "large": "large in the frame"}
                found.append(f"{subject} {verb} {size[thing.size]} and {place}")
            else:
                found.append(f"{subject} {verb} arranged {arrangement_of(thing.boxes)}")
            if thing.color and thing.category != "sign" and self.rng.random() < 0.5:
                pronoun = "its" if thing.count == 1 else "their"
                found.append(
                    f"{subject} {'stands' if thing.count == 1 else 'stand'} out by {pronoun} {thing.color} paint"
                )
        return found

    def total(self) -> str:
        count = sum(thing.count for thing in self.scene.things)
        if count == 1:
            return self.rng.choice(("there is only one object in the scene", "there is one single object in view"))
        number = NUMBERS[count] if count < len(NUMBERS) else str(count)
        return self.rng.choice(
            (
                f"there are {number} objects in all",
                f"altogether one can count {number} objects",
                f"the total is {number} objects",
            )
        )

    def canvas(self) -> str:
        ratio = self.scene.width / self.scene.height
        shape = "square" if 0.9 < ratio < 1.11 else "wide" if ratio > 1 else "tall"
        return self.rng.choice(
            (f"the format of the picture is {shape}", f"it is composed on a {shape} canvas", f"the frame is {shape}")
        )

    def closing(self) -> list[str]:
        """Closing sentences, which are true of every scene."""
        choose: Callable[[tuple[str, ...]], str] = self.rng.choice
        found = [
            choose(
                (
                    "nothing else appears in the picture",
                    "apart from that there is only the background",
                    "there are no other objects around",
                )
            ),
            choose(
                (
                    "everything fits inside the frame and nothing is cut off at its edges",
                    "all parts stay clear of the borders of the image",
                    "nothing touches the edges of the picture, so that there is some air on every side",
                )
            ),
            choose(
                (
                    "the mood is calm and the composition easy to read at a glance",
                    "the layout is tidy and easy to take in",
                    "clear outlines and simple forms make every part easy to recognise",
                )
            ),
        ]
        if not self.scene.texts:
            found.append(choose(("there is no sign or label in it", "no sign is put up anywhere in the scene")))
        return found


PLACE_FORMS = ("sits {place}", "is placed {place}", "appears {place}", "lies {place}", "can be found {place}")


def place_of(box: Frame, scene: Scene) -> str:
    """The position of the centre of a box, by thirds of the canvas."""
    across = min(2, int(3 * (box[0] + box[2]) / 2 / scene.width))
    down = min(2, int(3 * (box[1] + box[3]) / 2 / scene.height))
    return (
        ("in the upper left", "at the top", "in the upper right"),
        ("on the left", "in the centre", "on the right"),
        ("in the lower left", "at the bottom", "in the lower right"),
    )[down][across]


def arrangement_of(boxes: tuple[Frame, ...]) -> str:
    """The arrangement of several boxes."""
    ordered = sorted(boxes)
    if all(one[2] <= other[0] for one, other in pairwise(ordered)):
        return "side by side, one next to the other"
    ordered = sorted(boxes, key=lambda box: box[1])
    if all(one[3] <= other[1] for one, other in pairwise(ordered)):
        return "one above the other in a single column"
    return "in a loose group of several rows"


def join(phrases: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _count(sentences: list[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)
