"""Maps a word to a known thing: as a synonym, as a hyponym, as a typo of either, or as merely similar.

It reads words.txt, which `runs/nearest_words.py` generates with the model's text encoder. It needs no model itself, so
every API gives the same answer.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from leanlens.scenes.names import pluralize

WORDS = Path(__file__).with_name("words.txt")
SHORTEST_TYPO = 4  # letters; shorter words are similar to too many others
LONG = 7  # letters from which a word may have two errors


@dataclass(frozen=True)
class Near:
    """The known thing nearest to a word.

    Attributes:
        concept: name of the thing, as captions have it.
        nearness: 1 for another name of the thing; else the cosine between the two in the text encoder's features, less
            what all words have in common: 0.2 is hardly near, 0.8 is the same word in another form.
        same: the word is a synonym or hyponym of the thing, so the thing can replace it.
    """

    concept: str
    nearness: float
    same: bool


@dataclass(frozen=True)
class WordList:
    """The content of words.txt: thing -> category; synonym -> thing; other word -> (thing, nearness, whether it is a
    kind of it); and words without a thing."""

    categories: dict[str, str]
    names: dict[str, str]
    near: dict[str, tuple[str, str, bool]]
    others: frozenset[str]


def nearest(word: str) -> Near | None:
    """Find the known thing nearest to a word; None for a word that is no noun, or is near no thing.

    For a phrase that is not in the table, the head noun counts ("hot air balloon": balloon), and `same` is False.
    """
    spelled = _plain(word)
    found = _find(spelled)
    if found is not None or not re.search(r"[ -]", spelled):
        return found
    head = _head(spelled)
    return Near(head.concept, round(head.nearness * 0.9, 2), False) if head is not None else None


def correct(word: str) -> str | None:
    """The known name, or a word of one, that a word is a typo of, in the same grammatical number.

    None for an existing word, for one that resembles no name, and for an ambiguous one.
    """
    spelled = _plain(word)
    if len(spelled) < SHORTEST_TYPO or not spelled.isascii() or is_word(spelled) or spelled in _typed_names(False):
        return None
    found = _like(spelled)
    if found is None and spelled.endswith("s"):
        single = _like(spelled[:-1])
        return pluralize(single) if single else None
    return found


def _like(spelled: str) -> str | None:
    """The unique name with the fewest edits: one, or two from seven letters on."""
    most = 1 if len(spelled) < LONG else 2
    letters, edits = _letters(spelled), most
    best: list[str] = []
    for name, own in _typed_names(" " in spelled).items():
        apart = abs(len(name) - len(spelled))
        if apart > edits or (letters ^ own).bit_count() > 2 * edits or not _starts_like(spelled, name):
            continue
        found = count_edits(spelled, name, edits)
        if found > edits or not _is_slip(spelled, name, found):
            continue
        best, edits = ([name] if found < edits else [*best, name]), found
    meant = {read_words().names.get(name, name) for name in best}
    return min(best, key=lambda name: (abs(len(name) - len(spelled)), name)) if len(meant) == 1 else None


def _starts_like(spelled: str, name: str) -> bool:
    """Whether the start matches; the first letter is rarely wrong, least of all in short words."""
    return spelled[0] == name[0] or (len(spelled) >= LONG and spelled[1:3] == name[1:3])


def _is_slip(spelled: str, name: str, edits: int) -> bool:
    """Whether the edits are likely typing errors: two never change the first letter, and in a short word no consonant
    replaces another, because that is usually a real word missing from the table."""
    if edits > 1:
        return spelled[0] == name[0]
    if len(spelled) >= LONG or len(spelled) != len(name) or sorted(spelled) == sorted(name):
        return True
    return all({one, two} <= set("aeiouy") for one, two in zip(spelled, name, strict=True) if one != two)


def is_word(word: str) -> bool:
    """Whether a lower-case word exists in English in any form, as far as the table knows."""
    words = read_words()
    forms = (*_forms(word), *_stems(word))
    return any(form in words.names or form in words.near or form in words.others for form in forms)


def count_edits(one: str, two: str, most: int) -> int:
    """The Damerau-Levenshtein distance (optimal string alignment) of two words; `most` + 1 if it is larger."""
    while one and two and one[0] == two[0]:
        one, two = one[1:], two[1:]
    while one and two and one[-1] == two[-1]:
        one, two = one[:-1], two[:-1]
    before: list[int] = []
    last = list(range(len(two) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, other in enumerate(two, 1):
            cost = min(last[column] + 1, line[column - 1] + 1, last[column - 1] + (letter != other))
            if row > 1 and column > 1 and letter == two[column - 2] and one[row - 2] == other:
                cost = min(cost, before[column - 2] + 1)
            line.append(cost)
        if min(line) > most:
            return most + 1
        before, last = last, line
    return min(last[-1], most + 1)


def other_names(concept: str) -> tuple[str, ...]:
    """The synonyms of a thing, sorted; without its hyponyms."""
    return tuple(sorted(name for name, thing in read_words().names.items() if thing == concept and name != concept))


def categories() -> dict[str, str]:
    """Known thing -> category, one word such as animal, food, vehicle."""
    return dict(read_words().categories)


@cache
def read_words() -> WordList:
    """The table of words, read once."""
    categories: dict[str, str] = {}
    names: dict[str, str] = {}
    near: dict[str, tuple[str, str, bool]] = {}
    lines = [line for line in WORDS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for line in lines[:-1]:
        thing, category, others, kinds, words = line.split("\t")
        categories[thing] = category
        names[thing] = thing
        names |= dict.fromkeys(filter(None, others.split(",")), thing)
        near |= {cell[:-2]: (thing, cell[-2:], True) for cell in kinds.split(",") if cell}
        near |= {cell[:-2]: (thing, cell[-2:], False) for cell in words.split(",") if cell}
    return WordList(categories, names, near, frozenset(lines[-1].rpartition("\t")[2].split(",")))


def _plain(word: str) -> str:
    """Normalised to lower case, straight apostrophes and single blanks, without surrounding punctuation."""
    return re.sub(r"\s+", " ", word.lower().replace("’", "'")).strip(" \t\n.,;:!?\"'()")


def _find(spelled: str) -> Near | None:
    words, forms = read_words(), _forms(spelled)
    for form in forms:  # names first: "taxis" is the plural of taxi, although it is a word itself
        if form in words.names:
            return Near(words.names[form], 1.0, True)
    for form in forms:
        if form in words.near:
            thing, hundredths, kind = words.near[form]
            return Near(thing, int(hundredths) / 100, kind)
    return None


def _head(spelled: str) -> Near | None:
    """The result for the last word, or the one before "of", "with", "in" and the like."""
    front = re.split(r" (?:of|with|in|on|at|for|from|to) ", spelled)[0]
    return _find(re.split(r"[ -]", front)[-1])


def _forms(spelled: str) -> list[str]:
    """A name unchanged, with blanks for hyphens, and with its last word in the singular."""
    found = [spelled]
    if "-" in spelled:
        found.append(spelled.replace("-", " "))
    for form in list(found):
        found += _singulars(form)
    if spelled.endswith("'s"):
        found.append(spelled[:-2])
    return found


IRREGULAR = {
    "mice": "mouse", "geese": "goose", "men": "man", "women": "woman", "children": "child", "people": "person",
    "feet": "foot", "teeth": "tooth", "oxen": "ox", "cacti": "cactus", "octopi": "octopus", "leaves": "leaf",
    "shelves": "shelf", "wolves": "wolf", "scarves": "scarf", "loaves": "loaf", "knives": "knife", "calves": "calf",
    "wives": "wife", "elves": "elf", "halves": "half", "thieves": "thief", "hippopotami": "hippopotamus",
    "fungi": "fungus", "snowmen": "snowman", "firemen": "fireman", "policemen": "policeman", "lice": "louse",
    "dwarves": "dwarf", "hooves": "hoof", "lives": "life", "selves": "self",
}  # fmt: skip


def _singulars(name: str) -> list[str]:
    """Possible singulars of a name: "mice", "loaves of bread", "boxes", "berries", "cars"."""
    for joint in (" of ", " with "):
        if joint in name:
            head, tail = name.split(joint, 1)
            return [f"{one}{joint}{tail}" for one in _singulars(head)]
    start, _, last = name.rpartition(" ")
    start = f"{start} " if start else ""
    if last in IRREGULAR:
        return [start + IRREGULAR[last]]
    if len(last) < 3 or not last.endswith("s") or last.endswith("ss"):
        return []
    found = [last[:-1]]
    if last.endswith("ies"):
        found.insert(0, last[:-3] + "y")
    elif last.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found.insert(0, last[:-2])
    return [start + one for one in found]


def _stems(word: str) -> list[str]:
    """Possible base forms of a verb or adjective: "painted", "running", "prettier", "slowly"."""
    found = []
    for ending in ("ing", "ed", "er", "est", "ly", "y", "ish", "like", "less", "ness", "'s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word.removesuffix(ending)
            found += [stem, f"{stem}e"]
            if stem[-1] == stem[-2]:
                found.append(stem[:-1])
            if stem[-1] == "i":
                found.append(f"{stem[:-1]}y")
    return found


@cache
def _typed_names(several: bool) -> dict[str, int]:
    """Names of one word, and longer words of things' own names; or names of several -> the letters in them, as bits."""
    names = set(read_words().names)
    if several:
        kept = {name for name in names if " " in name}
    else:
        kept = {name for name in names if " " not in name and len(name) >= 3}
        kept |= {part for thing in read_words().categories for part in thing.split() if len(part) > SHORTEST_TYPO}
    return {name: _letters(name) for name in sorted(kept) if name.isascii()}


def _letters(word: str) -> int:
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) & 31)
    return bits
