"""Prompts in varied phrasing, written from known facts: what `faithfulness.py` asks.

A `Wish` is what somebody wants, and the prompt that says so in one of many ways. The phrasings were collected without a
look at any parser's rules. Words, numbers, colours and their order vary beyond the templates: about one prompt in 30
has a typing error, one in ten a correction or a negation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from leanlens.scenes.icons import COLORS, Library
from leanlens.scenes.names import add_article, pluralize, read_vocabulary
from leanlens.scenes.scene import GROUND_COLORS, PLAIN_COLORS, SKY_COLORS

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SUPPORTS = ("table", "stool", "shelf", "crate", "pedestal")
SHAPES = ("circle", "square", "hexagon", "diamond")
KIN = {
    "red": ("scarlet", "crimson"), "blue": ("navy", "dark blue"), "yellow": ("golden",), "purple": ("violet",),
    "grey": ("gray", "silver"), "green": ("dark green", "lime green"), "turquoise": ("teal",), "pink": ("hot pink",),
}  # fmt: skip
EVERYDAY = {  # as people call them, where it is one
    "pair of scissors": "scissors", "pair of socks": "socks", "pair of glasses": "glasses", "pair of jeans": "jeans",
    "pair of sunglasses": "sunglasses", "pair of headphones": "headphones", "bunch of grapes": "grapes",
    "portion of french fries": "french fries", "pair of cherries": "cherries",
}  # fmt: skip
STYLES = {
    "noto": ("in a rounded cartoon style", "rounded cartoon style", "as a rounded cartoon"),
    "twemoji": ("in clean vector style", "clean vector art", "as a clean vector graphic"),
    "fluent-emoji-flat": ("in flat style", "flat design", "as a flat illustration"),
    "fluent-3d": ("in glossy 3D", "glossy 3d style", "as a glossy 3D render"),
    "fxemoji": ("in a simple geometric style", "simple geometric style", "drawn in simple geometric style"),
}
STRINGS = (
    "OPEN", "Hello", "50% off", "Don't panic", "red car", "two dogs", "Gate 7", "no entry", "Café", "B & B", "24/7",
    "Fish and chips", "Mind the gap", "On the left", "Happy birthday, Tom!", "ICE CREAM", "A-1", "#42", "left",
    "Grüezi", "the end", "LOST CAT", "blue background", "№ 5", "Yes/No", "3 for 2", "Wi-Fi: free", "sign", "¡Hola!",
    "Über uns",
)  # fmt: skip
QUOTES = ('"{}"', '"{}"', '"{}"', "'{}'", "“{}”", "‘{}’", "«{}»", "„{}“")
BOARDS = ("sign", "label")

FRAMES = (
    "{}", "{}", "{}", "{}", "a picture of {}", "please draw {}", "can you make {}?", "i'd like {} please",
    "show me {}", "{}, please", "image: {}", "hey, {} would be great", "give me {}", "generate an image with {}",
    "i need {} for my website", "Could I have {}?", "draw {} for my kid", "we want {}",
    "a little picture with {} in it", "let me see {}", "would you paint {} for me?", "just {}",
    "only {}, nothing else", "{} and that's it", "{}. thanks!", "an illustration showing {}", "drawing of {}",
    "how about {}", "pls draw {}", "there should be {}", "make it {}", "imagine {}", "my favourite: {}",
    "I am looking for {}", "sticker: {}", "{}!!", "hi there, draw me {} :)", "{} - nothing more",
    "today I want to see {}", "is it possible to get {}?",
)  # fmt: skip
ONE_COLORED = (
    "a {c} {n}", "a {c} {n}", "a {c} {n}", "{c} {n}", "one {c} {n}", "a {n} in {c}", "a {c}-coloured {n}",
    "a {n} that is {c}", "a {n}, {c}", "a single {c} {n}", "a {n} painted {c}", "the {c} {n}", "a {n} ({c})",
    "a {n} of {c} color", "my {c} {n}",
)  # fmt: skip
ONE_PLAIN = ("a {n}", "a {n}", "a {n}", "{n}", "one {n}", "a single {n}", "the {n}", "1 {n}", "some {n}", "a cute {n}")
SEVERAL_COLORED = (
    "{k} {c} {s}", "{k} {c} {s}", "{k} {c} {s}", "{k} {s} in {c}", "{k} {s}, all {c}", "{k} {s} that are {c}",
    "{c} {s}, {k} of them", "{k} {s}, all of them {c}", "exactly {k} {c} {s}", "{k} {c}-coloured {s}", "{c} {s} ({k})",
)  # fmt: skip
SEVERAL_PLAIN = (
    "{k} {s}", "{k} {s}", "{k} {s}", "{k} {s} in a row", "exactly {k} {s}", "{s}, {k} of them", "{k} {s} side by side",
    "a group of {k} {s}", "the {k} {s}", "{s} ({k})", "{k} different {s}", "a row of {k} {s}", "{k} cute {s}",
)  # fmt: skip
PAIRS = (
    "{a} and {b}", "{a} and {b}", "{a} and {b}", "{a}, {b}", "{a} & {b}", "{a} + {b}", "{a} plus {b}", "{a} with {b}",
    "{a} as well as {b}", "both {a} and {b}", "{a} next to {b}", "{a} beside {b}", "{a} along with {b}", "{a}; {b}",
    "{a} together with {b}", "{a} near {b}", "{a} close to {b}", "{a}, and also {b}", "{a} by {b}",
)  # fmt: skip
TRIPLES = (
    "{a}, {b} and {c}", "{a}, {b}, {c}", "{a} and {b} and {c}", "{a} with {b} and {c}", "three things: {a}, {b}, {c}",
    "{a}, {b}, and {c}", "{a} plus {b} plus {c}",
)  # fmt: skip
RELATIONS = {
    "left of": (
        "{a} to the left of {b}", "{a} left of {b}", "{a} on the left side of {b}",
        "{a} on the left, {b} on the right", "to the left of {b} there is {a}", "{b} with {a} on its left",
        "left: {a}, right: {b}", "{b}, and left of it {a}", "{b} on the right and {a} on the left",
        "on the left {a}, on the right {b}", "{b} to the right of {a}", "{b} right of {a}",
        "{a} at the left, {b} at the right", "there is {a} on the left and {b} on the right",
    ),
    "above": (
        "{a} above {b}", "{a} over {b}", "{a} hovering over {b}", "{a} at the top, {b} at the bottom", "{b} below {a}",
        "{b} with {a} above it", "{b} beneath {a}", "{b} underneath {a}", "top: {a}, bottom: {b}", "{b} under {a}",
        "above {b} is {a}", "{a} up above {b}", "{a} on top and {b} below it", "{a} floating above {b}",
    ),
    "on": (
        "{a} on {b}", "{a} on top of {b}", "{a} standing on {b}", "{a} sitting on {b}", "{a} placed on {b}",
        "{b} with {a} on top", "on {b} there is {a}", "{a} resting on {b}",
    ),
    "inside": (
        "{a} in {b}", "{a} inside {b}", "{a} within {b}", "{b} with {a} inside", "{a} in the middle of {b}",
        "{a} inside of {b}", "inside {b} there is {a}",
    ),
    "in front of": (
        "{a} in front of {b}", "{b} behind {a}", "{a} standing in front of {b}", "in front of {b} there is {a}",
        "{b} with {a} in front of it", "{a} right in front of {b}",
    ),
}  # fmt: skip
TEXTS = (
    "{board} that says {q}", "{board} saying {q}", "{board} with the text {q}", "{board} reading {q}", "{board}: {q}",
    "{board} with {q} on it", "{board} with {q} written on it", "{board} with the words {q}", "{board} that reads {q}",
    "{board}, it says {q}", "the text {q} on {board}", "{q} written on {board}", "write {q} on {board}", "{board} {q}",
)  # fmt: skip
BACKGROUNDS = {
    "plain": (
        " on a {a} background", " on {a}", ", {a} background", " against a {a} backdrop",
        " with a plain {a} background", ". The background is {a}.", ", background: {a}", ". {a} background please",
        " in front of a plain {a} background", " on a solid {a} background", ", background should be {a}",
        ", on a {a} backdrop", " against {a}", ", everything on {a}", " with {a} background", ". Background {a}.",
        ", the background plain {a}",
    ),
    "gradient": (
        " on a gradient from {a} to {b}", ". The background fades from {a} to {b}.", ", gradient background {a} to {b}",
        " with a {a} to {b} gradient behind", ", background: gradient from {a} to {b}",
    ),
    "ground": (
        " on {a} ground under a {b} sky", ", {a} ground, {b} sky", ". The ground is {a}, the sky is {b}.",
        " with a {b} sky and {a} ground", ", {b} sky above {a} ground", " standing on {a} ground, the sky {b}",
    ),
    "dots": (
        " on a {a} background with {b} dots", ", {b} polka dots on a {a} background", ". Background: {a} with {b} dots",
    ),
    "stripes": (
        " on {a} and {b} stripes", ", background with {a} and {b} stripes", ", striped background in {a} and {b}",
        " in front of {a} and {b} stripes",
    ),
    "checks": (
        " on a checkered background in {a} and {b}", ", {a} and {b} checks in the background",
        ", background: checkerboard of {a} and {b}",
    ),
}  # fmt: skip
NEGATIONS = (", no {n}", " without a {n}", ", but no {n} please", ", don't draw a {n}", ". No {n}.", " and no {n}")
COLOR_CORRECTIONS = (
    "a {x} {n}... no, a {c} {n}", "a {x} {n}? no, make it {c}", "a {n}, not {x} but {c}",
    "a {x} {n}, sorry, i mean a {c} {n}",
)  # fmt: skip
THING_CORRECTIONS = (
    "not a {x} but {np}", "a {x}? no, {np}", "a {x}, no wait, {np}", "{np} instead of a {x}", "{np}, not a {x}",
)  # fmt: skip
COUNT_CORRECTIONS = ("{x} {s}? no, {k} {s}", "{x} {s}, no wait, {k}", "{k} {s}, not {x}", "not {x} but {k} {s}")


@dataclass(frozen=True)
class Wanted:
    """Alike things: a concept, how it is called here, how many, and its colour or None."""

    concept: str
    name: str
    count: int = 1
    color: str | None = None
    color_word: str = ""
    board: str = ""


@dataclass(frozen=True)
class Wish:
    """What a prompt states, and the prompt.

    Attributes:
        relation: (index, word, index) of two things, or None.
        background: (kind, colours), or None.
        unwanted: concepts that the prompt says are not to be there.
        kinds: of phrasing, for counts by kind.
    """

    things: tuple[Wanted, ...]
    prompt: str = ""
    relation: tuple[int, str, int] | None = None
    background: tuple[str, tuple[str, ...]] | None = None
    style: str | None = None
    texts: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    kinds: tuple[str, ...] = field(default=())


def wishes(num: int, seed: int, library: Library) -> list[Wish]:
    """`num` wishes with their prompts, no two alike."""
    lot, found = Random(f"wishes {seed}"), {}
    while len(found) < num:
        wish = _wish(lot, library)
        found.setdefault(wish.prompt, wish)
    return list(found.values())


def _wish(lot: Random, library: Library) -> Wish:
    names = [name for name, one in library.concepts.items() if one.category not in ("shape", "support", "sign")]
    kind = lot.choices(
        ("one", "several", "pair", "related", "triple", "text", "text and thing", "correction"),
        (20, 15, 18, 25, 6, 8, 4, 4),
    )[0]
    wish, core = _CORES[kind](lot, names)
    wish = replace(wish, kinds=(kind,))
    if lot.random() < 0.03:
        wish, core = _mistyped(wish, core, lot)
    if lot.random() < 0.35:
        wish, core = _with_background(wish, core, lot)
    if lot.random() < 0.15:
        wish, core = _with_style(wish, core, lot)
    if lot.random() < 0.06 and kind != "correction":
        wish, core = _with_negation(wish, core, names, lot)
    whole = core.startswith(
        ("write ", "there ", "on ", "in ", "to ", "left:", "top:", "above ", "inside ", "not ", "three things")
    )
    prompt = core if whole else lot.choice(FRAMES).format(core)
    prompt = prompt.replace("..", ".").replace(".?", "?").replace(".,", ",").replace(". please", " please")
    if lot.random() < 0.3:
        prompt = prompt[0].upper() + prompt[1:]
    return replace(wish, prompt=prompt)


def _thing(lot: Random, names: Sequence[str], count: int = 1, colored: float = 0.5) -> Wanted:
    concept = lot.choice(names)
    others = read_vocabulary()["synonyms"].get(concept, ())
    name = lot.choice(others) if others and lot.random() < 0.4 else concept
    if lot.random() >= colored:
        return Wanted(concept, name, count)
    color = lot.choice(list(COLORS))
    word = lot.choice(KIN[color]) if color in KIN and lot.random() < 0.12 else color
    return Wanted(concept, name, count, color, word)


def _number(lot: Random, count: int) -> str:
    forms = [WORDS[count], WORDS[count], str(count)]
    forms += {2: ["a couple of"], 3: ["a trio of"], 6: ["half a dozen"]}.get(count, [])
    return lot.choice(forms)


def noun_phrase(lot: Random, thing: Wanted, beside: bool = False) -> str:
    """A thing in words, in one of many ways; `beside` others without a comma, so that its colour is its own."""
    if thing.count > 1:
        number = _number(lot, thing.count)
        forms = [form for form in (SEVERAL_COLORED if thing.color else SEVERAL_PLAIN) if not (beside and "," in form)]
        if " of" in number or number.startswith("half"):
            forms = ["{k} {c} {s}" if thing.color else "{k} {s}"]
        return lot.choice(forms).format(k=number, c=thing.color_word, s=pluralize(thing.name))
    if thing.name in EVERYDAY and lot.random() < 0.5:
        name = EVERYDAY[thing.name]
        return f"{thing.color_word} {name}" if thing.color else name
    forms = [form for form in (ONE_COLORED if thing.color else ONE_PLAIN) if not (beside and "," in form)]
    text = lot.choice(forms).format(c=thing.color_word, n=thing.name)
    return add_article(text[2:]) if text.startswith("a ") else text


def _one(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    thing = _thing(lot, names)
    return Wish((thing,)), noun_phrase(lot, thing)


def _several(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    thing = _thing(lot, names, lot.choices((2, 3, 4, 5, 6, 7), (30, 30, 18, 12, 8, 2))[0])
    return Wish((thing,)), noun_phrase(lot, thing)


def _some(lot: Random, names: Sequence[str], num: int) -> list[Wanted]:
    """Things of different concepts; now and then one of them is several, or the concepts are one in several colours."""
    found: list[Wanted] = []
    while len(found) < num:
        count = lot.choice((2, 3)) if lot.random() < 0.15 else 1
        thing = _thing(lot, names, count)
        if thing.concept not in {one.concept for one in found}:
            found.append(thing)
    if num == 2 and lot.random() < 0.1:
        colors = lot.sample(list(COLORS), 2)
        found = [replace(found[0], count=1, color=color, color_word=color) for color in colors]
    return found


def _pair(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    things = _some(lot, names, 2)
    a, b = (noun_phrase(lot, thing, beside=True) for thing in things)
    return Wish(tuple(things)), lot.choice(PAIRS).format(a=a, b=b)


def _triple(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    things = _some(lot, names, 3)
    a, b, c = (_short(lot, thing) for thing in things)
    return Wish(tuple(things)), lot.choice(TRIPLES).format(a=a, b=b, c=c)


def _related(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    word = lot.choices(tuple(RELATIONS), (35, 30, 14, 10, 11))[0]
    a, b = _some(lot, names, 2)
    if word in ("on", "inside"):
        a = replace(a, count=1)
        b = _thing(lot, SUPPORTS if word == "on" else SHAPES, colored=0.7)
    text = lot.choice(RELATIONS[word]).format(a=_short(lot, a), b=_short(lot, b))
    return Wish((a, b), relation=(0, word, 1)), text


def _short(lot: Random, thing: Wanted) -> str:
    """A noun phrase that others can stand beside: nothing follows the noun."""
    color = f"{thing.color_word} " if thing.color else ""
    if thing.count > 1:
        return f"{lot.choice((WORDS[thing.count], str(thing.count)))} {color}{pluralize(thing.name)}"
    phrase = f"{color}{thing.name}"
    return lot.choice(
        (add_article(phrase), add_article(phrase), add_article(phrase), phrase, f"one {phrase}", f"the {phrase}")
    )


def _text(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    concept = lot.choice(BOARDS)
    board = replace(_thing(lot, (concept,), colored=0.4), board=concept)
    string = lot.choice(STRINGS)
    quotes = [one for one in QUOTES if not ("'" in string and "'" in one)]
    phrase = add_article(f"{board.color_word} {concept}" if board.color else concept)
    return Wish((board,), texts=(string,)), lot.choice(TEXTS).format(board=phrase, q=lot.choice(quotes).format(string))


def _text_and_thing(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    wish, text = _text(lot, names)
    thing = _thing(lot, names)
    if text.startswith("write "):
        return replace(wish, things=(*wish.things, thing)), f"{_short(lot, thing)}, and {text}"
    joined = lot.choice(("{b}, and {a}", "{b} and {a}", "{b} next to {a}", "{b} with {a}"))
    return replace(wish, things=(*wish.things, thing)), joined.format(a=text, b=_short(lot, thing))


def _correction(lot: Random, names: Sequence[str]) -> tuple[Wish, str]:
    kind = lot.choice(("color", "thing", "count"))
    if kind == "color":
        thing = _thing(lot, names, colored=1.0)
        thing = replace(thing, color_word=str(thing.color))
        other = lot.choice([color for color in COLORS if color != thing.color])
        text = lot.choice(COLOR_CORRECTIONS).format(x=other, n=thing.name, c=thing.color)
        return Wish((thing,)), text
    if kind == "thing":
        thing, other = _some(lot, names, 2)
        if other.concept == thing.concept:
            return _correction(lot, names)
        text = lot.choice(THING_CORRECTIONS).format(x=other.name, np=_short(lot, thing))
        return Wish((thing,), unwanted=(other.concept,)), text
    thing = _thing(lot, names, lot.randint(2, 5), colored=0.0)
    other_count = lot.choice([count for count in range(2, 6) if count != thing.count])
    text = lot.choice(COUNT_CORRECTIONS).format(x=WORDS[other_count], k=WORDS[thing.count], s=pluralize(thing.name))
    return Wish((thing,)), text


_CORES = {
    "one": _one, "several": _several, "pair": _pair, "related": _related, "triple": _triple, "text": _text,
    "text and thing": _text_and_thing, "correction": _correction,
}  # fmt: skip


def _mistyped(wish: Wish, core: str, lot: Random) -> tuple[Wish, str]:
    """A letter of a long name left out, doubled or exchanged with the next; none where no name is long enough."""
    names = [
        thing.name for thing in wish.things if len(thing.name) >= 6 and " " not in thing.name and thing.name in core
    ]
    if not names:
        return wish, core
    name = lot.choice(names)
    at = lot.randrange(2, len(name) - 1)
    wrong = lot.choice(
        (
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        )
    )
    if wrong == name:
        return wish, core
    return replace(wish, kinds=(*wish.kinds, "typo")), core.replace(name, wrong, 1)


def _with_background(wish: Wish, core: str, lot: Random) -> tuple[Wish, str]:
    kind = lot.choices(tuple(BACKGROUNDS), (60, 10, 14, 5, 6, 5))[0]
    if kind == "ground":
        colors = (lot.choice(list(GROUND_COLORS)), lot.choice(list(SKY_COLORS)))
    else:
        colors = tuple(lot.sample(list(PLAIN_COLORS), 1 if kind == "plain" else 2))
    text = lot.choice(BACKGROUNDS[kind]).format(a=colors[0], b=colors[-1])
    text = text.replace(" a orange", " an orange")
    return replace(wish, background=(kind, colors), kinds=(*wish.kinds, f"{kind} background")), core + text


def _with_style(wish: Wish, core: str, lot: Random) -> tuple[Wish, str]:
    style = lot.choice(tuple(STYLES))
    words = lot.choice(STYLES[style])
    joint = ", " if core.endswith(("background", "please")) or lot.random() < 0.6 else " "
    core = f"{core.removesuffix('.')}{joint}{words}"
    return replace(wish, style=style, kinds=(*wish.kinds, "style")), core


def _with_negation(wish: Wish, core: str, names: Sequence[str], lot: Random) -> tuple[Wish, str]:
    other = lot.choice([name for name in names if name not in {thing.concept for thing in wish.things}])
    text = (
        lot.choice(NEGATIONS).format(n=other).replace(" a a", " an a").replace(" a o", " an o").replace(" a e", " an e")
    )
    return replace(wish, unwanted=(*wish.unwanted, other), kinds=(*wish.kinds, "negation")), core.removesuffix(
        "."
    ) + text
