"""Lists and searches the words that a model knows, and completes words as they are typed. Opens no model."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from leanlens.reason.nearest import categories, correct, count_edits, nearest, other_names
from leanlens.reason.words import LANGUAGES, SIGNS, known_things
from leanlens.scenes.describe import STYLE_PHRASES
from leanlens.scenes.icons import PARTS

# Kind of an entry -> table of languages/en.toml, in the order in which they follow the things.
TABLES = {
    "color": "colors", "background": "backgrounds", "pattern": "patterns", "ground": "grounds", "sky": "skies",
    "style": "styles", "size": "sizes", "number": "numbers", "relation": "relations",
}  # fmt: skip
DIRECTIONS = ("vertical", "horizontal")  # in the table of patterns, but not patterns
MAX_COUNTED = 6  # the highest number in captions of scenes
COMPLETED = ("thing", "color", "style", "background", "pattern")  # kinds to suggest
SHORTEST_TYPO, LONG = 4, 5  # letters from which one letter, or two, may be wrong


@dataclass(frozen=True)
class Entry:
    """A word that a prompt can use.

    Attributes:
        name: as captions have it.
        kind: thing, or one of TABLES.
        category: of a thing, such as animal, food, vehicle; otherwise the kind.
        others: synonyms, sorted.
    """

    name: str
    kind: str
    category: str
    others: tuple[str, ...] = ()

    def matches(self, text: str) -> bool:
        """Whether the name or a synonym has a word that starts with `text`, or ends with it."""
        return any(_has(name, text) for name in (self.name, self.category, *self.others))


@cache
def entries(library: str = "common") -> tuple[Entry, ...]:
    """All words known to a model that was trained on a library: things by category, then colours and the rest."""
    kinds = categories()
    names = [name for name in known_things(library) if name not in SIGNS]
    things = [Entry(name, "thing", kinds[name], other_names(name)) for name in sorted(names)]
    things += [Entry(name, "thing", "sign", other_names(name) if name in kinds else ()) for name in SIGNS]
    things.sort(key=lambda entry: (entry.category, entry.name))
    return (*things, *_entries_of_tables(library))


def _entries_of_tables(library: str) -> Iterator[Entry]:
    table = tomllib.loads((LANGUAGES / "en.toml").read_text(encoding="utf-8"))
    styles = tomllib.loads(PARTS[library].read_text(encoding="utf-8"))["styles"]
    for kind, section in TABLES.items():
        for name, phrases in table[section].items():
            if (kind == "number" and not (name.isdigit() and int(name) <= MAX_COUNTED)) or name in DIRECTIONS:
                continue
            if kind == "style" and name not in styles:
                continue
            said = STYLE_PHRASES[name] if kind == "style" else name
            yield Entry(said, kind, kind, tuple(sorted({phrase for phrase in phrases if phrase != said.lower()})))


def search(text: str, library: str = "common") -> list[Entry]:
    """Find entries by name, by the beginning of a word in a name, or by a hyponym."""
    text = " ".join(text.lower().split())
    found = [entry for entry in entries(library) if entry.matches(text)]
    near = nearest(text)
    if near is not None and near.same and all(entry.name != near.concept for entry in found):
        found = [entry for entry in entries(library) if entry.kind == "thing" and entry.name == near.concept] + found
    if not found and (meant := correct(text)):
        return search(meant, library)
    return sorted(found, key=lambda entry: text not in (entry.name, *entry.others))


def complete(prefix: str, limit: int = 8, library: str = "common") -> list[str]:
    """Names that start with `prefix`, then names with such a word; fuzzy matches if there are none.

    At most `limit`, each thing once; the caption's own name is preferred over a synonym.

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"invalid limit {limit}: expected 1 or more")
    typed = " ".join(prefix.lower().split())
    if not typed:
        return []
    terms = _terms(library)
    found = _ranked((name for name in terms if name.startswith(typed)), library)
    if len(found) < limit:
        within = f" {typed}"
        found |= {
            meant: name
            for meant, name in _ranked((name for name in terms if within in name), library).items()
            if meant not in found
        }
    if not found and len(typed) >= SHORTEST_TYPO:
        found = _ranked((name for name in terms if _begins_nearly(name, typed)), library)
    return list(found.values())[:limit]


def _ranked(names: Iterable[str], library: str) -> dict[str, str]:
    """Meaning -> its best name: the one in captions before synonyms, short ones before long ones."""
    terms = _terms(library)
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (not terms[name][1], len(name), name)):
        found.setdefault(terms[name][0], name)
    return found


@cache
def _terms(library: str) -> Mapping[str, tuple[str, bool]]:
    """Every name -> kind and name of its meaning, and whether it is the name in captions."""
    found: dict[str, tuple[str, bool]] = {}
    kept = [entry for entry in entries(library) if entry.kind in COMPLETED]
    for entry in kept:
        found.setdefault(entry.name, (f"{entry.category}:{entry.name}", True))
    for entry in kept:
        for name in entry.others:
            found.setdefault(name, (f"{entry.category}:{entry.name}", False))
    return found


def _begins_nearly(name: str, typed: str) -> bool:
    """Whether one letter is wrong, missing or extra, or two from five letters on, but not the first."""
    most = 1 if len(typed) < LONG else 2
    if name[:most] != typed[:most] or len(name) < len(typed) - most:
        return False
    return any(count_edits(typed, name[: len(typed) + more], most) <= most for more in range(-most, most + 1))


def _has(name: str, text: str) -> bool:
    name = name.lower()
    return name.startswith(text) or f" {text}" in name or (len(text) > 3 and name.endswith(text))
