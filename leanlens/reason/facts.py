"""Lists the facts of a caption, and puts facts set by the caller into a meaning.

A fact's key identifies it within the prompt ("color 1"), so an editor can send it back with another value. Values are
parsed by the English grammar.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import compress

from leanlens.pipeline.reasoned import Fact
from leanlens.reason.choose import SIDE_CELLS, STYLES, Plan
from leanlens.reason.meaning import Backdrop, Meaning, Noun, Written
from leanlens.reason.parse import parse
from leanlens.reason.words import tag, words_of
from leanlens.reason.write import SIZES, noun_words
from leanlens.scenes.describe import NUMBERS, STYLE_PHRASES
from leanlens.scenes.icons import COLORS

RELATION_WORDS = ("left of", "right of", "above", "below", "on", "inside", "in front of", "behind", "beside", "between")
MAX_DIGITS = 3  # digits of the number in a key
MAX_COUNT = 12  # of one thing


def list_facts(meaning: Meaning, plan: Plan) -> tuple[Fact, ...]:
    """List all facts of the caption: for each thing, then relations, background, style, texts."""
    found: list[Fact] = []
    for index, placed in enumerate(plan.things):
        number, noun = meaning.key("thing", index), placed.noun
        found.append(Fact(key=f"thing {number}", kind="thing", value=_named(noun), label=noun_words(placed)))
        said = noun.number is not None
        found.append(
            Fact(key=f"number {number}", kind="number", value=str(placed.count), label=str(placed.count), stated=said)
        )
        if noun.color:
            found.append(Fact(key=f"color {number}", kind="color", value=noun.color, label=noun.color))
        size, place = placed.size, placed.place
        if placed.count == 1 or noun.size:
            found.append(
                Fact(key=f"size {number}", kind="size", value=size, label=SIZES[size], stated=noun.size is not None)
            )
        if placed.count == 1 or noun.side:
            found.append(
                Fact(key=f"place {number}", kind="place", value=place, label=place, stated=noun.side is not None)
            )
    found += _relations(meaning, plan)
    background = background_phrase(plan.background)
    found.append(
        Fact(
            key="background",
            kind="background",
            value=background,
            label=background,
            stated=meaning.background is not None,
        )
    )
    style = meaning.other_style or STYLE_PHRASES[plan.style]
    stated = bool(meaning.style or meaning.other_style)
    found.append(Fact(key="style", kind="style", value=style, label=style, stated=stated))
    for index, text in enumerate(meaning.texts):
        key = f"text {meaning.key('text', index)}"
        found.append(Fact(key=key, kind="text", value=text.string, label=f'"{text.string}"'))
    return tuple(found)


def _named(noun: Noun) -> str:
    return " ".join([*noun.adjectives, noun.name])


def _relations(meaning: Meaning, plan: Plan) -> list[Fact]:
    found = []
    for index, (a, word, b) in enumerate(meaning.relations):
        label = f"{_short(plan, a)} {word} {_short(plan, b)}"
        key = f"relation {meaning.key('relation', index)}"
        found.append(Fact(key=key, kind="relation", value=word, label=label))
    return found


def _short(plan: Plan, index: int) -> str:
    noun = plan.things[index].noun
    return f"{noun.color} {noun.name}" if noun.color else noun.name


def background_phrase(background: Backdrop) -> str:
    """Describe a background in words that the grammar can parse."""
    first, second = background.colors[0], background.colors[-1]
    turned = "vertical" if background.turned else "horizontal"
    return {
        "plain": f"{first}",
        "gradient": f"{turned} gradient from {first} to {second}",
        "ground": f"{first} ground, {second} sky",
        "dots": f"{first} with {second} dots",
        "stripes": f"{turned} {first} and {second} stripes",
        "checks": f"{first} and {second} checks",
    }[background.kind]


# -- fixed facts


def fix(meaning: Meaning, fixed: Mapping[str, str]) -> dict[str, str]:
    """Put facts set by the caller into a meaning; returns those that had an effect.

    A key of a thing, relation or text that the prompt does not have has no effect. Removing facts does not renumber the
    keys of the others.

    Raises:
        ValueError: an unknown key, or an invalid value for it.
    """
    applied = {}
    for key, value in sorted(fixed.items(), key=lambda item: _order(item[0])):
        kind, _, number = key.partition(" ")
        if (
            kind not in _FIXES
            or (number and not (number.isdecimal() and len(number) <= MAX_DIGITS))
            or (bool(number) != (kind not in ("background", "style")))
        ):
            raise ValueError(
                f"unknown fixed fact {key[:40]!r}: expected {', '.join(_FIXES)}, numbered except for the last two"
            )
        if _FIXES[kind](meaning, int(number or 1) - 1, value.strip()):
            applied[key] = value
    counts = {"thing": len(meaning.things), "relation": len(meaning.relations), "text": len(meaning.texts)}
    meaning.keys = {kind: list(range(1, count + 1)) for kind, count in counts.items()}
    _keep_texts(meaning, [bool(text.string) for text in meaning.texts])
    for index in sorted((at for at, noun in enumerate(meaning.things) if not noun.name), reverse=True):
        _drop(meaning, index)
    if not meaning.things:
        meaning.unsure = meaning.unsure or "nothing is left of it"
    return applied


def _order(key: str) -> tuple[int, str]:
    """Sort key that puts things last, because removing one changes the numbers of others."""
    return (key.startswith("thing"), key)


def _fix_thing(meaning: Meaning, index: int, value: str) -> bool:
    if not 0 <= index < len(meaning.things):
        return False
    if not value:
        meaning.change(index, name="")
        return True
    old = meaning.things[index]
    if value == _named(old):
        return True
    nouns = _read(value).things
    if len(nouns) != 1:
        raise ValueError(f"invalid fixed thing {value[:40]!r}: expected one thing, such as red apple")
    (noun,) = nouns
    number, color, size = noun.number or old.number, noun.color or old.color, noun.size or old.size
    meaning.things[index] = replace(noun, number=number, plural=old.plural, color=color, size=size, side=old.side)
    return True


def _fix_number(meaning: Meaning, index: int, value: str) -> bool:
    number = (
        int(value)
        if value.isdecimal() and len(value) <= MAX_DIGITS
        else NUMBERS.index(value.lower())
        if value.lower() in NUMBERS
        else 0
    )
    if 0 <= index < len(meaning.things) and number and number == meaning.things[index].count:
        meaning.change(index, number=number)
        return True
    if value and not 1 <= number <= MAX_COUNT:
        raise ValueError(f"invalid fixed number {value[:40]!r}: expected 1 to {MAX_COUNT}")
    if not 0 <= index < len(meaning.things):
        return False
    meaning.change(index, number=number or None, plural=number > 1)
    return True


def _fix_color(meaning: Meaning, index: int, value: str) -> bool:
    color = None
    if value:
        tags = tag(value, words_of("en"))
        named = [one.get("color") for one in tags if one.has("color")]
        if len(named) != len([one for one in tags if not one.has("and")]) or not named:
            raise ValueError(f"invalid fixed color {value[:40]!r}: expected one of {', '.join(COLORS)}")
        color = " and ".join(named)
    if not 0 <= index < len(meaning.things):
        return False
    meaning.change(index, color=color)
    return True


def _fix_size(meaning: Meaning, index: int, value: str) -> bool:
    if value and value not in SIZES:
        raise ValueError(f"invalid fixed size {value[:40]!r}: expected {', '.join(SIZES)}")
    if not 0 <= index < len(meaning.things):
        return False
    meaning.change(index, size=value or None)
    return True


def _fix_place(meaning: Meaning, index: int, value: str) -> bool:
    side = value
    if value and value not in SIDE_CELLS:
        sides = [one.get("side") for one in tag(value, words_of("en")) if one.has("side")]
        if len(sides) != 1:
            raise ValueError(f"invalid fixed place {value[:40]!r}: expected {', '.join(SIDE_CELLS)}")
        side = sides[0]
    if not 0 <= index < len(meaning.things):
        return False
    if side != meaning.things[index].side:
        meaning.change(index, side=side or None)
        meaning.decided_places.add(index)
    return True


def _fix_relation(meaning: Meaning, index: int, value: str) -> bool:
    if value and value not in RELATION_WORDS:
        raise ValueError(f"invalid fixed relation {value[:40]!r}: expected {', '.join(RELATION_WORDS)}")
    if not 0 <= index < len(meaning.relations):
        return False
    a, _, b = meaning.relations[index]
    word = value or "beside"
    meaning.relations[index] = (b, "in front of", a) if word == "behind" else (a, word, b)
    return True


def _fix_text(meaning: Meaning, index: int, value: str) -> bool:
    if len(value) > 80:
        raise ValueError(f"invalid fixed text {value[:40]!r}: expected at most 80 characters, got {len(value)}")
    if not 0 <= index < len(meaning.texts):
        return False
    meaning.texts[index] = Written(value, meaning.texts[index].on if value else None)
    return True


def _fix_background(meaning: Meaning, index: int, value: str) -> bool:
    if not value:
        meaning.background = None
        return True
    ways = (f"on {value}", f"{value} background", value)
    found = next((background for way in ways if (background := _read(way).background)), None)
    if found is None:
        kinds = "a colour, stripes, dots, checks, a gradient, or ground and sky"
        raise ValueError(f"invalid fixed background {value[:40]!r}: expected {kinds}")
    meaning.background = found
    return True


def _fix_style(meaning: Meaning, index: int, value: str) -> bool:
    if not value:
        meaning.style = meaning.other_style = None
        return True
    read = _read(f"{value} style") if not _read(value).style else _read(value)
    if read.style is None and read.other_style is None:
        styles = ", ".join(STYLE_PHRASES[name] for name in STYLES)
        raise ValueError(f"invalid fixed style {value[:40]!r}: expected one of {styles}")
    meaning.style, meaning.other_style = read.style, read.other_style
    return True


_FIXES = {
    "thing": _fix_thing, "number": _fix_number, "color": _fix_color, "size": _fix_size, "place": _fix_place,
    "relation": _fix_relation, "text": _fix_text, "background": _fix_background, "style": _fix_style,
}  # fmt: skip


def _read(value: str) -> Meaning:
    words = words_of("en")
    return parse(tag(value, words), words)


def _drop(meaning: Meaning, index: int) -> None:
    """Remove a thing with its relations and texts."""

    def moved(at: int) -> int:
        return at - (at > index)

    del meaning.things[index], meaning.keys["thing"][index]
    stays = [index not in (a, b) for a, _, b in meaning.relations]
    meaning.relations = [
        (moved(a), word, moved(b)) for (a, word, b), kept in zip(meaning.relations, stays, strict=True) if kept
    ]
    meaning.keys["relation"] = list(compress(meaning.keys["relation"], stays))
    _keep_texts(meaning, [text.on != index for text in meaning.texts])
    meaning.texts = [Written(text.string, None if text.on is None else moved(text.on)) for text in meaning.texts]


def _keep_texts(meaning: Meaning, stays: list[bool]) -> None:
    meaning.texts = list(compress(meaning.texts, stays))
    meaning.keys["text"] = list(compress(meaning.keys["text"], stays))
