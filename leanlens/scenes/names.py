"""Selects the concepts that may be drawn and maps icon names to natural words and categories.

Sources: the categories of the reference emoji set, the CLDR annotations of those emoji, and vocabulary.toml.
"""

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

VOCABULARY = Path(__file__).parent / "vocabulary.toml"


@dataclass(frozen=True)
class Concept:
    """A thing that can be drawn.

    Attributes:
        name: as in "a ...", singular, lower case: "pair of scissors".
        category: one word, such as animal, food, vehicle; "shape" and "support" are the drawn ones.
        plural: as in "three ...".
        synonyms: other true names.
        keywords: loosely related words, from the CLDR annotations.
        icon: name in the reference emoji set.
    """

    name: str
    category: str
    plural: str
    synonyms: tuple[str, ...] = ()
    keywords: tuple[str, ...] = field(default=(), compare=False)
    icon: str = ""


@cache
def read_vocabulary() -> dict[str, Any]:
    """The tables of vocabulary.toml."""
    return tomllib.loads(VOCABULARY.read_text(encoding="utf-8"))


def select_concepts(categories: dict[str, list[str]], keywords: dict[str, list[str]]) -> list[Concept]:
    """The concepts worth drawing, sorted by name.

    Args:
        categories: category of the reference emoji set -> icon names.
        keywords: icon name -> CLDR keywords; a name without an entry has none.
    """
    tables = read_vocabulary()
    wanted = [(icon, kind) for source, kind in tables["categories"].items() for icon in categories.get(source, [])]
    known = {icon for icons in categories.values() for icon in icons}
    wanted = [(icon, kind) for icon, kind in wanted if is_allowed(icon, keywords.get(icon, []))]
    wanted += [(icon, kind) for kind, icons in tables["extra"].items() for icon in icons if icon in known]
    found = [make_concept(icon, kind, keywords.get(icon, [])) for icon, kind in dict(wanted).items()]
    return sorted(found, key=lambda concept: concept.name)


def is_allowed(icon: str, keywords: list[str]) -> bool:
    """False for flags, letters, clock faces, skin tones, faiths, harm and near-duplicates."""
    drop = read_vocabulary()["drop"]
    if icon in drop["names"] or len(icon.split("-")) > 4:
        return False
    plain = re.sub(r"\d+", "", icon)  # tone1 to tone5
    if any(f"-{word}-" in f"-{plain}-" for word in drop["words"]):
        return False
    return not set(drop["keywords"]) & set(keywords)


def make_concept(icon: str, kind: str, keywords: list[str]) -> Concept:
    """The concept of an icon name, with its everyday name and its category."""
    tables = read_vocabulary()
    name = tables["rename"].get(icon, icon.replace("-", " "))
    category = next((kind for kind, icons in tables["lists"].items() if icon in icons), kind)
    synonyms = tuple(tables["synonyms"].get(name, ()))
    return Concept(name, category, pluralize(name), synonyms, tuple(sorted(keywords)), icon)


def pluralize(name: str) -> str:
    """The plural of a noun phrase; the head of "pair of ..." is the word before "of"."""
    irregular = read_vocabulary()["plurals"]
    if name in irregular:
        return irregular[name]
    for joint in (" of ", " with "):
        if joint in name:
            head, tail = name.split(joint, 1)
            return f"{pluralize(head)}{joint}{tail}"
    last = name.split(" ")[-1]
    if last != name and last in irregular:
        return name.removesuffix(last) + irregular[last]
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("tomato", "potato", "volcano", "mango")) else f"{name}s"


def add_article(phrase: str) -> str:
    """ "a" or "an" before a phrase, by sound for the words that need it."""
    sounds_like_consonant = phrase.startswith(("uni", "ufo", "one", "eu"))
    sounds_like_vowel = phrase.startswith(("hour", "suv")) or (phrase[0] in "aeiou" and not sounds_like_consonant)
    return f"{'an' if sounds_like_vowel else 'a'} {phrase}"


def squeeze(name: str) -> str:
    """A name reduced to letters and digits, as some sets spell it."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
